"""The model card of a run: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def model_card(asked: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    name = f"{asked['system']}{':' + asked['preset'] if asked.get('preset') else ''}"
    did = f"pre-trained {name}" if asked["verb"] == "pretrain" else f"{name}, fine-tuned for {asked['task']}"
    matter = {"library_name": "diptych", "tags": ["vision-language", str(asked["system"]), str(asked["task"] or "pretraining")]}
    train = asked["recipe"]["train"]
    numbers = "\n".join(
        f"| {metric} | {_number(value, result['ci95'].get(metric))} |" for metric, value in result["metrics"].items()
    )
    sources = "\n".join(f"* {s['name']}: {s['samples']:,} samples (sha256 {s['sha256'][:12]})" for s in asked["sources"])
    if asked.get("regions"):  # the store, or the detector and the stores that it made
        sources += f"\n* regions: {', '.join([asked['regions'], *asked.get('region_stores', ())])}"
    start = f", from {asked['from']}" if asked.get("from") else ""
    return f"""---
{yaml.safe_dump(matter, sort_keys=False).strip()}
---

# {did[0].upper()}{did[1:]}

Trained with Diptych {asked["diptych"]}{start}: {train["steps"]:,} steps of {train["batch_size"]} samples,
learning rate {train["lr"]:g}, seed {train["seed"]}, {result["seconds"] / 60:.1f} minutes. Everything else is in `config.json`.

## Data

{sources}

## {"Losses at the end" if result["split"] == "train" else f"Results on {result['split']} (n = {result['n']:,})"}

| | |
|---|---|
{numbers}

## Use

```python
import diptych

model = diptych.load("path/of/this/directory")
```

What the model knows it has from the data above; it repeats their gaps and prejudices.
"""


def _number(value: float, interval: list[float] | None) -> str:
    return f"{value:.4g}" + (f" (95 %: {interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
