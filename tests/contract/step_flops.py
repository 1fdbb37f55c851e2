"""What a step costs, without a clock."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.contracts import Batch


def flops_of_step(model: torch.nn.Module, batch: Batch) -> int:
    """Forward and backward, as torch counts products and convolutions. It does not know CPUs' fused attention, which fp32 takes."""
    with FlopCounterMode(display=False) as counter:
        sum(term.sum for term in model(batch).values()).backward()
    return counter.get_total_flops()
