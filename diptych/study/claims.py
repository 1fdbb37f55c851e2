"""`diptych compare --claims`: what the papers say of their own parts, tested as paired ablations on the embedded data.

    a claim    two sides or more, that differ in what it is about and in nothing else, and one measure of all of them
    effect     what the claim says is gained: the sum over sides of share x value, on the same questions with the same draws
    verdict    holds                  the whole 95 % interval lies above what is claimed (`above`, mostly 0)
               does not hold here     the whole interval lies below what would be worth naming (`worth`, mostly 1 point)
               too small to tell      neither; or no side has learnt more than it can say without the picture

CLAIMS holds a line for each. A side is a list of settings of its system's pre-training; what comes before it, how much is trained
and asked, and the search of rates in fine-tuning are those of the bake-off (study/pasts.py, study/compare.py), the same for all
sides of a claim. What several claims need is made once, and so is what the bake-off has in the same folder. What is finished is
kept (study/kept.py), under `results/claims`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from diptych import __version__, checkpoint, find
from diptych.config import UserError, nearest
from diptych.study import crew
from diptych.study.compare import Cell, Commands, Options, Work, field_of
from diptych.study.kept import Results
from diptych.study.lanes import Call, Command, progress_line
from diptych.study.pasts import PASTS, Budget, Chain, Past, Taught, digest

BLIND = "blind"  # the same questions, each beside another one's picture
FOLDER = "claims"  # within --results


@dataclass(frozen=True)
class Side:
    name: str
    settings: tuple[str, ...] = ()  # of its pre-training
    share: float = 1.0  # in the effect
    system: str = ""  # another one than the claim's
    data: tuple[str, ...] = ()  # it is pre-trained on other data than its past has
    detector: Taught | None = None  # what is seen for it is seen by another one
    start: Literal["pretrained", "root_only"] = "pretrained"
    labels: int | None = None  # samples of the task; None: as many as the budget has


@dataclass(frozen=True)
class Measure:
    """What all sides of a claim are asked."""

    about: str
    task: str  # fine-tuned and asked; or asked alone, as `diptych evaluate`
    is_tuned: bool = True
    data: str = ""  # as for --data, where nothing is tuned
    splits: tuple[str, ...] = ("test",)
    settings: tuple[str, ...] = ()
    metric: str = ""  # of each question's scores; "": the score that its task names; "mean": of all of them
    chance: float | None = None  # what one has who knows nothing; None: measured, beside another sample's picture
    unit: Literal["points", "times"] = "points"  # times: how much sooner one question is answered

    @property
    def has_blind(self) -> bool:
        return self.unit == "points" and self.chance is None


@dataclass(frozen=True)
class Claim:
    name: str
    system: str
    paper: str
    says: str
    measure: Measure
    sides: tuple[Side, ...]
    settings: tuple[str, ...] = ()  # of all sides' pre-training
    tuning: tuple[str, ...] = ()  # of all sides' fine-tuning
    past: Past | None = None  # another one than the bake-off's
    above: float = 0.0  # it is claimed that the effect is more than this
    worth: float = 1.0  # an effect that is certainly less than this is not worth naming


VQA = Measure("VQA after fine-tuning, mean over question types, %", "vqa")
SOONER = replace(VQA, about="one VQA question on one core, from the picture's file to the answer", unit="times")
RECALL = Measure(
    "the right one of 1,000 pictures, and of their texts, at first place, %",
    "retrieval",
    is_tuned=False,
    data="coco_captions:scenes",
    settings=("data.limit=1000", "task.texts=1"),
)
NEXT = Measure(
    "whether a passage follows another, both whole, %",
    "objectives",
    is_tuned=False,
    data="scenes",
    settings=("data.limit=1920", "system.mlm.mask=0", "system.mlm.random=0"),
    metric="nsp/accuracy",
    chance=50.0,
)
SEEN = ("de", "en", "es", "fr", "id", "it", "nl", "pl", "pt", "ru", "sv", "tr")  # languages that stand beside pictures
UNSEEN = ("cy", "eu", "fil", "gu", "sw", "uk")  # and some that in training do not; all 96 are more than a small tower learns
NAMES = Measure(
    "mean recall among the names of a language, artists never seen, %",
    "retrieval",
    is_tuned=False,
    data="languages:names",
    settings=("data.limit=null",),
    metric="mean",
)
# of VinVL's four sets, those in the parts of COCO and of Visual Genome eight times, as there
FOUR = Taught(("detection/twemoji@8x", "detection/emojione@8x", "detection/fxemoji@2x", "detection/noto"), merged=True, balance=100)
ONE = Taught(("detection/twemoji",), merged=True)
WITH_PAIRS = ("wit:names@1", "translations:names@1")
FEW, SOME, MANY = 200, 800, 3200  # labels


def _without(*settings: str, name: str = "without") -> tuple[Side, Side]:
    return Side("with"), Side(name, settings, share=-1.0)


def _against(system: str, rival: str) -> tuple[Side, Side]:
    return Side(system), Side(rival, share=-1.0, system=rival)


def _only(*languages: str) -> str:
    return f"data.languages=[{','.join(languages)}]"


def _languages(name: str, of: str, languages: Sequence[str]) -> Claim:
    return Claim(
        name,
        "mural",
        "MURAL (Jain et al., 2021)",
        f"Pairs of texts help languages {of}.",
        replace(NAMES, splits=tuple(f"test-{language}" for language in languages)),
        (
            Side("with pairs", (_only(*SEEN, *UNSEEN), "train.batch_size=128"), data=WITH_PAIRS),
            # as many pictures, in the languages that stand beside them
            Side("without", (_only(*SEEN), "train.batch_size=64", "system.t2t=null"), -1.0, data=("wit:names",)),
        ),
        past=Past("cnn", ("image",)),
    )


VILT, KD, UNITER = "ViLT (Kim et al., 2021)", "KD-VLP (Liu et al., 2021)", "UNITER (Chen et al., 2020)"
_CLAIMS = (
    Claim(
        "soho-dictionary",
        "soho",
        "SOHO (Huang et al., 2021)",
        "A visual dictionary, and guessing its hidden words, help.",
        VQA,
        _without("system.mvm=null", "system.dictionary=null"),
    ),
    *(
        Claim(
            f"vilt-sooner-than-{rival}",
            "vilt",
            VILT,
            f"Without regions an answer comes tens of times sooner than from {name}.",
            SOONER,
            _against("vilt", rival),
            above=10.0,
            worth=10.0,
        )
        for rival, name in (("uniter", "UNITER"), ("vinvl", "VinVL"))
    ),
    *(
        Claim(
            f"vilt-as-good-as-{rival}",
            "vilt",
            VILT,
            f"And costs no more than 2 points against {name}.",
            VQA,
            _against("vilt", rival),
            above=-2.0,
            worth=-2.0,
        )
        for rival, name in (("uniter", "UNITER"), ("vinvl", "VinVL"))
    ),
    Claim(
        "vilt-whole-words",
        "vilt",
        VILT,
        "Hiding whole words teaches more than hiding pieces of them.",
        VQA,
        (Side("whole words", ("system.mlm.unit=word",)), Side("pieces", ("system.mlm.unit=token",), share=-1.0)),
        settings=("text.vocab=atelier-pieces",),  # in the other vocabulary all words of the scenes are whole
        tuning=("task.head=classifier",),  # answers are several pieces
    ),
    Claim(
        "vinvl-sets",
        "vinvl",
        "VinVL (Zhang et al., 2021)",
        "What a detector of four merged sets sees is worth more than what one of a single set does.",
        VQA,
        (Side("four sets", detector=FOUR), Side("one set", share=-1.0, detector=ONE)),
    ),
    Claim(
        "align-noise",
        "align",
        "ALIGN (Jia et al., 2021)",
        "Ten times as many pairs, three in ten of them spoilt, are worth more than a tenth of them clean.",
        RECALL,
        (
            Side("many, noisy", ("data.limit=10000", "data.noise=0.3")),
            Side("few, clean", ("data.limit=1000", "data.noise=0"), share=-1.0),
        ),
        past=replace(PASTS["align"], data=("coco_captions:scenes",)),
    ),
    Claim(
        "e2e-vlp-roles",
        "e2e_vlp",
        "E2E-VLP (Xu et al., 2021)",
        "Detecting things and writing captions on the way help.",
        VQA,
        _without("system.detection=null", "system.captioning=null"),
    ),
    Claim(
        "kd-vlp-teacher",
        "kd_vlp",
        KD,
        "Objects taught by a detector, hidden (OMVM) and meant by phrases (PRA), help.",
        VQA,
        _without("system.omvm=null", "system.pra=null"),
    ),
    Claim(
        "kd-vlp-sooner",
        "kd_vlp",
        KD,
        "Without its detector an answer comes sooner than from a region system, UNITER.",
        SOONER,
        _against("kd_vlp", "uniter"),
        above=1.0,
        worth=1.1,
    ),
    _languages("mural-unseen", "that stand beside no picture in training", UNSEEN),
    _languages("mural-seen", "that stand beside pictures", SEEN),
    Claim(
        "uniter-alignment",
        "uniter",
        UNITER,
        "Aligning words with regions by optimal transport helps.",
        VQA,
        _without("system.wpa=null"),
    ),
    Claim(
        "uniter-conditional",
        "uniter",
        UNITER,
        "Hiding one side at a time teaches more than hiding both.",
        VQA,
        (Side("one side"), Side("both", ("system.masking=joint",), share=-1.0)),
    ),
    Claim(
        "bert-masks",
        "bert",
        "BERT (Devlin et al., 2019)",
        "Of chosen words 80 % hidden, 10 % exchanged and 10 % kept suits whole texts better than all hidden.",
        NEXT,
        (
            Side("80/10/10", ("system.mlm.mask=0.8", "system.mlm.random=0.1")),
            Side("all hidden", ("system.mlm.mask=1", "system.mlm.random=0"), share=-1.0),
        ),
        past=Past(data=("scenes",)),
    ),
    Claim(
        "survey-labels",
        "crossgrid",
        "The survey (vision-language pre-training)",
        f"The fewer labels, the more pre-training is worth: its gain at {FEW} is larger than at {MANY:,}.",
        VQA,
        tuple(
            side
            for labels, worth in ((FEW, 1.0), (SOME, 0.0), (MANY, -1.0))
            for side in (
                Side(f"pre-trained, {labels:,} labels", (), worth, labels=labels),
                Side(f"root only, {labels:,} labels", (), -worth, start="root_only", labels=labels),
            )
        ),
    ),
)
CLAIMS: Mapping[str, Claim] = {claim.name: claim for claim in _CLAIMS}


# ----------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Asked(Cell):
    """A run, fine-tuned or only pre-trained, and what it is asked."""

    asks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> words behind `evaluate`, without --from
    metric: str = ""

    def judged(self, rate: float) -> dict[str, Command]:
        run, commands = self.tunings[rate].makes.parent, {}
        for name, (task, *words) in self.asks.items():
            items = run / f"asked-{digest([task, *words])}.jsonl"
            line = ("evaluate", task, "--from", str(run), *words, "--items", str(items))
            commands[name] = Command(f"scoring {self.system} on {self.task}", line, items)
        return commands

    def items(self, command: Command) -> list[dict[str, Any]]:
        return [item | {"score": _score(item, self.metric)} for item in super().items(command)]


def _score(item: Mapping[str, Any], metric: str) -> float:
    if not metric:
        return item["score"]
    scores = item["scores"] if "scores" in item else {name: part / count for name, (part, count) in item["sums"].items() if count}
    if metric == "mean":
        return sum(scores.values()) / len(scores)
    if metric not in scores:
        raise UserError(f"{item['key']}: no '{metric}' in it{nearest(metric, scores)}")
    return scores[metric]


class Claims(Commands):
    """The cells of all claims, a list (by seed) for each side."""

    def __init__(self, claims: Sequence[Claim], budget: Budget, seeds: int, out: Path):
        super().__init__(budget, seeds, out)
        self.claims = claims
        self.fields = {task: field_of(task) for task in {claim.measure.task for claim in claims if claim.measure.is_tuned}}
        self.sides: dict[tuple[str, str], list[Asked]] = {}
        for claim in claims:
            for side in claim.sides:
                self._add(claim, side)

    def chain(self, claim: Claim, side: Side) -> Chain:
        past = (None if side.system else claim.past) or PASTS[side.system or claim.system]
        settings = (*claim.settings, *side.settings)
        past = replace(past, data=side.data or past.data, detector=side.detector or past.detector, pretraining=settings)
        return self.pasts.of(side.system or claim.system, past)

    def _add(self, claim: Claim, side: Side) -> None:
        chain, arm = self.chain(claim, side), f"{claim.name}-{side.name}".replace(",", "").replace(" ", "-").replace("/", "-")
        cells = self._tuned(claim, side, chain, arm) if claim.measure.is_tuned else [self._untuned(claim, chain, arm)]
        self.add(chain.stages, cells)
        self.sides[claim.name, side.name] = cells

    def _tuned(self, claim: Claim, side: Side, chain: Chain, arm: str) -> list[Asked]:
        found = self.fields[claim.measure.task]
        assert found is not None, f"{claim.name}: {claim.measure.task} is not to be learnt on the embedded data"
        asked = self.budget.asked_of(found.task)
        words = {
            name: (found.task, *words)
            for name, words in _asks(claim.measure, found.data, (f"data.limit={asked or 'null'}",)).items()
        }
        cells = []
        for seed in range(self.seeds):
            labels = side.labels or self.budget.labels
            cell = self.tuned(chain, found, arm, seed, start=side.start, labels=labels, more=claim.tuning)
            own = {"key": digest([cell.key, words]), "splits": claim.measure.splits, "asks": words}
            cells.append(Asked(**vars(cell) | own))
        return cells

    def _untuned(self, claim: Claim, chain: Chain, arm: str) -> Asked:
        measure, pretraining = claim.measure, chain.pretraining
        words = {name: (measure.task, *words) for name, words in _asks(measure, measure.data).items()}
        is_own = measure.task == "objectives"
        purpose = find.system_class(chain.system).purpose if is_own else find.task_class(measure.task).purpose
        shas = [self.pasts.sha256(measure.data, split, purpose) for split in measure.splits]
        key = self.pasts.key(pretraining.command.words, pretraining.recipe, words, shas)
        trained = {0.0: pretraining.command}
        return Asked(
            chain.system, measure.task, arm, 0, key, trained, measure.splits, None, measure.data, asks=words, metric=measure.metric
        )


def _asks(measure: Measure, data: str, settings: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Name -> words: each split, and each beside other pictures where that is asked."""
    found = {}
    for name, more in (("", ()), (BLIND, ("data.shuffled=true",))):
        for split in measure.splits if not name or measure.has_blind else ():
            given = (word for setting in (*measure.settings, *settings, *more) for word in ("--set", setting))
            found[f"{name} {split}".strip()] = ("--data", data, "--split", split, *given)
    return found


# ------------------------------------------------------------------------------------------------------------- the verb


def claims(options: Options, out: Path, call: Call) -> dict[str, Any]:
    """Test them; write OUT/claims.json, claims.csv and report.html; the table."""
    from diptych.study import claims_table

    chosen = select(options.systems)
    if options.tasks:
        raise UserError("--tasks: each claim is asked on the task that it is about; --systems takes some claims")
    if options.equal_compute:
        raise UserError("--equal-compute: an arm of the bake-off; a claim's sides cost what they differ in")
    if options.kept:
        raise UserError("--kept: of the bake-off; claims are named one by one (--systems), and kept ones are not computed again")
    crew.claim(out, options.resume)
    tell = progress_line()
    tell("planning")
    plan = Claims(chosen, options.budget, options.seeds, out)
    work = Work(plan, Results(options.results / FOLDER))
    crew.carry_out(work, options.jobs, out / "log", call, tell)
    tell("measuring time")
    table = claims_table.table(plan, work, claims_table.times(plan, work)) | {"version": __version__}
    checkpoint.write_json(out / "claims.json", table)
    checkpoint.write_file(out / "claims.csv", claims_table.csv_of(table).encode())
    checkpoint.write_file(out / "report.html", claims_table.page_of(table, work).encode())
    return table


def select(names: Sequence[str]) -> list[Claim]:
    """Claims by their own name, or by that of their system; all if none is named."""
    systems = {claim.system for claim in CLAIMS.values()}
    for name in names:
        if name not in systems and name not in CLAIMS:
            raise UserError(f"--systems {name}: no claim of that name or system{nearest(name, {*systems, *CLAIMS})}")
    return [claim for claim in CLAIMS.values() if not names or {claim.name, claim.system} & set(names)]
