"""`python -m benchmarks [NAME ...]`: run all modules of this folder that have a `run`, or those named; print their ratios."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import sys

import torch

import benchmarks


def main(names: list[str]) -> None:
    found = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    print(f"{platform.machine()}, {platform.processor() or 'processor unnamed'}, torch {torch.__version__}; medians [least, most]")
    for name in names or found:
        module = importlib.import_module(f"benchmarks.{name}")
        for ratio in module.run() if hasattr(module, "run") else ():
            print(ratio.line(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
