"""Runs that are killed with SIGKILL, again and again, and must end as the run that was left alone. `make fire` is this program.

    python tests/fire/kills.py [--kills 200] [--seed 0] [--jobs 2] [--only NAME ...] [--keep DIR]

An *arm* is a run to kill: the toy (with loader workers, accumulation, bf16, broken pictures, poisoned samples, two gloo ranks under
torchrun) and every system with every hinge, found by looking. Each arm runs once untouched: the reference. Then come *chains*: the
same run, killed `CHAIN` times in as many sittings, then left to finish. Equal means, byte for byte: weights, optimiser state,
counters, the log without its clock, skipped.jsonl, quarantine.jsonl; and every step of every sitting took the reference's samples.

Half of the kills come by the clock, from outside, at a random moment of the sitting. The others are aimed at a *moment*:

    torn       half of a file of a checkpoint (or of config.json, model.safetensors, result.json) is written
    unnamed    everything is written and flushed, the directory or file does not have its name yet
    named      it has its name; what it replaces is still there
    half gone  one file of an old checkpoint is removed, the others are not
    half line  half of a line of a .jsonl file is written
    step       a step is done and logged; nothing of it is saved

A sitting is a forked process, so that two hundred of them do not import torch two hundred times; under torchrun they do. All that
aims is in this program: Diptych has no hooks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

import toy_run
from test_every_system import SPECS, TOKENIZER, Case

from diptych import checkpoint, dist
from diptych.data.mixture import Source
from diptych.train import log
from diptych.train.loop import Loop
from diptych.train.run import pretrain

CHAIN = 5  # kills of one run before it is left to finish
PATIENCE = 600.0  # seconds after which a sitting counts as hung
MOMENTS = ("torn", "unnamed", "named", "half gone", "half line", "step")
FILES = ("model.safetensors", "skipped.jsonl", "quarantine.jsonl")  # beside the newest checkpoint and the log


class Arm(NamedTuple):
    name: str
    sit: Callable[[Path], object]  # train in this directory from wherever it stands
    ranks: int = 1


class Kill(NamedTuple):
    """When a sitting ends: after `seconds`, or at the `count`-th `moment` of its process of rank `rank`."""

    moment: str  # "clock" or one of MOMENTS
    count: int = 0
    seconds: float = 0.0
    ranks: tuple[int, ...] = (0,)  # who dies; for an aimed kill the first of them is who is aimed at


class Reference(NamedTuple):
    """What the run left alone gave."""

    state: dict[str, bytes]
    order: dict[str, list[str]]  # "rank step" -> keys of its samples
    moments: dict[str, int]
    seconds: float


# ----------------------------------------------------------------------------------------------------- what is killed


class Poisoned(toy_run.Toy):
    """A batch with the eleventh sample in it has no finite loss: its step is skipped, whichever sitting comes to it."""

    def forward(self, batch):
        terms = super().forward(batch)
        if "toy-11" in batch.keys:
            terms["mlm"] = replace(terms["mlm"], sum=terms["mlm"].sum * float("nan"))
        return terms


def _toy(out: Path, *, cls: type[toy_run.Toy] = toy_run.Toy, broken: Sequence[int] = (), **given: Any) -> None:
    given["train"] = {"steps": 12, "checkpoint_every": 2, "log_every": 1} | given.get("train", {})
    toy_run.train(out, cls=cls, source=toy_run.sources(40, broken), **given)


def _system(out: Path, *, spec: str) -> None:
    case = Case(spec)
    steps = {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "log_every": 1}
    recipe = case.recipe.model_copy(update={"train": case.recipe.train.model_copy(update=steps)})
    pretrain(recipe, case.cls, [Source("samples", case.samples)], out, tokenizer=TOKENIZER, trackers=(), quiet=True)


def arms() -> dict[str, Arm]:
    hard = {"accumulate": 2, "precision": "bf16"}
    found = [
        Arm("toy", _toy),
        Arm("toy, 2 workers", partial(_toy, data={"workers": 2})),
        Arm("toy, 2 micro-steps, bf16", partial(_toy, train=hard)),
        Arm("toy, 2 workers, 2 micro-steps, bf16", partial(_toy, data={"workers": 2}, train=hard)),
        Arm("toy, broken pictures, poison", partial(_toy, cls=Poisoned, broken=(3, 21), data={"max_broken": 0.2, "workers": 1})),
        Arm("toy, 2 ranks", _toy, ranks=2),
        Arm("toy, 2 ranks, 1 worker each, 2 micro-steps, bf16", partial(_toy, data={"workers": 1}, train=hard), ranks=2),
        *(Arm(f"{spec}:tiny", partial(_system, spec=spec)) for spec in SPECS),
    ]
    return {arm.name: arm for arm in found}


# ----------------------------------------------------------------------------------------------- inside of a sitting


class Aim:
    """Counts the moments of this process, and dies at the one it is told of."""

    def __init__(self, kill: Kill | None, beside: Path):
        self.kill, self.beside = kill, beside
        self.count: Counter[str] = Counter()

    def at(self, moment: str) -> bool:
        """Whether it is time to die; so that half of a thing can be done before."""
        self.count[moment] += 1
        kill = self.kill
        return kill is not None and (kill.moment, kill.count, kill.ranks[0]) == (moment, self.count[moment] - 1, dist.rank())

    def die(self) -> None:
        assert self.kill is not None
        for rank in self.kill.ranks[::-1]:
            os.kill(int((self.beside / f"pid{rank}").read_text()), signal.SIGKILL)
        time.sleep(PATIENCE)

    def pass_by(self, moment: str) -> None:
        if self.at(moment):
            self.die()

    def take(self) -> None:
        """Stand at every moment of the library that is aimed at."""
        write, rename, put, remove, append, report = (
            checkpoint._write_flushed,
            os.rename,
            os.replace,
            shutil.rmtree,
            log.append,
            Loop.report,
        )

        def written(path: Path, content: bytes) -> None:
            if self.at("torn"):
                path.write_bytes(content[: len(content) // 2])
                self.die()
            write(path, content)

        def named(move: Callable[..., None], *names: Any) -> None:
            self.pass_by("unnamed")
            move(*names)
            self.pass_by("named")

        def removed(path: Any, *args: Any, **more: Any) -> None:
            if Path(path).name.startswith("step-") and self.at("half gone"):
                next(Path(path).iterdir()).unlink()
                self.die()
            remove(path, *args, **more)

        def appended(file: Path, line: bytes) -> None:
            if self.at("half line"):
                with file.open("ab") as out:
                    out.write(line[: len(line) // 2])
                self.die()
            append(file, line)

        def reported(loop: Loop, outcome: Any) -> None:
            report(loop, outcome)
            self.pass_by("step")

        checkpoint._write_flushed = written
        os.rename, os.replace = partial(named, rename), partial(named, put)
        shutil.rmtree, log.append, Loop.report = removed, appended, reported


def _note_order(beside: Path) -> None:
    """Every step of every sitting, with the keys of its samples."""
    fetch = Loop.fetch

    def fetched(loop: Loop, items: Any) -> Any:
        found = fetch(loop, items)
        keys = [list(batch.keys) for batch in found.batches]
        line = json.dumps([f"{dist.rank()} {loop.progress.step}", json.dumps(keys)]) + "\n"
        with (beside / f"order{dist.rank()}").open("a") as file:
            file.write(line)
        return found

    Loop.fetch = fetched


def sit(arm: Arm, beside: Path, kill: Kill | None) -> None:
    """One sitting, in this process. What this program notes lies beside the run, not in it."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library complains of forks otherwise
    rank = os.environ.get("RANK", "0")
    (beside / f"pid{rank}").write_text(str(os.getpid()))
    aim = Aim(kill, beside)
    aim.take()
    _note_order(beside)
    arm.sit(beside / "run")
    (beside / f"moments{rank}").write_text(json.dumps(aim.count))


# ---------------------------------------------------------------------------------------------- outside of a sitting


def start(arm: Arm, beside: Path, kill: Kill | None) -> str:
    """Begin a sitting, kill it if so planned, wait for its end: "finished", "killed", or what went wrong."""
    beside.mkdir(parents=True, exist_ok=True)
    for rank in range(arm.ranks):
        (beside / f"pid{rank}").unlink(missing_ok=True)
    return _torchrun(arm, beside, kill) if arm.ranks > 1 else _fork(arm, beside, kill)


def _fork(arm: Arm, beside: Path, kill: Kill | None) -> str:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with (beside / "stderr").open("w") as file:
                os.dup2(file.fileno(), 2)
                sit(arm, beside, kill)
                code = 0
        except BaseException:
            (beside / "traceback").write_text(traceback.format_exc())
        os._exit(code)
    began = time.monotonic()
    end = kill.seconds if kill is not None and kill.moment == "clock" else PATIENCE
    while time.monotonic() - began < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _named(os.waitstatus_to_exitcode(status), kill, beside)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "killed" if end < PATIENCE else "hung"


def _named(code: int, kill: Kill | None, beside: Path) -> str:
    if code == 0:
        return "finished"
    if code == -signal.SIGKILL and kill is not None:
        return "killed"
    told = beside / "traceback"
    return f"exit code {code}: {told.read_text() if told.exists() else (beside / 'stderr').read_text()[-1500:]}"


def _torchrun(arm: Arm, beside: Path, kill: Kill | None) -> str:
    program = [__file__, "--sit", arm.name, "--keep", str(beside), "--kill", json.dumps(kill)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arm.ranks), *program]
    with (beside / "stderr").open("w") as file:
        launcher = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        died = False
        try:
            if kill is not None and kill.moment == "clock":
                died = _kill_ranks(launcher, beside, kill)
            code = launcher.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "hung"
        finally:
            if launcher.poll() is None:
                launcher.kill()
                launcher.wait()
                for pid in beside.glob("pid*"):  # ranks are in sessions of their own
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid.read_text()), signal.SIGKILL)
    if code == 0:
        return "finished"
    aimed = kill is not None and kill.moment != "clock" and f"Signal {int(signal.SIGKILL)}" in (beside / "stderr").read_text()
    return "killed" if died or aimed else f"exit code {code}: {(beside / 'stderr').read_text()[-1500:]}"


def _kill_ranks(launcher: subprocess.Popen, beside: Path, kill: Kill) -> bool:
    """By the clock, which starts when all ranks are there."""
    pids = [beside / f"pid{rank}" for rank in kill.ranks]
    while launcher.poll() is None and not all(pid.exists() and pid.read_text() for pid in pids):
        time.sleep(0.01)
    time.sleep(kill.seconds)
    died = False
    for pid in pids:
        if launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
                died = True
    return died


# ------------------------------------------------------------------------------------------------------------ judging


def state_of(run: Path) -> dict[str, bytes]:
    """All that two equal runs have in common."""
    return toy_run.state_of(run) | {f"run/{name}": (run / name).read_bytes() for name in FILES if (run / name).exists()}


def orders_of(beside: Path) -> list[tuple[str, str]]:
    lines = [line for file in sorted(beside.glob("order*")) for line in file.read_text().splitlines()]
    return [(where, keys) for line in lines if line.endswith("]") for where, keys in [json.loads(line)]]


def reference_of(arm: Arm, root: Path) -> Reference:
    beside = root / "reference" / arm.name
    began = time.monotonic()
    end = start(arm, beside, None)
    if end != "finished":
        raise RuntimeError(f"{arm.name}: the run that was left alone did not finish: {end}")
    moments: Counter[str] = Counter()
    for file in beside.glob("moments*"):
        moments |= Counter(json.loads(file.read_text()))
    order: dict[str, list[str]] = {}
    for where, keys in orders_of(beside):
        order.setdefault(where, []).append(keys)
    seconds = time.monotonic() - began
    return Reference(state_of(beside / "run"), order, dict(moments), seconds)


def planned(arm: Arm, rng: Random, reference: Reference) -> Kill:
    dying = rng.choice([(0,), (1,), (0, 1)]) if arm.ranks > 1 else (0,)
    if rng.random() < 0.5:
        training = 2.5 if arm.ranks > 1 else reference.seconds  # under torchrun most of a sitting is imports, before the clock
        return Kill("clock", seconds=rng.uniform(0, training), ranks=dying)
    moment = rng.choice([moment for moment in MOMENTS if reference.moments.get(moment)])
    if dying[0] > 0:
        moment = "step"  # the first rank writes, the others only compute
    return Kill(moment, count=rng.randrange(min(reference.moments[moment], 8)), ranks=dying)


class Chain(NamedTuple):
    arm: str
    number: int
    kills: int
    seed: int


class Verdict(NamedTuple):
    chain: Chain
    kills: list[str]  # the moments at which it was killed in fact
    unequal: str  # nothing, or what differs


def burn(chain: Chain, reference: Reference, root: Path) -> Verdict:
    """Kill one run until it has died `chain.kills` times, let it finish, compare."""
    arm, rng, killed = arms()[chain.arm], Random(chain.seed), []
    beside, attempts = root / f"{chain.number:04d}", 0
    while len(killed) < chain.kills:
        attempts += 1
        kill = planned(arm, rng, reference)
        end = start(arm, beside, kill)
        if end == "killed":
            killed.append(kill.moment if arm.ranks == 1 else f"{kill.moment}, rank {' and '.join(map(str, kill.ranks))}")
        elif end != "finished":
            return Verdict(chain, killed, f"after {killed}, sitting with {kill}: {end}")
        elif (why := _unequal(beside, reference)) or attempts > 20 * chain.kills:
            return Verdict(chain, killed, why or "could not be killed")
        else:  # it got through: the next kills go to a fresh run
            shutil.rmtree(beside)
    end = start(arm, beside, None)
    why = _unequal(beside, reference) if end == "finished" else f"after {killed}: {end}"
    if not why:
        shutil.rmtree(beside)
    return Verdict(chain, killed, why)


def _unequal(beside: Path, reference: Reference) -> str:
    state = state_of(beside / "run")
    differs = [name for name in {**state, **reference.state} if state.get(name) != reference.state.get(name)]
    moved = [where for where, keys in orders_of(beside) if [keys] != reference.order.get(where)]
    return "; ".join([*(f"{name} differs" for name in differs), *(f"other samples at rank and step {where}" for where in moved)])


# ------------------------------------------------------------------------------------------------------------- tally


def chains_of(names: Sequence[str], kills: int, seed: int) -> list[Chain]:
    """All arms in turn; those under torchrun, where a sitting takes ten times as long, every third time."""
    chains: list[Chain] = []
    rounds = 0
    while kills > 0:
        for name in names:
            if arms()[name].ranks == 1 or rounds % 3 == 0:
                count = min(kills, CHAIN)
                if count > 0:
                    chains.append(Chain(name, len(chains), count, seed * 1_000_003 + len(chains)))
                kills -= count
        rounds += 1
    return chains


def campaign(
    names: Sequence[str],
    kills: int,
    seed: int,
    root: Path,
    jobs: int = 2,
    minutes: float = math.inf,
    tell: Callable[[str], None] = print,
) -> list[Verdict]:
    """`kills` kills over these arms; no chain is begun after so many `minutes`."""
    end = time.monotonic() + 60 * minutes
    chains = chains_of(names, kills, seed)
    used = [name for name in names if any(chain.arm == name for chain in chains)]
    verdicts: list[Verdict] = []
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as lanes:
        references = dict(zip(used, lanes.map(reference_of, [arms()[name] for name in used], [root] * len(used)), strict=True))
        tell(f"{len(used)} runs left alone; now {kills} kills in {len(chains)} chains, seed {seed}")
        burning = [lanes.submit(burn, chain, references[chain.arm], root) for chain in chains]
        for fire in burning:
            if time.monotonic() > end and fire.cancel():
                continue
            verdict = fire.result()
            verdicts.append(verdict)
            done = sum(len(v.kills) for v in verdicts)
            said = f"UNEQUAL: {verdict.unequal}" if verdict.unequal else "equal"
            tell(f"{done:4d}/{kills}  {verdict.chain.arm}: {', '.join(verdict.kills)}: {said}")
    return verdicts


def tally(verdicts: Sequence[Verdict]) -> list[str]:
    """A table, as docs/reliability.md shows it."""
    lines = ["| run | kills | finishes compared | equal |", "|---|---:|---:|---:|"]
    for name in dict.fromkeys(verdict.chain.arm for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.chain.arm == name]
        equal = sum(not verdict.unequal for verdict in own)
        lines.append(f"| {name} | {sum(len(verdict.kills) for verdict in own)} | {len(own)} | {equal} |")
    kills, equal = sum(len(verdict.kills) for verdict in verdicts), sum(not verdict.unequal for verdict in verdicts)
    lines.append(f"| **together** | **{kills}** | **{len(verdicts)}** | **{equal}** |")
    moments = Counter(moment.partition(", rank")[0] for verdict in verdicts for moment in verdict.kills)
    return [*lines, "", "by moment: " + ", ".join(f"{moment} {count}" for moment, count in moments.most_common())]


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs, and see whether they end as if nothing had happened.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30, help="no kill is begun later; the tally says how many were made")
    parser.add_argument("--only", nargs="+", choices=list(arms()), metavar="NAME", help=f"of: {'; '.join(arms())}")
    parser.add_argument("--keep", type=Path, help="a directory for the runs; those that ended unequal stay there")
    parser.add_argument("--sit", help=argparse.SUPPRESS)  # what torchrun starts
    parser.add_argument("--kill", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sit:
        kill = None if given.kill is None else Kill(*given.kill[:3], tuple(given.kill[3]))
        with dist.process_group():
            sit(arms()[given.sit], given.keep, kill)
        return 0
    root = given.keep or Path(tempfile.mkdtemp(prefix="diptych-fire-"))
    began = time.monotonic()
    verdicts = campaign(
        given.only or list(arms()), given.kills, given.seed, root, given.jobs, given.minutes, partial(print, flush=True)
    )
    print("\n".join(tally(verdicts)))
    unequal = [verdict for verdict in verdicts if verdict.unequal]
    print(f"{time.monotonic() - began:.0f} s; " + (f"{len(unequal)} unequal, kept in {root}" if unequal else "all equal"))
    if not unequal and given.keep is None:
        shutil.rmtree(root)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
