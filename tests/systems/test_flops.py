"""A guard against lost speed that no busy machine can upset: FLOPs of one `small` step of every system with transformer layers.

Samples and vocabulary are those of the contract tests: twelve short texts of six pictures of different sizes. Who makes a step
cheaper or dearer on purpose pins the new figure, and says why in the commit.
"""

import pytest
from step_flops import flops_of_step
from test_every_system import Case

from diptych import find
from diptych.nn.recompute import Recomputed

MFLOPS = {
    "align:small": 1188.9,
    "bert:small": 632.7,
    "crossgrid:small": 1703.7,
    "crossgrid:one_stream": 4468.0,
    "e2e_vlp:small": 6099.5,
    "kd_vlp:small": 4180.4,
    "mural:small": 521.8,
    "soho:small": 3453.9,
    "uniter:small": 643.5,
    "vilt:small": 21127.3,
    "vilt:two_streams": 29588.9,
    "vinvl:small": 653.9,
    "vit:small": 5012.4,
}
SPECS = [
    f"{name}:{preset}"
    for name, entry in sorted(find.catalogue("systems").items())
    for preset in ("small", "one_stream", "two_streams")
    if preset in entry.presets
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_costs_what_it_cost(spec):
    case = Case(*spec.split(":"))
    system = case.build()
    if not any(isinstance(module, Recomputed) for module in system.modules()):
        assert spec not in MFLOPS
        pytest.skip("no transformer layer")
    found = flops_of_step(system, case.batch(system)) / 1e6
    assert spec in MFLOPS, f"pin it: {found:.1f}"
    assert found == pytest.approx(MFLOPS[spec], rel=0.01)
