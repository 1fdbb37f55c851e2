"""`profile.html`: where the time of a training step went, as bars and a table."""

from __future__ import annotations

from pathlib import Path

from diptych.report.charts import Bar, Score, bars
from diptych.report.page import Section, fill, macro, number, page
from diptych.train.profile import Cost, Profiled

_STAGES = {"fetch": "waiting for data"}
_LEAD = (
    "Percent of a step. Without loader processes (data.workers=0), reading and preparing data is waiting, too; an update is the "
    "sum over ranks, clipping and the optimiser; the rest is logging, checkpoints and what ranks tell each other."
)


def profile_page(found: Profiled, run: Path) -> str:
    facts = [
        ("A step", f"{number(found.milliseconds)} ms, recording included"),
        ("Steps recorded", str(found.steps)),
        ("Threads", str(found.threads)),
    ]
    left = Cost("rest", found.milliseconds - sum(cost.milliseconds for cost in found.stages), 1)
    stages = [_bar(cost, found, tone=0) for cost in [*found.stages, left]]
    parts = [_bar(cost, found, tone=1) for cost in found.parts]
    return page(
        run.resolve().name,
        "Diptych · profile",
        macro("demo.html", "facts", facts),
        [
            Section("stages", "Stages", "One step, in stages", _LEAD, bars(stages, "Stages")),
            Section(
                "parts",
                "Parts",
                "The forward pass, by part of the system",
                "Percent of a step; the backward pass of a part takes about twice as long.",
                bars(parts, "Parts"),
            ),
            Section(
                "operations",
                "Operations",
                "The dearest operations",
                "Forward and backward together, each without what it calls.",
                fill("operations.html", rows=[(cost, _share(cost, found).value) for cost in found.operations]),
            ),
        ],
    )


def _share(cost: Cost, found: Profiled) -> Score:
    return Score(max(100 * cost.milliseconds / found.milliseconds, 0.0))


def _bar(cost: Cost, found: Profiled, tone: int) -> Bar:
    return Bar(_STAGES.get(cost.name, cost.name), _share(cost, found), f"{number(cost.milliseconds)} ms", tone)
