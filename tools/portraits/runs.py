"""What is trained for the portraits, as commands; `@name` stands for the directory of the training of that name.

Everything a system needs before it (a root, a detector, its region store) is a line of its own, and made once for all that use it.
"""

from __future__ import annotations

import io
import json
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

from diptych import checkpoint
from diptych.atelier import names
from diptych.cli import call
from diptych.study.claims import SEEN as PICTURED
from diptych.study.claims import UNSEEN as UNPICTURED

TEXTS = "--data visual_genome:scenes@0.85 --data coco_captions:scenes@0.15"
WORDED = "--init text=@words --init fusion=@words"
ROOTED = f"--init image=@cnn {WORDED}"
SPOKEN = "--init image=@cnn --init text=@words"  # for layers that are not BERT's
SPEAKING = f"--init image=@cnn --set data.languages=[{','.join((*PICTURED, *UNPICTURED))}]"
NAMING = f"--init image=@cnn --set data.languages=[{','.join(PICTURED)}]"


def _looks(steps: int) -> str:
    return f"--set train.validate_every={steps}"


TRAININGS = {
    # the roots
    "bert": f"pretrain bert:small --data scenes {_looks(150)}",
    "cnn": f"pretrain cnn:small --data scenes {_looks(150)}",
    "words": f"pretrain bert:small --data scenes --init text=@cnn {_looks(500)}",  # its words begin where the CNN's cells are
    "vit": f"pretrain vit:small --data scenes {_looks(400)}",
    "simclr": "pretrain simclr:small --data names",
    "simclr-probe": "finetune probe --from @simclr --data names",
    "simclr-nothing": "finetune probe --from simclr:small --data names",
    "moco": "pretrain moco:small --data names",
    "moco-probe": "finetune probe --from @moco --data names",
    "moco-nothing": "finetune probe --from moco:small --data names",
    # regions, and what reads or is taught by them
    "detector": f"regions train --data scenes {_looks(200)}",
    "regions": "regions extract --from @detector --data scenes --split train --split val --split test",
    "uniter": f"pretrain uniter:small {TEXTS} --regions @regions {WORDED} {_looks(800)}",
    "vinvl": f"pretrain vinvl:small {TEXTS} --regions @regions {WORDED} {_looks(400)}",
    "kd_vlp": f"pretrain kd_vlp:small {TEXTS} --regions @regions {SPOKEN} {_looks(200)}",
    # grids and patches
    "soho": f"pretrain soho:small {TEXTS} {SPOKEN} {_looks(250)}",
    "e2e_vlp": f"pretrain e2e_vlp:small {TEXTS} {ROOTED} {_looks(400)}",
    "vilt": f"pretrain vilt:small {TEXTS} --init image=@vit --init fusion=@vit {_looks(200)}",
    # dual encoders
    "align": f"pretrain align:small --data coco_captions:scenes --init image=@cnn {_looks(150)}",
    "mural": f"pretrain mural:small --data wit:names@1 --data translations:names@1 {SPEAKING}",
    # in half as large batches, which hold as many pictures
    "mural-without-t2t": f"pretrain mural:small --data wit:names {NAMING} --set system.t2t=null --set train.batch_size=64",
}
NOISE = (0, 20, 40, 60)  # percent of the names in training that are spoilt
SPELT = "--set text.vocab=bytes --set text.max_tokens=64 --set system.text.positions=64 --set data.evenly=true "
SPELT += f"--set data.image.short=64 --set data.image.long=64 {NAMING}"
TRAININGS |= {f"align-noise-{noise}": f"pretrain align:small --data wit:@names-{noise} {SPELT}" for noise in NOISE}
SECOND_SEED = ("soho", "e2e_vlp", "kd_vlp", "vinvl", "align", "mural")  # those with a headline measure of their own
TRAININGS |= {f"{name}-seed1": f"{TRAININGS[name]} --set train.seed=1" for name in SECOND_SEED}


def words_of(text: str, folder: Path) -> list[str]:
    """A command with its names as directories."""
    return [re.sub(r"@([a-z][\w-]*)", lambda found: str(folder / found[1]), word) for word in shlex.split(text)]


def needs(text: str) -> list[str]:
    """The trainings that a command names, each once."""
    return [name for name in dict.fromkeys(re.findall(r"@([a-z][\w-]*)", text)) if name in TRAININGS]


def chain(name: str) -> list[str]:
    """Everything that has to be trained for it, in order, itself last."""
    before = [one for needed in needs(TRAININGS[name]) for one in chain(needed)]
    return [*dict.fromkeys([*before, name])]


def train(name: str, folder: Path) -> None:
    """It and all before it, as far as they are not there."""
    for one in chain(name):
        out = folder / one
        for noise in re.findall(r"@names-(\d+)", TRAININGS[one]):
            if not (folder / f"names-{noise}/dataset.json").is_file():
                names.make(folder / f"names-{noise}", noise=int(noise) / 100)
        if not ((out / "result.json").is_file() or (out / "store.json").is_file()):
            carry_out([*words_of(TRAININGS[one], folder), "--out", str(out)])


def result_of(words: str, folder: Path) -> dict[str, Any]:
    """What a command that judges says with --json; kept beside the runs, and asked again where a run that it names is newer."""
    kept = folder / "judged" / f"{sha256(words.encode()).hexdigest()[:16]}.json"
    newest = max((path.stat().st_mtime for name in needs(words) for path in (folder / name).glob("*.json")), default=0.0)
    if kept.is_file() and kept.stat().st_mtime > newest:
        return json.loads(kept.read_text(encoding="utf-8"))["said"]
    said = json.loads(carry_out([*words_of(words, folder), "--json"]))
    kept.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(kept, {"words": words, "said": said})
    return said


def carry_out(words: list[str]) -> str:
    """Its standard output."""
    print(f"$ {shlex.join(['diptych', *words])}", flush=True)
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as complaints:
        code = call(words)
    if code:
        raise SystemExit(f"{complaints.getvalue()[-2000:]}\n{shlex.join(words)}: exit code {code}")
    return said.getvalue()
