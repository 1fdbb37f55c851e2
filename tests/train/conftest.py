"""The toy that these tests train lives beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
