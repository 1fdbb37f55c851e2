"""The program that runs under torchrun lies beside its test, the toy it trains in tests/train."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")]
