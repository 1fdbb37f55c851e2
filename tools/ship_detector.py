"""Makes the detector that the package ships, diptych/regions/shipped/:  python -m tools.ship_detector [--from RUN]

It is trained by COMMAND on the embedded scenes (2.5 minutes on two cores), or taken from a finished run of that command, and
written as a run like any other: config.json, tokenizer.json, README.md and the weights in half precision, which halves what the
wheel carries (1.9 MB). result.json says what it learnt from and what it scores with just these weights, on scenes that it was not
trained on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from diptych import checkpoint, config, find
from diptych.cli import call
from diptych.load import load
from diptych.regions.score import score

COMMAND = "regions train --data scenes --set train.validate_every=200"
SPLITS, LIMIT = ("test", "test-style"), 1000
PLACE = find.HERE / "regions" / "shipped"


def ship(run: Path, place: Path = PLACE) -> None:
    about, result = find.read_config(run), json.loads((run / "result.json").read_text(encoding="utf-8"))
    expected = config.resolve(find.system("detector:small").recipe, config.from_setting(COMMAND.split()[-1]))
    found = find.recipe(about["recipe"], "detector")
    learnt = {key: getattr(found.system, key) for key in ("names", "attributes")}
    expected = expected.model_copy(update={"system": expected.system.model_copy(update=learnt)})
    if differences := config.differences(expected.model_dump(mode="json"), found.model_dump(mode="json")):
        sys.exit(f"{run}: not a run of `diptych {COMMAND}`: {'; '.join(differences)}")
    place.mkdir(parents=True, exist_ok=True)
    weights = checkpoint.read_weights(run / "model.safetensors")
    checkpoint.write_file(place / "model.safetensors", save({name: tensor.half() for name, tensor in weights.items()}))
    checkpoint.write_json(place / "config.json", about)
    shutil.copyfile(run / "tokenizer.json", place / "tokenizer.json")
    model = load(place)
    scores = {
        split: dict(score(model.system, model.recipe, model.tokenizer, source.reader))
        for split in SPLITS
        for source in find.readers(["visual_genome:scenes"], split, "pretrain", LIMIT)
    }
    result |= {"command": f"diptych {COMMAND}", "data": f"visual_genome:scenes, {LIMIT:,} pictures of a split", "scores": scores}
    checkpoint.write_json(place / "result.json", result)
    checkpoint.write_file(place / "README.md", card(about, result).encode())


def card(about: dict, result: dict) -> str:
    sources = "\n".join(f"* {s['name']}: {s['samples']:,} samples (sha256 {s['sha256']})" for s in about["sources"])
    measures = ("AP50", "AP50_where", "class", "attribute")
    rows = "\n".join(
        f"| {split} | " + " | ".join(f"{scored[measure]:.1f}" for measure in measures) + " |"
        for split, scored in result["scores"].items()
    )
    return f"""# The detector that Diptych ships

`{find.SHIPPED}`: {len(about["recipe"]["system"]["names"])} things of the embedded scenes, drawn in flat colours, and how they
look. It gives regions to systems that read them or are taught by them where no region store is given. It knows no photographs.

Made by `python -m tools.ship_detector` from `{result["command"]}`, seed {result["seed"]}, Diptych {result["version"]};
weights in half precision. Trained on

{sources}

| {result["data"]}, % | {" | ".join(measures)} |
|---|{"---|" * len(measures)}
{rows}

`test-style` holds drawings by artists that it never saw. What decides the run is in `config.json`, its result in `result.json`.
The scenes are composed of the artwork that NOTICE credits.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="run", type=Path, metavar="RUN", help=f"a finished run of: diptych {COMMAND}")
    run = parser.parse_args().run
    if run is None:
        run = Path("runs/detector")
        if code := call([*COMMAND.split(), "--out", str(run)]):
            sys.exit(code)
    torch.set_num_threads(2)
    ship(run)


if __name__ == "__main__":
    main()
