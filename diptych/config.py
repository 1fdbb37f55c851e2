"""Configuration: what a run is made of, as data that is checked before anything starts.

Every part owns a `Config` (unknown keys are refused) and is built from it by `config.build(...)`. A preset is a function that
returns a `Recipe`; a YAML file and `--set a.b=c` change it; the resolved recipe is saved as `config.json` and can be fed back.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    model_validator,
)


class UserError(Exception):
    """A user's mistake, said in one line that names the place and the nearest valid name; the command exits with 2."""


def nearest(name: str, valid: Iterable[str], under: str = "") -> str:
    """ "; did you mean 'x'?" or, when nothing is near, the valid names. `under` is what stands before each of them.

    One of the same letters is as near as the nearest: `vitl` is `vit` with a letter too many, or `vilt` with two letters swapped.
    """
    valid = sorted(valid)
    begun = [one for one in valid if name and one.startswith(name)]  # "coco" is coco_captions, though concepts has its letters too
    close = difflib.get_close_matches(name, begun or valid, n=1, cutoff=0.5) or begun[:1]
    swapped = [one for one in valid if sorted(one) == sorted(name)]
    meant = [f"'{under}{one}'" for one in dict.fromkeys([*close, *swapped])]
    return f"; did you mean {' or '.join(meant)}?" if meant else f"; valid: {', '.join(valid) or 'none'}"


class Config(BaseModel):
    """Base of every part's configuration: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)  # JSON has neither


class TextConfig(Config):
    vocab: str = "atelier"  # shipped, for the embedded data; "bytes"; or a path: vocab.txt (WordPiece) or tokenizer.json
    max_tokens: int = Field(default=40, ge=3)  # [CLS] and [SEP] included


Side = Annotated[int, Field(gt=0, le=16_384)]  # pixels
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class ImageConfig(Config):
    """Resize so that the short side is `short` and the long side at most `long`, then down to a multiple of `multiple`."""

    short: Side = 128
    long: Side = 128
    multiple: Side = 32
    augment: Literal["none", "flip", "randaugment"] = "none"  # randaugment: N = 2, M = 9, without inversion and cutout

    @model_validator(mode="after")
    def _sides(self) -> ImageConfig:
        if not self.multiple <= self.short <= self.long:
            raise ValueError(f"multiple={self.multiple}, short={self.short}, long={self.long}: each may be at most the next")
        return self


class PairsConfig(Config):
    """A row is two runs of a document's sentences, or the second run is another document's (data/pairs.py)."""

    short: float = Field(default=0.1, ge=0, le=1)  # share of rows packed to a drawn length below text.max_tokens


class DataConfig(Config):
    image: ImageConfig = ImageConfig()
    texts_per_image: PositiveInt = 1  # rows drawn from one picture's texts; they share its encoding
    foreign: float = Field(default=0.0, ge=0, le=1)  # share of false texts that are another sample's, where near ones are at hand
    shuffled: bool = False  # a control: every text beside another sample's picture
    languages: tuple[str, ...] = ()  # only samples in these are read; none named: all
    evenly: bool = False  # languages are drawn equally often in training, however many samples they have
    noun_phrases: str | None = None  # a pipeline of spaCy, which finds what pre-training texts name (data/phrases.py)
    noise: float = Field(default=0.0, ge=0, le=1)  # share of the texts in pre-training that are spoilt (data/noise.py)
    pairs: PairsConfig | None = None  # None: a row is one text; pairs are packed in training only
    workers: NonNegativeInt = 0
    limit: PositiveInt | None = None  # use the first so many samples
    max_broken: float = Field(default=0.01, ge=0, le=1)  # refuse the run above this share of unreadable pictures


class TrainConfig(Config):
    steps: PositiveInt  # optimiser steps
    batch_size: PositiveInt  # samples per optimiser step, over all ranks and micro-steps
    accumulate: PositiveInt = 1  # micro-steps per optimiser step
    lr: PositiveFloat
    warmup: float = Field(default=0.1, ge=0, le=1)  # share of the steps
    warmup_from: float = Field(default=0.0, ge=0, le=1)  # share of the rate that the warm-up starts from
    schedule: Literal["linear", "cosine", "constant", "steps"] = "linear"
    milestones: tuple[Share, ...] = ()  # shares of the steps after which "steps" multiplies the rate by `drop`
    drop: PositiveFloat = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0.01, ge=0)
    clip: PositiveFloat | None = 1.0  # global norm of the gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device multiplies it faster
    recompute: bool = False  # layers keep their input alone for the backward pass: less memory, about a third more time
    max_skipped: PositiveInt = 10  # steps in a row whose loss or gradient is not finite; then training stops
    freeze: tuple[str, ...] = ()  # prefixes of parameter names
    seed: int = 0
    checkpoint_every: PositiveInt = 500
    validate_every: PositiveInt | None = None  # steps from one look at `val` to the next
    validate_on: PositiveInt = 500  # its first so many samples
    score_on: PositiveInt | None = None  # and so many at the end of fine-tuning; None: all
    log_every: PositiveInt = 50


class Recipe(Config):
    """Everything that decides a run, except where its files lie."""

    system: SerializeAsAny[Config]
    task: SerializeAsAny[Config] | None = None
    text: TextConfig = TextConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig


# ------------------------------------------------------------------------------------- preset, then file, then --set


@dataclass(frozen=True)
class Change:
    """One value for one key, and where the user wrote it."""

    path: tuple[str, ...]
    value: Any
    place: str
    typed: str | None = None  # the characters after "=" on the command line, where YAML may have read more into them than was meant


_MOST_NODES = 100_000


class _Yaml(yaml.SafeLoader):
    """YAML that reads JSON as JSON: 3e-4 is a number (YAML 1.1 wants a dot), two surrogate escapes are one character."""

    def construct_str(self, node: yaml.ScalarNode) -> str:
        return self.construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16")


_Yaml.add_constructor("tag:yaml.org,2002:str", _Yaml.construct_str)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Yaml` would take for numbers."""


for _side in (_Yaml, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def from_file(path: Path) -> list[Change]:
    """The changes a YAML or JSON file asks for. The `config.json` of a run is one: its recipe is what it asks for."""
    if not path.is_file():
        raise UserError(f"{path}: no such file to read a configuration from")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from None
    changes = _read(text, str(path))
    saved = [replace(change, path=change.path[1:]) for change in changes if change.path[0] == "recipe" and len(change.path) > 1]
    return saved or changes


def from_setting(text: str) -> list[Change]:
    """The changes that one `--set a.b=c` asks for; c is read as YAML."""
    place = f"--set {text}"
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{place}: write it as a.b=c, for example train.lr=3e-4")
    return [replace(change, place=place, typed=value) for change in _read(value, place, tuple(key.split(".")))]


def resolve(recipe: Recipe, *layers: Sequence[Change]) -> Recipe:
    """`recipe` with every layer's changes made, the later over the earlier, and everything checked at the end."""
    hints = {name: field.annotation for name, field in Recipe.model_fields.items()}
    hints |= {"system": type(recipe.system), "task": None if recipe.task is None else type(recipe.task)}
    values = recipe.model_dump()
    leaves = [".".join(path) for path in flat(values)]
    changes = [change for layer in layers for change in sorted(layer, key=lambda change: change.path[-1] != "kind")]
    for change in changes:
        first = change.path[0]
        if hints.get(first, Config) is None and (change.path, change.value) == (("task",), None):
            continue
        if first not in hints or hints[first] is None:
            raise _unknown(change, 0, [name for name, hint in hints.items() if hint is not None], leaves)
        values[first] = _put(values[first], hints[first], change, 1, leaves)
    return checked(values, type(recipe.system), None if recipe.task is None else type(recipe.task), changes)


def checked(values: Mapping[str, Any], system: type[Config], task: type[Config] | None, changes: Sequence[Change] = ()) -> Recipe:
    """The recipe that plain values describe. All mistakes are named at once, each with the place it came from."""
    parts: dict[str, Any] = {}
    mistakes: list[str] = []
    for name, value in values.items():
        if name not in Recipe.model_fields:
            raise UserError(f"{name}: unknown key{nearest(name, Recipe.model_fields)}")
        part = {"system": system, "task": task}.get(name, Recipe.model_fields[name].annotation)
        if name == "task" and (value is None or part is None):
            parts[name] = None
            continue
        try:
            parts[name] = part.model_validate(value)
        except ValidationError as error:
            mistakes += explain(error, value, (name,), changes)
    if mistakes:
        raise UserError("; ".join(mistakes))
    return Recipe(**parts)


def explain(error: ValidationError, value: Any, prefix: tuple[str, ...] = (), changes: Sequence[Change] = ()) -> list[str]:
    """One line for each mistake that pydantic found in `value`: where it was written, which key, what is wrong."""
    lines = []
    for found in error.errors(include_url=False):
        path, node = [*prefix], value
        for step in found["loc"]:
            if isinstance(node, Mapping) and step not in node and found["type"] != "missing":
                continue  # the tag of a union, which is no key of the data
            path.append(str(step))
            with contextlib.suppress(LookupError, TypeError):
                node = node[step]
        place = next((c.place for c in reversed(changes) if list(c.path[: len(path)]) == path[: len(c.path)]), None)
        key, given = ".".join(path), found["input"]
        said = _IN_OUR_WORDS.get(found["type"]) or found["msg"].removeprefix("Value error, ").replace("Input should", "must")
        got = "" if isinstance(given, Mapping | BaseModel) else f", not {'null' if given is None else repr(given)}"
        if place is None or not place.startswith("--set"):
            said = f"{key}: {said}"
        lines.append(f"{place}: {said}{got}" if place else f"{said}{got}")
    return lines


_IN_OUR_WORDS = {"tuple_type": "must be a list, as in [a, b]", "missing": "is missing"}


def flat(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested mappings as {path: leaf}; a list is a leaf."""
    if isinstance(values, Mapping) and values:
        return {leaf: v for key, value in values.items() for leaf, v in flat(value, (*path, str(key))).items()}
    return {path: values}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two saved configurations, one line a key."""
    a, b = flat(there), flat(here)

    def said(leaves: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> str:
        return repr(leaves[path]) if path in leaves else "absent"

    return [
        f"{'.'.join(path)}: {said(a, path)} there, {said(b, path)} here" for path in {**a, **b} if said(a, path) != said(b, path)
    ]


def to_yaml(recipe: Recipe) -> str:
    values = recipe.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _read(text: str, source: str, prefix: tuple[str, ...] = ()) -> list[Change]:
    """The leaves of a YAML text, each with the line it stands on."""
    try:
        loader = _Yaml(text)
        root = loader.get_single_node()
        if root is None and not prefix:
            return []
        if _size(root, {}) > _MOST_NODES:
            raise UserError(f"{source}: more than {_MOST_NODES:,} values, or one that holds itself: no configuration of a run")
        if not prefix and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{source}: a configuration is keys and values, for example 'train: {{lr: 3e-4}}'")

        def leaves(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[Change]:
            place = source if node is None or prefix else f"{source} line {node.start_mark.line + 1}"
            if not isinstance(node, yaml.MappingNode) or not node.value:
                yield Change(path, None if node is None else loader.construct_object(node, deep=True), place)
                return
            seen = set()
            for key_node, value_node in node.value:
                key = str(loader.construct_object(key_node))
                if key in seen:
                    raise UserError(f"{source} line {key_node.start_mark.line + 1}: {'.'.join((*path, key))} is given twice")
                seen.add(key)
                yield from leaves(value_node, (*path, key))

        return list(leaves(root, prefix))
    except yaml.YAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        said = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise UserError(f"{source}{'' if prefix else line}: not valid YAML: {said}") from None
    except (ValueError, LookupError, AttributeError) as error:  # YAML's own readers, of a month 13, `!!int x`, half a character
        raise UserError(f"{source}: a value that YAML cannot read: {error}") from None
    except RecursionError:
        raise UserError(f"{source}: nested too deep") from None


def _size(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Values below, an alias counted wherever it stands: ten lines of aliases of aliases are more than any memory holds."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # while it is being counted: one that holds itself has no end
        children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _put(value: Any, hint: Any, change: Change, depth: int, leaves: Sequence[str]) -> Any:
    """`value`, which has type `hint` and lies `depth` keys deep, with `change` made in or below it."""
    kinds = _configs(hint)
    if depth == len(change.path):
        if kinds and change.value == {}:
            return value
        if kinds and not (change.value is None and type(None) in get_args(hint)):
            raise _no_value(change, hint, kinds)
        return _as_typed(change, hint)
    key = change.path[depth]
    if kinds:
        value = {} if value is None else dict(value)
        if key == "kind" and depth + 1 == len(change.path) and any("kind" in one.model_fields for one in kinds.values()):
            if not isinstance(change.value, str) or change.value not in kinds:  # a list cannot even be looked up
                where = ".".join(change.path)
                raise UserError(
                    f"{change.place}: {where} cannot be {change.value!r}{nearest(str(change.value), filter(None, kinds))}"
                )
            # What both kinds have stays as the preset set it; what only the old one knew goes.
            return {name: v for name, v in value.items() if name in kinds[change.value].model_fields} | {"kind": change.value}
        if len(kinds) > 1 and "kind" not in value and "" not in kinds:  # one of them may be what is meant where none is said
            raise UserError(f"{change.place}: say first which kind: {'.'.join(change.path[:depth])}.kind={' or '.join(kinds)}")
        owner = kinds[value.get("kind", "")] if len(kinds) > 1 else next(iter(kinds.values()))
        if key not in owner.model_fields:
            raise _unknown(change, depth, owner.model_fields, leaves)
        field = owner.model_fields[key]
        if key not in value:
            default = field.get_default(call_default_factory=True, validated_data={})
            value[key] = default.model_dump() if isinstance(default, BaseModel) else default
        return value | {key: _put(value[key], field.annotation, change, depth + 1, leaves)}
    inner = get_args(get_args(hint)[0]) if get_origin(hint) is Annotated else get_args(hint)
    if isinstance(value, Mapping):
        return {**value, key: _put(value.get(key), inner[-1] if inner else Any, change, depth + 1, leaves)}
    if isinstance(value, list | tuple):
        if not key.isdecimal() or len(key) > 9 or int(key) > len(value):
            raise UserError(f"{change.place}: {'.'.join(change.path[:depth])} is a list of {len(value)}: its items are 0, 1, ...")
        item = int(key)
        one = inner[min(item, len(inner) - 1)] if inner and inner[-1] is not ... else inner[0] if inner else Any
        old = value[item] if item < len(value) else None
        return [*value[:item], _put(old, one, change, depth + 1, leaves), *value[item + 1 :]]
    raise UserError(f"{change.place}: {'.'.join(change.path[:depth])} is one value ({value!r}), it has no '{key}' in it")


def _as_typed(change: Change, hint: Any) -> Any:
    """The reading of a value that its type accepts: `augment=none` is a word where `limit=none` is nothing at all."""
    if change.typed is None or isinstance(change.value, Mapping):
        return change.value
    readings = [change.value, change.typed, *([None] if change.typed.lower() == "none" else [])]
    adapter = TypeAdapter(hint)
    for reading in readings[::-1] if change.typed == "None" else readings:
        with contextlib.suppress(ValidationError):
            adapter.validate_python(reading)
            return reading
    return change.value


def _configs(hint: Any) -> dict[str, type[Config]]:
    """The `Config` classes a type allows, by kind."""
    if isinstance(hint, type) and issubclass(hint, Config):
        kind = hint.model_fields.get("kind")
        return {str(kind.default) if kind else "": hint}
    if get_origin(hint) in (Annotated, Union, UnionType):
        return {kind: found for inner in get_args(hint) for kind, found in _configs(inner).items()}
    return {}


def _no_value(change: Change, hint: Any, kinds: Mapping[str, type[Config]]) -> UserError:
    """One value in the place of a group of keys."""
    key = ".".join(change.path)
    within = f"{key}.kind={' or '.join(kinds)}" if len(kinds) > 1 else ", ".join(next(iter(kinds.values())).model_fields)
    off = "; null switches it off" if type(None) in get_args(hint) else ""
    given = "null" if change.value is None else repr(change.value)
    return UserError(f"{change.place}: {key} cannot be {given}, it holds keys of its own: {within}{off}")


def _unknown(change: Change, depth: int, valid: Iterable[str], leaves: Sequence[str]) -> UserError:
    key = change.path[depth]
    elsewhere = [leaf for leaf in leaves if leaf.split(".")[-1] == key]
    under = "".join(f"{part}." for part in change.path[:depth])
    hint = f"; did you mean '{elsewhere[0]}'?" if elsewhere else nearest(key, valid, under)
    return UserError(f"{change.place}: unknown key '{'.'.join(change.path[: depth + 1])}'{hint}")
