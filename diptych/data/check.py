"""The pre-flight of a data set: what it holds and everything that is amiss with it, before anything is trained.

    every sample      counted by split; its pictures must be there; captions compared; languages, answers
    a drawn sample    (`SAMPLE` samples, or all) pictures decoded and compared byte by byte; texts turned into tokens

Readers of own data have a `survey`, which goes on where `open` would stop. Of the public layouts each split is opened; what its
reader refuses to read is one problem. A problem is fatal where training would refuse or go wrong; the others are warnings.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from diptych.config import Recipe, UserError, nearest
from diptych.contracts import Reader, Sample, Tokenizer
from diptych.data import files
from diptych.data.files import Problem
from diptych.data.picture import BrokenPicture, decode
from diptych.data.words import SHATTERED, Words

SAMPLE = 2_000
SHOWN = 5  # places named of each kind of problem
MOST_CUT, MOST_UNKNOWN, MOST_SHATTERED = 0.05, 0.01, 0.05  # shares above which there is a warning


class Held(NamedTuple):
    """What one split of one reader holds."""

    samples: int
    pictures: int
    texts: int


@dataclass
class Report:
    """All that is known of one data set."""

    name: str
    purposes: dict[str, tuple[str, ...]]  # of each reader
    recipe: Recipe
    held: dict[str, dict[str, Held]] = field(default_factory=dict)  # reader -> split -> numbers
    refused: set[str] = field(default_factory=set)  # purposes that fine-tuning finds nothing to learn for
    asking: set[str] = field(default_factory=set)  # readers whose texts are questions
    problems: list[tuple[str, Problem]] = field(default_factory=list)  # with the reader they keep from being used; "": all
    pictures: dict[str, set[str]] = field(default_factory=dict)  # path -> splits
    looked: int = 0  # pictures that were drawn to be decoded
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (width, height) of those that could be
    languages: Counter[str] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)  # by hash: millions of texts would fill the memory
    answers: Counter[str] = field(default_factory=Counter)
    words: Words = field(default_factory=Words)

    @property
    def usable(self) -> list[str]:
        """The purposes that nothing fatal stands against."""
        barred = {reader for reader, problem in self.problems if problem.is_fatal}
        fit = {
            p for reader, purposes in self.purposes.items() if not barred & {reader, ""} and self.held.get(reader) for p in purposes
        }
        return sorted(fit)

    @property
    def trainable(self) -> list[str]:
        """Those of them that there is anything to train on for, not only to be asked about."""
        served = {p for reader, purposes in self.purposes.items() if "train" in self.held.get(reader, {}) for p in purposes}
        return [purpose for purpose in self.usable if purpose in served - self.refused]

    @property
    def verdict(self) -> str:
        kinds = Counter(problem.kind for _, problem in self.problems if problem.is_fatal)
        fatal = ", ".join(f"{kind}{f' ({count:,})' if count > 1 else ''}" for kind, count in kinds.items())
        if not self.usable:
            return f"not usable: {fatal or 'nothing in it'}"
        rest = sorted({purpose for purposes in self.purposes.values() for purpose in purposes} - set(self.usable))
        barred = f"; not for {', '.join(rest)}: {fatal}" if rest else ""
        asked = [purpose for purpose in self.usable if purpose not in self.trainable]
        fit = {"for": self.trainable, "to evaluate on, not to train on:": asked}
        told = "; ".join(f"{what} {', '.join(purposes)}" for what, purposes in fit.items() if purposes)
        return f"ready{' with warnings' * bool(self.problems)} {told}{barred}"

    @property
    def kinds(self) -> dict[tuple[str, bool], list[str]]:
        """(kind, is it fatal) -> places; what is fatal comes first."""
        kinds: dict[tuple[str, bool], list[str]] = {}
        for _, problem in sorted(self.problems, key=lambda entry: not entry[1].is_fatal):
            kinds.setdefault((problem.kind, problem.is_fatal), []).append(problem.said)
        return kinds

    def as_json(self) -> dict[str, Any]:
        words, text = self.words, self.recipe.text
        return {
            "data": self.name,
            "usable_for": self.usable,
            "verdict": self.verdict,
            "readers": {
                reader: {"for": list(purposes), "splits": {s: held._asdict() for s, held in self.held.get(reader, {}).items()}}
                for reader, purposes in self.purposes.items()
            },
            "pictures": {"distinct": len(self.pictures), "decoded": len(self.sizes), **_spread(self.sizes)},
            "captions": {
                "all": self.captions.total(),
                "different": len(self.captions),
                "languages": dict(self.languages.most_common()),
            },
            "answers": {
                "all": self.answers.total(),
                "different": len(self.answers),
                "commonest": dict(self.answers.most_common(1)),
            },
            "tokens": {
                "vocab": text.vocab,
                "texts": len(words.lengths),
                "median": median(words.lengths or [0]),
                "longest": max(words.lengths, default=0),
                "max_tokens": text.max_tokens,
                "cut": words.cut(text.max_tokens),
                "pieces_per_word": words.pieces / max(words.words, 1),
                "unknown": words.share(words.unknown),
                "unknown_words": dict(words.unknown.most_common(100)),
                "shattered": words.share(words.shattered),
                "shattered_words": dict(words.shattered.most_common(100)),
            },
            "problems": [
                {"kind": kind, "fatal": is_fatal, "count": len(places), "places": places}
                for (kind, is_fatal), places in self.kinds.items()
            ],
        }


def check(
    name: str,
    root: Path,
    classes: Mapping[str, Any],
    tokenizer: Tokenizer,
    recipe: Recipe,
    split: str = "",
    everything: bool = False,
    refusal: Callable[[str, Sequence[Reader]], str] = lambda purpose, readers: "",
) -> Report:
    """Look at what `classes`, the readers that recognised `root`, find there; at one split or at all.

    refusal: what training for a purpose would say to its data before it began, if it would.
    """
    report = Report(name, {reader: tuple(sorted(cls.purposes)) for reader, cls in classes.items()}, recipe)
    opened = []
    for reader_name, cls in classes.items():
        readers, problems = opened_splits(cls, root)
        report.problems += [(reader_name, problem) for problem in problems]
        report.held[reader_name] = {}
        opened += [(reader_name, of, readers[of]) for of in sorted(readers, key=_usual)]
    splits = dict.fromkeys(of for _, of, _ in opened)
    if split and splits and split not in splits:
        raise UserError(f"{name}: no split '{split}'{nearest(split, splits)}")
    opened = [(reader_name, of, reader) for reader_name, of, reader in opened if split in ("", of)]

    total = sum(len(reader) for _, _, reader in opened)
    drawn = None if everything or total <= SAMPLE else set(random.Random(0).sample(range(total), SAMPLE))
    looked: dict[str, str | None] = {}  # picture -> digest, None for one that cannot be read
    number = 0
    for reader_name, of, reader in opened:
        pictures, texts = set(), 0
        for sample in _samples(reader):
            paths = {_name(sample, place): source for place, source in enumerate(sample.images)}
            for path in paths:
                report.pictures.setdefault(path, set()).add(of)
            pictures |= paths.keys()
            texts += len(sample.texts)
            _tell(report, reader_name, sample)
            if drawn is None or number in drawn:
                for path in paths.keys() - looked.keys():
                    looked[path] = _look(report, path, paths[path])
                for text in sample.texts:
                    report.words.add(text, tokenizer)
            number += 1
        report.held[reader_name][of] = Held(len(reader), len(pictures), texts)
    report.looked = len(looked)
    report.problems += [("", problem) for problem in (*_unreadable(report, looked), *_twins(report, looked), *_of_texts(report))]
    if not split:
        report.problems += [(reader, problem) for reader, problem in _missing_splits(report)]
    for purpose in report.trainable:
        said = refusal(purpose, [reader for name, of, reader in opened if of == "train" and purpose in report.purposes[name]])
        if said:
            report.refused.add(purpose)
            report.problems.append(("", Problem("nothing to learn", f"{report.name}: {said}", is_fatal=False)))
    return report


# ----------------------------------------------------------------------------------------------------- opening


def opened_splits(cls: Any, root: Path) -> tuple[dict[str, Reader], list[Problem]]:
    """Every split that opens, and why the others don't."""
    if hasattr(cls, "survey"):
        return cls.survey(root)
    readers, refusals = {}, {}
    for split in _splits(cls, root):
        try:
            readers[split] = cls.open(root, split)
        except UserError as error:
            refusals[split] = str(error)
        except (LookupError, TypeError, ValueError) as error:
            refusals[split] = (
                f"{root}: the files of split '{split}' are not laid out as published ({type(error).__name__}: {error})"
            )
    problems = [
        Problem("splits that cannot be read", said, is_fatal=split == "train" or not readers) for split, said in refusals.items()
    ]
    return readers, list(dict.fromkeys(problems))


def _splits(cls: Any, root: Path) -> Sequence[str]:
    """A reader names its splits when it is asked for one that is not there."""
    try:
        cls.open(root, "")
    except files.NoSplit as refusal:
        return [split for split in refusal.splits if split != "all"]
    except (UserError, LookupError, TypeError, ValueError):
        pass
    return ("train",)  # opening it will tell what is wrong


def _usual(split: str) -> tuple[int, str]:
    """train, val, test, then others by name."""
    usual = list(files.HASHED)
    return (usual.index(split) if split in usual else len(usual)), split


def _samples(reader: Reader) -> Iterator[Sample]:
    return (reader[index] for index in range(len(reader)))


def _name(sample: Sample, place: int) -> str:
    source = sample.images[place]
    return str(source) if isinstance(source, Path) else f"{sample.key}[{place}]"


# ------------------------------------------------------------------------------------------------------ looking


def _tell(report: Report, reader: str, sample: Sample) -> None:
    if sample.is_question:
        report.asking.add(reader)
        report.answers.update(str(sample.labels[name]) for name in ("answer", "label") if name in sample.labels)
    else:
        report.languages[sample.language] += len(sample.texts)
        report.captions.update(map(hash, sample.texts))


def _look(report: Report, path: str, source: Path | bytes) -> str | None:
    """Decode one picture; the sha256 of its file, or a problem and None."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise BrokenPicture("not a file")  # of a pipe, no one knows when it ends
        content = source.read_bytes() if isinstance(source, Path) else source
        if not content:
            raise BrokenPicture("an empty file")
        height, width, _ = decode(content).shape
    except FileNotFoundError:
        return None  # counted with all others that are not there
    except (BrokenPicture, OSError) as error:
        report.problems.append(("", Problem(_UNREADABLE, f"{path}: {error}", is_fatal=False)))
        return None
    report.sizes.append((width, height))
    return hashlib.sha256(content).hexdigest()


_UNREADABLE = "pictures that cannot be read"


def _unreadable(report: Report, looked: Mapping[str, str | None]) -> Iterator[Problem]:
    """Pictures that are not there, of all; and whether training would put up with so many that cannot be read."""
    gone = files.absent(Path(), [path for path in report.pictures if looked.get(path) is None])
    yield from (Problem(_UNREADABLE, f"{path}: no such file", is_fatal=False) for path in sorted(gone & report.pictures.keys()))
    broken, most = sum(digest is None for digest in looked.values()), report.recipe.data.max_broken
    for bad, of in ((broken, len(looked)), (len(gone), len(report.pictures))):
        if bad > max(1, most * of):
            said = f"{bad} of {of} pictures cannot be read, and training refuses more than data.max_broken={most:g}"
            yield Problem("too many broken pictures", said)
            return


def _twins(report: Report, looked: Mapping[str, str | None]) -> Iterator[Problem]:
    """The same picture twice, above all in two splits: what was trained on is no test."""
    same: dict[str, list[str]] = {}
    for path, digest in looked.items():
        if digest:
            same.setdefault(digest, []).append(path)
    groups = [paths for paths in same.values() if len(paths) > 1]
    for path, *others in groups:
        yield from (Problem("pictures that are there twice", f"{other}: the same as {path}", is_fatal=False) for other in others)
    for path, *others in [*groups, *([path] for path, splits in report.pictures.items() if len(splits) > 1)]:
        splits = sorted(set().union(*(report.pictures[one] for one in (path, *others))), key=_usual)
        if len(splits) > 1:
            yield Problem("pictures in several splits", f"{path}: in {' and '.join(splits)}", is_fatal=False)


def _of_texts(report: Report) -> Iterator[Problem]:
    words, text = report.words, report.recipe.text
    if (cut := words.cut(text.max_tokens)) > MOST_CUT:
        cure = f"--set text.max_tokens={max(words.lengths)} keeps all"
        yield Problem("texts that are cut", f"{cut:.0%} of the texts at text.max_tokens={text.max_tokens}; {cure}", is_fatal=False)
    for fate, of, most in (("does not know", words.unknown, MOST_UNKNOWN), ("breaks into pieces", words.shattered, MOST_SHATTERED)):
        if (share := words.share(of)) > most:
            said = f"{share:.1%} of all with text.vocab={text.vocab}, such as {words.commonest(of)}; try --set text.vocab=PATH"
            yield Problem(f"words that the vocabulary {fate}", said, is_fatal=False)


def _missing_splits(report: Report) -> Iterator[tuple[str, Problem]]:
    for reader, held in report.held.items():
        for split, lost in (("train", "nothing can be trained on it"), ("val", "no score is taken after fine-tuning")):
            if held and split not in held:
                near = nearest(split, held).replace("valid:", "found:")
                said = f"{report.name} ({reader}): no split '{split}', so {lost}{near}"
                yield reader, Problem("missing splits", said, is_fatal=False)


# ------------------------------------------------------------------------------------------------------- telling


def lines(report: Report) -> list[str]:
    """The report for a person, without its verdict."""
    told = [f"{report.name}: {len(report.pictures):,} picture{'s' * (len(report.pictures) != 1)}"]
    for reader, held in report.held.items():
        told.append(f"  {reader}, for {', '.join(report.purposes[reader])}")
        heading = "questions" if reader in report.asking else "captions"
        told += [f"    {'split':18}{'samples':>10}{'pictures':>10}{heading:>11}"] * bool(held)
        told += [f"    {split:18}{n.samples:>10,}{n.pictures:>10,}{n.texts:>11,}" for split, n in held.items()]
    told += [f"  {name:12}{fact}" for name, fact in _facts(report)]
    for (kind, is_fatal), places in report.kinds.items():
        heading = f"  {'error' if is_fatal else 'warning'}: {kind}"
        told += [f"{heading}: {places[0]}"] if len(places) == 1 else [f"{heading} ({len(places):,})"]
        told += [f"    {place}" for place in places[:SHOWN] if len(places) > 1]
        told += [f"    and {len(places) - SHOWN:,} more; --json names all"] * (len(places) > SHOWN)
    return told


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    words, text = report.words, report.recipe.text
    if report.sizes:
        drawn = "all" if report.looked == len(report.pictures) else f"drawn {report.looked:,}"
        read = "decoded" if len(report.sizes) == report.looked else f"looked at, {len(report.sizes):,} decoded"
        sizes = " to ".join(dict.fromkeys(f"{width} x {height}" for width, height in _spread(report.sizes).values()))
        yield "pictures", f"{drawn} {read}; {sizes} pixels"
    if report.captions:
        languages = ", ".join(f"{language} {count:,}" for language, count in report.languages.most_common(8))
        more = f" and {len(report.languages) - 8} more" if len(report.languages) > 8 else ""
        yield "captions", f"{report.captions.total():,}, {len(report.captions):,} different; languages: {languages}{more}"
    if report.answers:
        (answer, count), *_ = report.answers.most_common(1)
        share = count / report.answers.total()
        yield "answers", f"{len(report.answers):,} different; the commonest, '{answer}', is right for {share:.0%}"
    if words.lengths:
        lengths = f"{median(words.lengths):.0f} (median) to {max(words.lengths)} of text.max_tokens={text.max_tokens}"
        yield "tokens", f"{lengths}; {words.cut(text.max_tokens):.1%} of the texts are cut"
        yield (
            "vocabulary",
            f"{text.vocab}: {words.pieces / max(words.words, 1):.2f} pieces a word; "
            f"{words.share(words.unknown):.1%} of words unknown, {words.share(words.shattered):.1%} in {SHATTERED} pieces or more",
        )


def _spread(sizes: Iterable[tuple[int, int]]) -> dict[str, list[int]]:
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    if not ordered:
        return {}
    return {"smallest": [*ordered[0]], "median": [*ordered[len(ordered) // 2]], "largest": [*ordered[-1]]}
