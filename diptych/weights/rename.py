"""Parameter names of one code base into those of another, as a table that is read from both sides.

    ("fusion.encoder.layers.{i}.attention.qkv.*", "vilt.encoder.layer.{i}.attention.attention.{query,key,value}.*")

`{i}` counts layers, `*` stands for weight and bias, and `{a,b,c}` for tensors that lie one after the other in ours.
A number of leading dimensions of size 1 that theirs has and ours lacks is noted after the name: "cls_token 2".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


@dataclass
class Report:
    """What did not find its place. Empty: every tensor did."""

    missing: list[str] = field(default_factory=list)  # wanted on the receiving side, not delivered
    unexpected: list[str] = field(default_factory=list)  # delivered, not known to the table or not wanted
    shapes: list[str] = field(default_factory=list)  # "name: 3x4 delivered, 3x5 wanted"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Pair(NamedTuple):
    ours: str
    theirs: tuple[str, ...]
    units: int  # leading dimensions of size 1 in theirs


@dataclass(frozen=True)
class Table:
    rows: Sequence[tuple[str, str]]

    def pairs(self, layers: int) -> Iterator[Pair]:
        for ours, theirs in self.rows:
            theirs, _, units = theirs.partition(" ")
            for i in range(layers if "{i}" in ours else 1):
                for end in ("weight", "bias") if ours.endswith("*") else ("",):
                    one_ours, one_theirs = (name.replace("{i}", str(i)).replace("*", end) for name in (ours, theirs))
                    yield Pair(one_ours, _alternatives(one_theirs), int(units or 0))

    def to_ours(self, state: State, layers: int) -> tuple[dict[str, Tensor], Report]:
        found, used, report = {}, set(), Report()
        for pair in self.pairs(layers):
            absent = [name for name in pair.theirs if name not in state]
            report.missing += absent
            if not absent:
                tensor = torch.cat([state[name] for name in pair.theirs]) if pair.theirs[1:] else state[pair.theirs[0]]
                found[pair.ours] = tensor.reshape(tensor.shape[pair.units :])
                used.update(pair.theirs)
        report.unexpected = sorted(state.keys() - used)
        return found, report

    def to_theirs(self, state: State, layers: int) -> tuple[dict[str, Tensor], Report]:
        found, used, report = {}, set(), Report()
        for pair in self.pairs(layers):
            if pair.ours not in state:
                report.missing.append(pair.ours)
                continue
            tensor = state[pair.ours]
            tensor = tensor.reshape((1,) * pair.units + tensor.shape)
            pieces = tensor.chunk(len(pair.theirs)) if pair.theirs[1:] else (tensor,)
            found.update(zip(pair.theirs, (piece.contiguous() for piece in pieces), strict=True))
            used.add(pair.ours)
        report.unexpected = sorted(state.keys() - used)
        return found, report


def layers_in(state: State, pattern: str) -> int:
    """How many values `{i}` takes in the names that fit the pattern."""
    match = re.compile(re.escape(pattern).replace(re.escape("{i}"), r"(\d+)"))
    return len({found.group(1) for name in state if (found := match.match(name))})


def compare(module: nn.Module, state: State) -> Report:
    """Would `state` fill the module exactly?"""
    wanted = module.state_dict()
    both = wanted.keys() & state.keys()
    return Report(
        sorted(wanted.keys() - both),
        sorted(state.keys() - both),
        [f"{n}: {_by(state[n])} delivered, {_by(wanted[n])} wanted" for n in sorted(both) if state[n].shape != wanted[n].shape],
    )


def _alternatives(name: str) -> tuple[str, ...]:
    found = re.search(r"\{([^}]*)\}", name)
    return tuple(name.replace(found.group(0), choice) for choice in found.group(1).split(",")) if found else (name,)


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
