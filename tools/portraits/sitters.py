"""Who sits for a portrait: what each system is asked on pictures or texts that it was not trained on, and beside whom.

A row is a question, a column somebody who answers it: the system, its second seed, and controls that a system which had learnt
nothing of what its paper says would equal.

    blind      the same weights, every text beside another sample's picture (`data.shuffled`): what is left is from the text alone
    untrained  the same system as it is initialised
    without    the same training with the paper's own objective left out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tools.portraits.runs import NOISE, PICTURED, UNPICTURED

MOST = 1920  # held-out samples asked, in batches of 64
OBJECTIVES = f"evaluate objectives --split test --set data.limit={MOST}"
BLIND = "--set data.shuffled=true"


@dataclass(frozen=True)
class Column:
    title: str
    of: str  # behind --from: `@name` of a training, or a preset: the system untrained
    also: str = ""  # words added to every row's command
    rows: tuple[str, ...] = ()  # the metrics it is asked for; all if empty


@dataclass(frozen=True)
class Row:
    what: str
    command: str  # without --from
    metric: str
    scale: float = 100.0  # to percent
    digits: int = 1
    chance: str = ""  # of guessing, where it is known without measuring
    of: str = ""  # another run than the system's own answers it, its detector for one; no other column does
    over: tuple[str, ...] = ()  # "*" in the command stands for each of these, and the figure is their mean


@dataclass(frozen=True)
class Sitter:
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]  # the system first
    curves: Mapping[str, str]  # metric in the log -> what it is called
    drawn: Mapping[str, str]  # training -> what its lines are called
    about: str  # what the picture shows, in one sentence
    remark: str = ""  # what is to be said of the figures
    page: str = ""  # of docs/systems, where it is not called like the sitter


def _learnt(name: str, two: bool = False) -> tuple[Column, ...]:
    first = Column("learnt", f"@{name}")
    return (first, Column("second seed", f"@{name}-seed1")) if two else (first,)


def _fusion(name: str, *own: Row, two: bool = False, also: tuple[Column, ...] = (), blind: tuple[str, ...] = ()) -> Sitter:
    """Words guessed with the picture and beside another one; matches told; and what is the system's own."""
    words = Row("masked words guessed", OBJECTIVES, "mlm/accuracy")
    match = Row("told whether text and picture belong together", OBJECTIVES, "itm/accuracy", chance="50")
    rows = (words, *own) if name == "vinvl" else (words, match, *own)
    blinded = ("mlm/accuracy", *(("itm/accuracy",) if name != "vinvl" else ()), *blind)
    columns = (*_learnt(name, two), Column("blind", f"@{name}", BLIND, blinded), *also)
    curves = {f"val/{row.metric}": row.what for row in rows if row.command == OBJECTIVES}
    drawn = {name: "learnt", **({f"{name}-seed1": "second seed"} if two else {})}
    return Sitter(rows, columns, curves, drawn, ABOUT[name], REMARK.get(name, ""))


ABOUT = {
    "bert": "Words of held-out sentences, hidden and guessed.",
    "vit": "Held-out scenes: what the model calls the things in them.",
    "simclr": "Drawings by artists never seen, and the training drawings that the model finds most alike.",
    "moco": "Drawings by artists never seen, and the training drawings that the model finds most alike.",
    "uniter": "Where optimal transport takes words of held-out captions.",
    "vilt": "Where optimal transport takes words of held-out captions.",
    "soho": "Words of the visual dictionary: cells of held-out scenes that chose them, with what lies around.",
    "vinvl": "What the detector sees in held-out scenes: names and attributes.",
    "e2e_vlp": "What the decoder finds in held-out scenes, and what it writes of them.",
    "kd_vlp": "Phrases of held-out captions, and the region that the model takes each for. No detector is there any more.",
    "align": "Held-out texts, and the pictures found for them among 200; the right one is framed.",
    "mural": "Recall by language: names beside pictures never seen, with and without translations in training.",
}

REMARK = {
    "e2e_vlp": "Things are found first; words lean on the picture from step 2,000 on. Whether a text belongs to its picture "
    "is not learnt in this time: half of the wrong texts differ in one word.",
    "kd_vlp": "A phrase is taken for the right name; which of two apples is meant is not asked, and the target is the names' own.",
    "vinvl": "Half of the triples belong together, a quarter each has a wrong caption or wrong tags: "
    "to say “belong” is right in 50.",
    "soho": "Visual words are guessed from the cells around them, beside a wrong text nearly as well as beside the right one.",
    "mural": "Without translations, languages that never stood beside a picture are found by what they share with others; "
    "Gujarati, in a script of its own, is at chance. Translations help it and Ukrainian most. Languages with pictures lose "
    "a little, if anything (a claim of its own, docs/claims.md).",
    "moco": "Little above an encoder that was never trained, and below SimCLR at equal steps.",
}
PROBED = (
    Row("nearest neighbours, artists seen", "evaluate probe --split seen", "knn", 1),
    Row("nearest neighbours, artists never seen", "evaluate probe --split test", "knn", 1),
    Row("linear classifier, artists seen", "evaluate probe --split seen", "linear", 1),
    Row("linear classifier, artists never seen", "evaluate probe --split test", "linear", 1),
)
VG = "--data visual_genome:scenes"
LANGUAGE = "evaluate retrieval --data languages:names --split test-*"

SITTERS = {
    "bert": Sitter(
        (
            Row("masked words guessed", OBJECTIVES, "mlm/accuracy"),
            Row("told whether the second part follows", OBJECTIVES, "nsp/accuracy", chance="50"),
        ),
        (*_learnt("bert"), Column("untrained", "bert:small")),
        {"val/mlm/accuracy": "masked words guessed", "val/nsp/accuracy": "next sentence told"},
        {"bert": "learnt"},
        ABOUT["bert"],
    ),
    "vit": Sitter(
        (Row("things named", OBJECTIVES, "naming/accuracy", chance="2"),),
        (*_learnt("vit"), Column("untrained", "vit:small")),
        {"val/naming/accuracy": "things named"},
        {"vit": "ViT", "cnn": "the CNN root, for comparison"},
        ABOUT["vit"],
    ),
    **{
        name: Sitter(
            PROBED,
            (Column("learnt", f"@{name}-probe"), Column("untrained", f"@{name}-nothing")),
            {"contrast/accuracy": "other view found", "loss/contrast": "loss"},
            {name: "learnt"},
            ABOUT[name],
            REMARK.get(name, ""),
        )
        for name in ("simclr", "moco")
    },
    "uniter": _fusion(
        "uniter",
        Row("hidden regions classified (MRC-KL)", OBJECTIVES, "mrc_kl/accuracy"),
    ),
    "soho": _fusion(
        "soho",
        Row("hidden visual words guessed", OBJECTIVES, "mvm/accuracy"),
        Row("visual words in use, of 256", OBJECTIVES, "mvm/word_perplexity", 1),
        two=True,
        blind=("mvm/accuracy",),
    ),
    "vilt": _fusion("vilt"),
    "vinvl": _fusion(
        "vinvl",
        Row("told apart: all belong, caption or tags are wrong", OBJECTIVES, "contrast3/accuracy", chance="50"),
        Row("detector: AP50", f"regions score {VG} --split test --limit 1000", "AP50", 1, of="@detector"),
        Row("detector: AP50, artists never seen", f"regions score {VG} --split test-style --limit 1000", "AP50", 1, of="@detector"),
        Row("detector: attributes named", f"regions score {VG} --split test --limit 1000", "attribute", 1, of="@detector"),
        two=True,
        blind=("contrast3/accuracy",),
    ),
    "e2e_vlp": _fusion(
        "e2e_vlp",
        Row("detection, AP50", "evaluate detection --data coco_captions:scenes --split test --set data.limit=700", "AP50", 1),
        Row("captions, CIDEr-D", "evaluate caption --data coco_captions:scenes --split test --set data.limit=500", "CIDEr", 1),
        two=True,
    ),
    "kd_vlp": _fusion(
        "kd_vlp",
        Row("phrases taken for a region of the likeliest name (PRA)", OBJECTIVES, "pra/accuracy"),
        Row("hidden things named (OMVM)", OBJECTIVES, "omvm/accuracy"),
        two=True,
        blind=("omvm/accuracy",),
    ),
    "align": Sitter(
        tuple(
            Row(
                f"{what}, R@1 of 200",
                f"evaluate retrieval --data coco_captions:scenes --split {split} {GALLERY}",
                metric,
                1,
                chance="0.5",
            )
            for GALLERY in ("--set data.limit=200 --set task.texts=1",)
            for what, split, metric in (
                ("picture for a text", "test", "img_r1"),
                ("text for a picture", "test", "txt_r1"),
                ("picture for a text, artists never seen", "test-style", "img_r1"),
            )
        ),
        _learnt("align", two=True),
        {"val/contrast/accuracy": "partner found in a batch of 64", "val/loss/contrast": "loss"},
        {"align": "learnt", "align-seed1": "second seed"},
        ABOUT["align"],
    ),
    "mural": Sitter(
        (
            Row("12 languages with pictures, mean recall", LANGUAGE, "r_mean", 1, chance="0.9", over=PICTURED),
            Row("6 languages without a picture, mean recall", LANGUAGE, "r_mean", 1, chance="0.9", over=UNPICTURED),
            Row("English, mean recall", LANGUAGE, "r_mean", 1, over=("en",)),
        ),
        (*_learnt("mural", two=True), Column("without translations", "@mural-without-t2t")),
        {"contrast/accuracy": "picture found in the batch", "t2t/accuracy": "translation found in the batch"},
        {"mural": "learnt", "mural-seed1": "second seed", "mural-without-t2t": "without translations"},
        ABOUT["mural"],
        REMARK["mural"],
    ),
    "align-noise": Sitter(
        (
            Row("English, mean recall", LANGUAGE, "r_mean", 1, over=("en",)),
            Row("12 languages, mean recall", LANGUAGE, "r_mean", 1, over=PICTURED),
        ),
        tuple(Column(f"{noise} % noise" if noise else "clean", f"@align-noise-{noise}") for noise in NOISE),
        {"contrast/accuracy": "partner found in the batch of training"},
        {f"align-noise-{noise}": f"{noise} % noise" for noise in NOISE},
        "Mean recall on clean names, by the share of training names that are spoilt: another thing's, boilerplate, or cut short.",
        "Chance is 0.9. Two names in five spoilt cost two fifths of the recall; three in five cost two thirds, and still leave "
        "four times chance. `diptych.atelier.names.make(Path('runs/names-20'), noise=0.2)` makes such data.",
        page="align",
    ),
}
