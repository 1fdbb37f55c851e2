"""What tests/distributed/test_ranks.py runs under torchrun: every promise that needs two ranks, in one start."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as torch_dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import toy_run

from diptych import dist
from diptych.config import UserError
from diptych.train.loop import Loop

GENTLE = {"eps": 1e-3}  # Adam turns rounding of a zero gradient into a step of full length unless eps is above the rounding


class Poisoned(toy_run.Toy):
    """On the second rank alone, the third step's loss is not a number."""

    calls = 0

    def forward(self, batch):
        terms = super().forward(batch)
        self.calls += 1
        if dist.rank() == 1 and self.calls == 3:
            terms["mlm"] = replace(terms["mlm"], sum=terms["mlm"].sum * float("nan"))
        return terms


class Diverging(toy_run.Toy):
    """Commits what its own rank saw only."""

    def after_step(self):
        self.mean_W += dist.rank()
        self.discard_step()


def crash_at(step: int):
    report = Loop.report

    def reported(loop, outcome):
        report(loop, outcome)
        if loop.progress.step == step:
            Loop.report = report
            raise RuntimeError("crash")

    Loop.report = reported


def main(out: Path) -> None:
    found: dict[str, object] = {}
    with dist.process_group():
        rank = dist.rank()
        found["gathered"] = dist.gather({"rank": rank, "text": "é" * (1 + 3 * rank)})
        found["counts"] = dist.sum_counts({"both": 1.5, f"only{rank}": 1})
        try:
            dist.on_first(lambda: (_ for _ in ()).throw(UserError("no such thing")))
        except UserError as error:
            found["refused"] = dist.gather(str(error))

        used, half_used, unused = (nn.Parameter(torch.full((3,), float(rank + 1))) for _ in range(3))
        (used.sum() * (rank + 1) + (half_used.sum() if rank else 0)).backward()
        dist.sum_gradients([used, half_used, unused])
        gradients = [None if p.grad is None else p.grad.tolist() for p in (used, half_used, unused)]
        found["gradients"] = dist.gather(gradients)

        toy_run.train(out / "union", train=GENTLE, norm=False, dropout=0.0)
        toy_run.train(out / "moved", train=GENTLE | {"accumulate": 2}, norm=False, dropout=0.0)

        hard = {"accumulate": 2, "precision": "bf16"}
        toy_run.train(out / "whole", train=hard, data={"workers": 1})
        crash_at(5)
        try:
            toy_run.train(out / "again", train=hard)
        except RuntimeError as error:
            found["crashed"] = str(error)
        torch_dist.barrier()
        toy_run.train(out / "again", train=hard, data={"workers": 1})

        toy_run.train(out / "poisoned", cls=Poisoned)
        try:
            toy_run.train(out / "diverging", cls=Diverging)
        except RuntimeError as error:
            found["diverged"] = dist.gather(str(error))
        if rank == 0:
            (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
