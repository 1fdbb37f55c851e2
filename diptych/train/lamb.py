"""LAMB: Adam whose step is scaled, layer by layer, to the size of the layer's weights (You et al., ICLR 2020, algorithm 2).

    m, v   as in Adam, bias corrected:  m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t)
    r      = m^ / (sqrt(v^) + eps) + decay * w
    w      = w - lr * |w| / |r| * r              the ratio is 1 where either norm is 0

So a rate says by what share of its length a layer may move, which is what lets batches, and rates, grow. As in the authors' code,
parameters that do not decay (biases, norms, temperatures) are not scaled either: they take Adam's step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class LAMB(Optimizer):
    """State by parameter as in AdamW: step, exp_avg, exp_avg_sq. `is_scaled` of a group: see above."""

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "is_scaled": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    zeros = (torch.zeros_like(p) for _ in range(2))
                    self.state[p] |= {"step": torch.tensor(0.0), **dict(zip(("exp_avg", "exp_avg_sq"), zeros, strict=True))}
            self._update(group, params)

    def _update(self, group: dict[str, Any], params: list[torch.nn.Parameter]) -> None:
        """One group at once: a loop over parameters would wait for the device at each norm."""
        first, second = group["betas"]
        gradients = [p.grad for p in params]
        m, v, steps = ([self.state[p][key] for p in params] for key in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(m, gradients, 1 - first)
        torch._foreach_mul_(v, second)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - second)
        at = [float(step) for step in steps]  # on the host: a parameter without a gradient has fewer
        root = torch._foreach_sqrt(v)
        torch._foreach_div_(root, [(1 - second**t) ** 0.5 for t in at])
        torch._foreach_add_(root, group["eps"])
        r = torch._foreach_div(m, root)
        torch._foreach_div_(r, [1 - first**t for t in at])
        if group["weight_decay"]:
            torch._foreach_add_(r, params, alpha=group["weight_decay"])
        if group["is_scaled"]:
            sizes, steps_sizes = torch._foreach_norm(params), torch._foreach_norm(r)
            ratios = [torch.where((w > 0) & (s > 0), w / s, 1.0) for w, s in zip(sizes, steps_sizes, strict=True)]
            torch._foreach_mul_(r, ratios)
        torch._foreach_add_(params, r, alpha=-group["lr"])
