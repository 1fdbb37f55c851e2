"""What test_contrastive_roots.py starts twice: one step of MoCo with shuffled groups, on this rank's share of the samples.

python moco_ranks_program.py RANK OUT      both ranks meet in OUT and leave OUT/RANK.pt
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as torch_dist
from test_every_system import Case
from torch import Tensor

from diptych import dist

SHARES = (range(4), range(4, 8))


def built(ids: Sequence[int], groups: int):
    case = Case("moco")
    case.recipe = case.recipe.model_copy(update={"system": case.recipe.system.model_copy(update={"groups": groups})})
    system = case.build().train()
    return case, system, case.batch(system, ids)


def step(ids: Sequence[int], groups: int) -> dict[str, Tensor]:
    """Loss, gradients and buffers after two training steps, as the loop takes them."""
    _, system, batch = built(ids, groups)
    count = dist.sum_counts(batch.counts)["contrast"]
    for _ in range(2):
        system.zero_grad()
        term = system(batch)["contrast"]
        (term.sum / count).backward()
        dist.sum_gradients(list(system.parameters()))
        system.after_step()
    gradients = {f"gradient/{name}": p.grad for name, p in system.named_parameters() if p.grad is not None}
    buffers = {f"buffer/{name}": buffer for name, buffer in system.named_buffers()}
    return {"loss": dist.sum_tensor(term.sum.detach().clone()), **gradients, **buffers}


def main(rank: int, out: Path) -> None:
    torch_dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=len(SHARES))
    torch.save(step(SHARES[rank], groups=2), out / f"{rank}.pt")
    torch_dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
