"""LARS: momentum whose rate is set layer by layer, by the size of its weights (You, Gitman and Ginsburg, 2017, algorithm 1).

    g = gradient + decay * w
    v = momentum * v + lr * trust * |w| / |g| * g        the ratio trust * |w| / |g| is 1 where either norm is 0
    w = w - v

As SimCLR's code has it, which its preset `paper` is for: |g| is taken of gradient and decay together (the paper adds their norms),
the rate stands inside the momentum, `trust` is .001, and parameters that do not decay (biases, norms) take plain momentum's step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

TRUST = 0.001


class LARS(Optimizer):
    """State by parameter: the momentum v. `is_scaled` of a group: see above."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "is_scaled": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g = w.grad.add(w, alpha=group["weight_decay"])
                if group["is_scaled"]:
                    size, length = w.norm(), g.norm()
                    g.mul_(torch.where((size > 0) & (length > 0), TRUST * size / length, 1.0))  # decided on the device
                if "momentum" not in self.state[w]:
                    self.state[w]["momentum"] = torch.zeros_like(w)
                w.sub_(self.state[w]["momentum"].mul_(group["momentum"]).add_(g, alpha=group["lr"]))
