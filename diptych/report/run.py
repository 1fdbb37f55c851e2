"""`report.html` of one run directory: what it was, what it reached, its curves, its configuration.

Reads config.json, metrics.jsonl and result.json, whichever are there; a run that is still training has a report too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from diptych.report.charts import Line, Score, curves, dots, key
from diptych.report.page import Section, duration, macro, page

MOST_POINTS = 400  # of a line; more than a chart has pixels for
_CLOCK = {"step", "samples", "seconds"}  # a record's place, not something to draw
_ALONE = {
    "lr": "Learning rate",
    "gradient_norm": "Gradient norm",
    "samples_per_second": "Samples a second",
    "memory_gb": "Memory, GB",
}


def run_page(run_dir: Path) -> str:
    """The report of a run, whichever its verb."""
    about, result, records = _json(run_dir / "config.json"), _json(run_dir / "result.json"), _records(run_dir / "metrics.jsonl")
    kicker = " · ".join(str(part) for part in ("Diptych", about.get("verb"), result.get("version")) if part)
    return page(
        run_dir.resolve().name,
        kicker,
        _facts(about, result, records),
        [
            Section(
                "result", "Result", "What it reached", "Percent, with 95 % intervals where questions were scored.", _scores(result)
            ),
            Section("losses", "Losses", "Learning curves", "", _losses(records)),
            Section("watched", "Watched", "Watched while training", "", _watched(records)),
            Section(
                "configuration", "Configuration", "Configuration", "As resolved; it can be fed back.", _configuration(about, result)
            ),
        ],
    )


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _records(file: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl; a last one that is being written is left out."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _facts(about: Mapping[str, Any], result: Mapping[str, Any], records: Sequence[Mapping[str, float]]) -> Markup:
    last = records[-1] if records else {}
    preset = about.get("preset")
    facts = [
        ("System", f"{about['system']}:{preset}" if preset else about["system"]) if "system" in about else None,
        ("Task", about["task"]) if about.get("task") else None,
        ("Started from", about["from"]) if about.get("from") else None,
        ("Data", ", ".join(map(str, about["data"]))) if about.get("data") else None,
        ("Steps", f"{last['step']:,}") if "step" in last else None,
        ("Samples seen", f"{last['samples']:,}") if "samples" in last else None,
        ("Training time", duration(last["seconds"] / 60)) if "seconds" in last else None,
        ("Steps skipped", f"{result['skipped']:,}") if result.get("skipped") else None,
    ]
    return macro("demo.html", "facts", [fact for fact in facts if fact])


def _scores(result: Mapping[str, Any]) -> Markup:
    """Every split's metrics side by side; a metric is a percentage where it has an interval, and drawn then."""
    splits = result.get("splits") or ({result.get("split", ""): result} if result.get("metrics") else {})
    drawn: dict[str, dict[str, Score]] = {}
    for split, scored in splits.items():
        for metric, (low, high) in scored.get("ci95", {}).items():
            if metric in scored["metrics"]:
                drawn.setdefault(metric, {})[split] = Score(scored["metrics"][metric], low, high, scored.get("n"))
    parts = [key(list(splits)), dots(drawn, list(splits), "Scores", {}, {})] if drawn else []
    plain = [
        (f"{metric} ({split})" if len(splits) > 1 else metric, f"{value:.4g}")
        for split, scored in splits.items()
        for metric, value in scored["metrics"].items()
        if metric not in drawn
    ]
    if plain:
        parts.append(macro("demo.html", "facts", plain))
    return Markup("\n").join(parts)


def _losses(records: Sequence[Mapping[str, float]]) -> Markup:
    names = _names(records, lambda name: name == "loss" or name.startswith("loss/"))
    if names == ["loss", *names[1:2]]:
        names = names[-1:]  # with one objective the total says nothing more
    probes = _names(records, lambda name: name.startswith("val/"))
    parts = []
    for title, group in (("loss", names), ("on val", probes)):
        charts = [
            ("Over samples", _chart(records, group, "samples", "samples seen", title)),
            ("Over minutes", _chart(records, group, "seconds", "minutes", title)),
        ]
        if any(chart for _, chart in charts):
            parts += [key([name.partition("/")[2] or "total" for name in group]), macro("demo.html", "charts", charts)]
    return Markup("\n").join(parts)


def _watched(records: Sequence[Mapping[str, float]]) -> Markup:
    drawn = {"loss", "skipped", "waiting", *_CLOCK}
    metrics = _names(records, lambda name: name not in drawn and name not in _ALONE and not name.startswith(("loss/", "val/")))
    charts = [(name, _chart(records, [name], "samples", "samples seen", "")) for name in metrics]
    charts += [(title, _chart(records, [name], "samples", "samples seen", "")) for name, title in _ALONE.items()]
    return macro("demo.html", "charts", charts) if any(chart for _, chart in charts) else Markup("")


def _names(records: Sequence[Mapping[str, float]], wanted: Any) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record if wanted(name)))


def _chart(records: Sequence[Mapping[str, float]], names: Sequence[str], axis: str, x_label: str, y_label: str) -> Markup:
    lines = []
    for tone, name in enumerate(names):
        points = [record for record in records if name in record and axis in record]
        points = points[:: len(points) // MOST_POINTS + 1]
        scale = 60 if axis == "seconds" else 1
        lines.append(Line(name, [p[axis] / scale for p in points], [p[name] for p in points], tone=tone))
    return curves(lines, x_label, y_label)


def _configuration(about: Mapping[str, Any], result: Mapping[str, Any]) -> Markup:
    texts = {name: _yaml(part) for name, part in (("config.json", about), ("result.json", result)) if part}
    return macro("demo.html", "configurations", texts) if texts else Markup("")


def _yaml(part: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(part), sort_keys=False, allow_unicode=True, width=100)
