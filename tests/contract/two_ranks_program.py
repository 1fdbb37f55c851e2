"""What test_two_ranks.py starts twice: one step of every system on this rank's share of the samples.

python two_ranks_program.py RANK OUT      both ranks meet in OUT; the first leaves OUT/SYSTEM.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from test_every_system import SPECS, Case
from torch import Tensor, nn

from diptych import dist
from diptych.contracts import System

SHARES = ((0, 1, 2, 3), (4, 5))  # samples of each rank: unlike numbers of rows, labels, pixels


def step(case: Case, ids: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """Losses, gradients and buffers after one training step, as the loop takes it."""
    system = case.build().train()
    if type(system).towers is not System.towers:
        with torch.no_grad():  # at BERT's start [CLS] hardly sees its text, and a contrast of texts would be nothing but rounding
            for name, parameter in system.named_parameters():
                if "attention" in name and parameter.ndim > 1:
                    parameter.mul_(8)
    for module in system.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
    batch = case.batch(system, ids)
    counts = dist.sum_counts(batch.counts)
    terms = system(batch)
    torch.stack([term.weight * term.sum / counts[name] for name, term in terms.items()]).sum().backward()
    dist.sum_gradients(list(system.parameters()))
    system.after_step()
    losses = {name: dist.sum_tensor(term.sum.detach().clone()) for name, term in terms.items()}
    gradients = {name: p.grad for name, p in system.named_parameters() if p.grad is not None}
    return {"loss": losses, "gradient": gradients, "buffer": dict(system.named_buffers())}


def main(rank: int, out: Path) -> None:
    torch_dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=len(SHARES))
    for spec in SPECS:
        found = step(Case(spec), SHARES[rank])
        orders = dist.gather(list(found["loss"]))
        assert orders[0] == orders[1], "all ranks return the same objectives in the same order"
        if rank == 0:
            torch.save(found, out / f"{spec}.pt")
    torch_dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
