"""LAMB: Adam whose step is scaled, layer by layer, to the size of the layer's weights (You et al., ICLR 2020, algorithm 2).

    m, v   as in Adam, bias corrected:  m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t)
    r      = m^ / (sqrt(v^) + eps) + decay * w
    w      = w - lr * |w| / |r| * r              the ratio is 1 where either norm is 0

So a rate says by what share of its length a layer may move, which is what lets batches, and rates, grow. As in the authors' code,
parameters that do not decay (biases, norms, temperatures) are not scaled either: they take Adam's step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class LAMB(Optimizer):
    """State by parameter as in AdamW: step, exp_avg, exp_avg_sq. `is_scaled` of a group: see above."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "is_scaled": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            first, second = group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["step"] = torch.tensor(0.0)  # on the host, as a tensor: it is saved with the others
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(w), torch.zeros_like(w)
                m, v = state["exp_avg"].lerp_(w.grad, 1 - first), state["exp_avg_sq"]
                v.mul_(second).addcmul_(w.grad, w.grad, value=1 - second)
                state["step"] += 1
                t = state["step"].item()
                r = (m / (1 - first**t)).div_((v / (1 - second**t)).sqrt_().add_(group["eps"]))
                r.add_(w, alpha=group["weight_decay"])
                if group["is_scaled"]:
                    size, length = w.norm(), r.norm()
                    r.mul_(torch.where((size > 0) & (length > 0), size / length, 1.0))  # decided on the device: no waiting for it
                w.sub_(r, alpha=group["lr"])
