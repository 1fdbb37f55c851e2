"""Every system: two ranks with a share of the samples each take the step that one process takes on all of them.

Batch normalisation, dictionaries and queues included: their statistics are those of all ranks.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_every_system import SPECS, Case
from two_ranks_program import SHARES, step

PROGRAM = Path(__file__).with_name("two_ranks_program.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One start of two processes for all systems."""
    out = tmp_path_factory.mktemp("two_ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(PROGRAM), str(rank), str(out)] for rank in range(len(SHARES))]
    ranks = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-3000:]
    return out


@pytest.mark.parametrize("spec", SPECS)
def test_two_ranks_take_the_step_of_one(spec: str, found: Path):
    expected = step(Case(spec), sum(SHARES, ()))
    both = torch.load(found / f"{spec}.pt", weights_only=True)
    for kind, tensors in expected.items():
        assert both[kind].keys() == tensors.keys()
        # a gradient that is zero by construction, as of a bias under a batch normalisation, is nothing but rounding, whose size
        # goes with the others' gradients: it has to be as small on two ranks, and no more can be said of it
        largest = max((tensor.float().abs().max().item() for tensor in tensors.values()), default=0.0)
        zero = 4 * torch.finfo(torch.float32).eps * largest * (kind == "gradient")
        for name, tensor in tensors.items():
            scale = tensor.float().abs().max().item()
            if scale < zero:
                assert both[kind][name].abs().max() < zero, name
                continue
            atol = 1e-5 * max(scale, 1e-3)
            torch.testing.assert_close(both[kind][name], tensor, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
