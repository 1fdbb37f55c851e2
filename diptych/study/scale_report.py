"""The scaling study as a page: what each lever is worth, the figure, laws, cells; and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from markupsafe import Markup

from diptych.report.charts import Score, Track, key, powers, reach
from diptych.report.page import Section, macro, page
from diptych.study.scale import MEASURES, Plan, Work, times

FOLD = 4  # "four times the pictures"

Table = Mapping[str, Any]


def page_of(plan: Plan, work: Work, table: Table) -> str:
    title = f"{plan.system}: more data, a larger model, or more to learn from it?"
    kicker = " · ".join(("Diptych", f"budget {table['budget']}", date.today().isoformat()))
    sections = [
        Section(
            "figure",
            "Figure",
            "Masked words of val, by pictures and by parameters",
            "Each row a set of objectives. Dots are cells with 95 % intervals over questions; broken lines are the fitted law. All "
            "axes are logarithmic, so a power law is a straight line; the upright one is the same everywhere.",
            _figure(plan, table),
        ),
        Section(
            "laws",
            "Laws",
            "Fitted power laws",
            "Loss, and the share of words guessed wrong, as scale × pictures^−a × parameters^−b; that of FLOPs stands in the place "
            "of b, for FLOPs grow with the size alone. No floor is fitted: exponents are slopes within this range. Intervals "
            "hold what other questions and other trainings would change; the spread is how far cells lie from their law.",
            macro("scale.html", "laws", table["laws"]) if table["laws"] else Markup(""),
        ),
        Section(
            "objectives",
            "Objectives",
            "More objectives, everything else the same",
            "The mean change over cells of the same size and pictures. All are asked masked words, which the least set learns and "
            "nothing else; objectives share the steps, so a gain is one in spite of fewer words.",
            macro("scale.html", "worth", table["worth"]) if table["worth"] else Markup(""),
        ),
        Section(
            "cells", "Cells", "All cells", "", macro("scale.html", "cells", table["cells"], times) if table["cells"] else Markup("")
        ),
        Section(
            "failed",
            "Failed",
            "Cells that failed",
            "Each with what was said. The same command tries them again.",
            macro("demo.html", "facts", [(one["cell"], one["why"]) for one in table["failed"]]) if table["failed"] else Markup(""),
        ),
        Section("remarks", "Remarks", "What to keep in mind", "", macro("demo.html", "remarks", _remarks(plan))),
        Section(
            "again",
            "Do it again",
            "Do it again",
            "The commands that lead to each cell, as they were carried out.",
            macro(
                "demo.html",
                "configurations",
                {str(plan.cells[place]): "\n".join(record["commands"]) for place, record in work.records.items()},
            ),
        ),
    ]
    return page(title, kicker, macro("scale.html", "hero", _summary(plan, table), _levers(plan, table)), sections)


def _summary(plan: Plan, table: Table) -> str:
    return (
        f"{len(table['cells'])} of {len(plan.cells)} trainings of {plan.system}: {len(plan.pictures)} amounts of data, "
        f"{len(plan.extent.sizes)} sizes and {len(plan.sets)} sets of objectives, each {table['drawn']:,} pictures long, asked the "
        f"same masked words of pictures that none has seen."
    )


def _levers(plan: Plan, table: Table) -> list[tuple[str, Any, Any]]:
    """(lever, change of the loss, change of the error): by the law of the largest set, and by it against the least."""
    most = list(plan.sets)[-1]
    of = {law["of"]: law for law in table["laws"] if law["objectives"] == most}
    worth = {row["of"]: row["change_percent"] for row in table["worth"] if row["objectives"] == most}
    rows: list[tuple[str, Any, Any]] = []
    for name, lever in ((f"{FOLD} times the pictures", "pictures"), (f"{FOLD} times the parameters", "parameters")):
        if of:
            loss, error = (_change(of[measure][lever]) if measure in of else None for measure in MEASURES)
            rows.append((name, loss, error))
    if worth:
        loss, error = (worth.get(measure) for measure in MEASURES)
        rows.append((f"{most}, against {next(iter(plan.sets))}", loss, error))
    return rows


def _change(exponent: Mapping[str, Any]) -> dict[str, Any]:
    """An exponent as percent of the value, for FOLD times the lever."""
    value, low, high = (100 * (FOLD**-e - 1) for e in (exponent["value"], *exponent["ci95"][::-1]))
    return {"value": value, "ci95": [low, high]}


def _figure(plan: Plan, table: Table) -> Markup:
    laws = {(law["objectives"], law["of"]): law for law in table["laws"]}
    cells = {(cell["objectives"], cell["size"], cell["pictures"]): cell for cell in table["cells"]}
    if not cells:
        return Markup("")

    def tracks(objectives: str, lever: str) -> list[Track]:
        """By pictures a track is a size, by parameters a number of pictures."""
        groups = plan.extent.sizes if lever == "pictures" else plan.pictures
        law, found = laws.get((objectives, "loss")), []
        for tone, group in enumerate(groups):
            own = [c for c in cells.values() if c["objectives"] == objectives and group in (c["size"], c["pictures"])]
            own = [c for c in own if c["size" if lever == "pictures" else "pictures"] == group]
            drawn = [_at(law, cell) for cell in own] if law else []
            scores = [Score(cell["loss"]["value"], *cell["loss"]["ci95"]) for cell in own]
            name = f"size {times(group)}" if lever == "pictures" else f"{group:,} pictures"
            found.append(Track(name, [float(cell[lever]) for cell in own], scores, drawn, tone))
        return found

    range_ = reach([track for objectives in plan.sets for track in tracks(objectives, "pictures")])
    charts = [
        (
            f"{objectives}: by {lever}, a colour for each {by}",
            powers(tracks(objectives, lever), label, "loss of masked words, nats", range_),
        )
        for objectives in plan.sets
        for lever, label, by in (
            ("pictures", "pictures of each data set", "size"),
            ("parameters", "parameters", "number of pictures"),
        )
    ]
    keys = [[f"size {times(size)}" for size in plan.extent.sizes], [f"{pictures:,} pictures" for pictures in plan.pictures]]
    legend = Markup("").join(key(names) for names in keys)
    return legend + macro("demo.html", "charts", charts)


def _at(law: Mapping[str, Any], cell: Mapping[str, Any]) -> float:
    return law["scale"] * cell["pictures"] ** -law["pictures"]["value"] * cell["parameters"] ** -law["parameters"]["value"]


def _remarks(plan: Plan) -> list[str]:
    remarks = [
        "The pictures are drawn, models are small and the range is short. Exponents compare levers here; they are no paper's.",
        f"Every cell takes {plan.steps:,} steps of the same rates: fewer pictures are met more often, and a rate that suits one "
        "size may suit another less. One seed.",
        "FLOPs are of the cell's own pre-training, reckoned by shapes on real samples; parameters count everything, word "
        "embeddings and heads included.",
    ]
    if plan.chain.before:
        remarks.append(
            f"Each size starts from roots of its own size ({', '.join(stage.command.about for stage in plan.chain.before)}), which "
            "have seen all pictures. What a detector saw is the same for all sizes."
        )
    if plan.preset == "tiny":
        remarks.append("Tiny presets show what a report looks like; their numbers mean nothing.")
    return remarks


def lines(table: Table) -> list[str]:
    """For a terminal: the laws of the loss, and the grid."""
    said = [f"{'objectives':34} {'pictures^-a':>24} {'parameters^-b':>24}"]
    for law in table["laws"]:
        if law["of"] == "loss":
            shown = [
                "{:.3f} ({:.3f} to {:.3f})".format(law[lever]["value"], *law[lever]["ci95"]) for lever in ("pictures", "parameters")
            ]
            said.append(f"{law['objectives']:34} {shown[0]:>24} {shown[1]:>24}")
    for row in table["worth"]:
        if row["of"] == "loss":
            change = row["change_percent"]
            said.append(
                "{} against {}: loss {:+.1f} % ({:+.1f} to {:+.1f})".format(
                    row["objectives"], row["over"], change["value"], *change["ci95"]
                )
            )
    return [*said, *(f"failed: {one['cell']}: {one['why']}" for one in table["failed"])]
