"""What the figures were measured on: the processor and what it multiplies with, the versions, and the route that products take."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def describe() -> str:
    """Intel(R) Xeon(R) Processor, 2 cores (avx512_bf16, amx_bf16), 23 GB; torch 2.14.1, transformers 5.24.0"""
    said = _lscpu()
    flags = [flag for flag in FLAGS if flag in said.get("Flags", "").split()]
    processor = said.get("Model name") or platform.processor() or platform.machine()
    memory = ""
    with suppress(OSError, ValueError, AttributeError):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
    versions = ", ".join(f"{name} {version}" for name in ("torch", "transformers") if (version := _version(name)))
    return f"{processor}, {os.cpu_count()} cores ({', '.join(flags) or 'flags unknown'}){memory}; {versions}"


def route(precision: torch.dtype, step: Callable[[], object]) -> str:
    """How a step is computed: by which library and instructions its products, as one kernel or as products its attention."""
    with _Called() as called:
        step()
    is_fused = any("scaled_dot_product" in name for name in called.names)
    attention = "attention in one kernel" if is_fused else "attention as two products and a softmax"
    return f"{products(precision)}; {attention}"


def products(precision: torch.dtype) -> str:
    """Which library multiplies matrices of this type here, and with what."""
    if precision == torch.float32:
        return "MKL" if torch.backends.mkl.is_available() else "torch's own BLAS"
    if torch.cpu._is_amx_tile_supported():
        return "oneDNN, AMX tiles"
    return "oneDNN, AVX-512 bf16" if torch.cpu._is_avx512_bf16_supported() else "oneDNN, bf16 emulated"


class _Called(TorchDispatchMode):
    """Names of all operators that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def _lscpu() -> dict[str, str]:
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""
