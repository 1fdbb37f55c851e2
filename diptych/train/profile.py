"""Where the time of a training step goes: `--profile` records ten steps and leaves a page and a trace in the run directory.

    profile.html        stages of a step, parts of the model, dearest operations: opens in any browser
    profile-trace.json  every operation on a time axis, for chrome://tracing or ui.perfetto.dev

Recording costs time of its own, so shares are to be trusted more than milliseconds. Training goes on afterwards as if nothing had
been asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from diptych.checkpoint import write_file
from diptych.contracts import Trainable

WARM, RECORDED = 5, 10  # steps: caches, compiled kernels and the allocator settle in the first ones
STAGES = ("fetch", "forward", "backward", "update")
_PART = "part: "


class Cost(NamedTuple):
    name: str
    milliseconds: float  # of one step
    calls: float  # in one step


@dataclass(frozen=True)
class Profiled:
    """Means over the recorded steps."""

    steps: int
    milliseconds: float  # of one step, recording included
    stages: list[Cost]  # in their order; what is left of the step is bookkeeping
    parts: list[Cost]  # of the system, in its forward pass, dearest first
    operations: list[Cost]  # torch's, without what they call, dearest first
    threads: int = field(default_factory=torch.get_num_threads)


Page = Callable[[Profiled, Path], str]  # what was found and the run directory -> a page


class Profile:
    """Around the loop; `step` behind each of its steps."""

    def __init__(self, model: Trainable, directory: Path, page: Page, tell: Callable[[str], None]):
        self.model, self.directory, self.page, self.tell = model, directory, page, tell
        self.steps = 0

    @contextmanager
    def recording(self) -> Iterator[Callable[[], None]]:
        """Gives what to call behind each step."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it complains on standard error of a machine without a GPU
        is_cuda = next(self.model.parameters()).is_cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
        times = schedule(wait=0, warmup=WARM, active=RECORDED, repeat=1)
        ranges = _Ranges(getattr(self.model, "system", self.model))
        with profile(activities=activities, schedule=times, on_trace_ready=self._write, acc_events=True) as recorder:

            def step() -> None:
                self.steps += 1
                recorder.step()

            yield step
        ranges.remove()
        if self.steps < WARM + RECORDED:
            self.tell(f"--profile: nothing was recorded; it takes {WARM + RECORDED} steps, and there were {self.steps}")

    def _write(self, recorder: profile) -> None:
        if self.steps < WARM + RECORDED:  # at an early end, what has begun of the next step would count as one
            return
        trace = self.directory / "profile-trace.json"
        recorder.export_chrome_trace(str(trace))
        file = self.directory / "profile.html"
        write_file(file, self.page(summarise(recorder), self.directory).encode())
        self.tell(f"profile of {RECORDED} steps: {file}; every operation: {trace}")


def summarise(recorder: profile) -> Profiled:
    events = {event.key: event for event in recorder.key_averages()}
    whole = [event for key, event in events.items() if key.startswith("ProfilerStep")]
    steps = sum(event.count for event in whole)
    is_cuda = any(event.self_device_time_total > 0 for event in events.values())

    def cost(name: str, event: Any, microseconds: float) -> Cost:
        return Cost(name, microseconds / 1000 / steps, event.count / steps)

    stages = [cost(name, events[name], events[name].cpu_time_total) for name in STAGES if name in events]
    parts = [cost(k.removeprefix(_PART), e, e.cpu_time_total) for k, e in events.items() if k.startswith(_PART)]
    operations = [
        cost(key, event, event.self_device_time_total if is_cuda else event.self_cpu_time_total)
        for key, event in events.items()
        if "::" in key and not key.startswith("autograd::engine")
    ]
    milliseconds = sum(event.cpu_time_total for event in whole) / 1000 / steps
    return Profiled(steps, milliseconds, stages, _dearest(parts), _dearest(operations)[:20])


def _dearest(costs: list[Cost]) -> list[Cost]:
    return sorted(costs, key=lambda cost: -cost.milliseconds)


class _Ranges:
    """A named stretch of time for each part of a system, as its file names them."""

    def __init__(self, system: nn.Module):
        self.open: list[record_function] = []
        self.handles = []
        for name, part in _parts(system):
            self.handles.append(part.register_forward_pre_hook(lambda *_, name=name: self._begin(name)))
            self.handles.append(part.register_forward_hook(lambda *_: self._end(), always_call=True))

    def _begin(self, name: str) -> None:
        self.open.append(record_function(_PART + name))
        self.open[-1].__enter__()

    def _end(self) -> None:
        self.open.pop().__exit__(None, None, None)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _parts(system: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in system.named_children():
        if isinstance(part, nn.ModuleDict | nn.ModuleList):  # never called itself
            yield from ((f"{name}.{inner}", module) for inner, module in part.named_children())
        else:
            yield name, part
