"""`python -m diptych`, and so `torchrun -m diptych`."""

from diptych.cli import main

main()
