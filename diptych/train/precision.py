"""Where to compute and in what precision. Weights, optimiser state and sums of gradients are fp32 throughout."""

from __future__ import annotations

import os
from typing import Literal

import torch

from diptych.config import UserError


def choose_device(name: str | None = None) -> torch.device:
    """`name`, or this rank's GPU, or the CPU."""
    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' is not available here ({str(error).splitlines()[0]})") from error
    return device


def choose_precision(wish: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    if wish == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    return torch.bfloat16 if wish == "bf16" else torch.float32


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware. Emulated, as on older CPUs, it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
