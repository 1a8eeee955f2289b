"""A campaign: cases of several modes on several QEMUs, in several processes, from a checkpoint on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from iommu import RemappingUnit
from iommu.errors import VtdError
from qemu.vtd import crew, probe
from qemu.vtd.conformance.machines import NotOffered
from qemu.vtd.errors import PropertyMissing, QemuDied
from qemu.vtd.fuzz import checkpoint
from qemu.vtd.fuzz.case import SETUPS, Found
from qemu.vtd.fuzz.confirm import smallest
from qemu.vtd.fuzz.fast import Fast, size_of
from qemu.vtd.fuzz.generate import MODES
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lane.modes import MODES as FAST_MODES
from qemu.vtd.fuzz.lanes import Batch, Lane, Result, SlowLane
from qemu.vtd.fuzz.stream import Stream
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.quirks import version_text

BATCH = 64
"""Cases of a batch in the slow lane."""
_FAST = {"legacy": ("legacy",), "second": ("second", "legacy-on-scalable"), "first": ("first",)}
"""The modes whose single accesses the fast lane runs, by its own names; the slow lane runs their sequences."""
_FEW, _SEQUENCES = 256, 512
"""Where there is a fast lane, each mode in the slow one gets one case of so many, or a few."""
_CHECKPOINT_SECONDS = 1.0
_WAIT_SECONDS = 0.5
_LOST = 3
"""A batch that ends its worker so often ends the campaign."""


@dataclass(frozen=True, eq=False)
class Run:
    """A batch to be run, in the fast lane or the slow one."""

    stream: int
    batch: Batch
    fast: bool


@dataclass(frozen=True, eq=False)
class Shrink:
    """A difference to be made smaller."""

    stream: int
    like: Likeness
    found: Found


Task = Run | Shrink


def streams(
    qemus: Sequence[str | None], modes: Sequence[str], cases: int, seed: int, tell: Callable[[str], None]
) -> list[Stream]:
    """The streams of a new campaign: `cases` on each QEMU, evenly by mode. `tell` gets a line for what is left out.

    Raises VtdError for a QEMU that cannot be used.
    """
    found = []
    for qemu in qemus:
        build = probe.probe(probe.find_qemu(qemu))
        version = version_text(build.version)
        able = {mode: tuple(name for name in MODES[mode][0] if _is_offered(build.path, name)) for mode in modes}
        for mode in modes:
            if not able[mode]:
                tell(f"QEMU {version}: not run: it has no unit for mode {mode}")
        slow = [mode for mode in modes if able[mode]]
        fast = [mode for of in slow for mode in _FAST.get(of, ()) if _is_offered(build.path, FAST_MODES[mode].setup)]
        few = min(cases // (len(slow) + len(fast)), max(_FEW, cases // _SEQUENCES)) if fast else cases
        shares = _shared(few * len(slow) if fast else cases, slow)
        for mode in slow:
            found.append(Stream(build.path, version, mode, able[mode], shares[mode], BATCH, seed))
        shares = _shared(cases - sum(shares.values()), fast)
        for mode in fast:
            setups = (FAST_MODES[mode].setup,)
            found.append(Stream(build.path, version, mode, setups, shares[mode], size_of(mode), seed, fast=True))
    return found


def _shared(cases: int, modes: Sequence[str]) -> dict[str, int]:
    """So many cases, evenly by mode."""
    return {mode: cases // len(modes) + (number < cases % len(modes)) for number, mode in enumerate(modes)}


def _is_offered(qemu: str, name: str) -> bool:
    """Whether a QEMU can give such a unit: it has the properties, and starts with them where that is in doubt."""
    setup = SETUPS[name]
    try:
        with suppress(NotOffered):
            probe.probe(qemu).spelled(dict(setup.properties))
            if setup.refused:
                with QemuPlatform(qemu, dict(setup.properties), setup.topology):
                    pass
            return True
    except PropertyMissing:
        return False
    except QemuDied as error:
        if setup.refused in str(error):
            return False
        raise
    return False


@dataclass(eq=False)
class _Worker(crew.Worker):
    task: Task | None = None


@dataclass
class Campaign:
    """A campaign under way.

    Attributes:
        streams: what is run.
        folder: where checkpoints go.
        jobs: the number of processes.
        tell: called now and then, to show how it goes.
        unit: the class of the model's unit, instead of that of each QEMU's version.
    """

    streams: list[Stream]
    folder: Path
    jobs: int
    tell: Callable[[Campaign], None] = lambda _: None
    unit: type[RemappingUnit] | None = None
    _shrinks: list[Shrink] = field(default_factory=list)
    _again: list[Task] = field(default_factory=list)
    _lost: dict[Task, int] = field(default_factory=dict)
    _workers: dict[Connection, _Worker] = field(default_factory=dict)
    _written: float = 0.0

    def run(self) -> None:
        """Run what is left of it. However this ends, the last checkpoint is whole, and no process is left.

        Raises OSError when a checkpoint cannot be written, VtdError when a QEMU cannot be run.
        """
        for number, stream in enumerate(self.streams):
            for like, group in stream.groups.items():
                if group.smallest is None:
                    self._shrinks.append(Shrink(number, like, group.first))
        self._checkpoint()
        try:
            for _ in range(self.jobs):
                self._hire()
            while any(worker.task is not None for worker in self._workers.values()):
                for ready in wait(list(self._workers), _WAIT_SECONDS):
                    assert isinstance(ready, Connection)
                    self._hear(self._workers[ready])
                for worker in self._workers.values():
                    if worker.task is None:
                        self._give(worker)
                self.tell(self)
                if time.monotonic() > self._written + _CHECKPOINT_SECONDS:
                    self._checkpoint()
        finally:
            try:
                crew.end(self._workers.values())
            finally:
                self._workers.clear()
                self._checkpoint()
        self.tell(self)

    def _checkpoint(self) -> None:
        checkpoint.write(self.folder / checkpoint.NAME, self.streams)
        self._written = time.monotonic()

    def _hire(self) -> None:
        hired = crew.hire(_work, [stream.qemu for stream in self.streams], self.unit)
        worker = self._workers[hired.connection] = _Worker(hired.process, hired.connection)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        worker.task = self._next(worker)
        if worker.task is not None:
            with suppress(BrokenPipeError):  # it has died: its end is heard of next
                worker.connection.send(worker.task)

    def _next(self, worker: _Worker) -> Task | None:
        if self._again:
            return self._again.pop()
        if self._shrinks:
            return self._shrinks.pop(0)
        # The stream that has got least far goes first.
        for number, stream in sorted(
            enumerate(self.streams), key=lambda each: each[1].merged / (each[1].batches or 1)
        ):
            batch = stream.next()
            if batch is not None:
                return Run(number, batch, stream.fast)
        return None

    def _hear(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        task, worker.task = worker.task, None
        if isinstance(answer, Exception):
            raise answer
        match task:
            case Run(stream, batch, _):
                for like in self.streams[stream].take(batch.number, answer):
                    self._shrinks.append(Shrink(stream, like, self.streams[stream].groups[like].first))
            case Shrink(stream, like, _):
                group = self.streams[stream].groups[like]
                group.smallest, group.steady = answer

    def _replace(self, worker: _Worker) -> None:
        """A worker has died: another one takes its task, which begins anew."""
        del self._workers[worker.connection]
        crew.dismiss(worker, None)
        if worker.task is not None:
            self._lost[worker.task] = self._lost.get(worker.task, 0) + 1
            if self._lost[worker.task] >= _LOST:
                raise VtdError(f"the process that ran {worker.task} ended {_LOST} times")
            self._again.append(worker.task)
        self._hire()


def _work(connection: Connection, qemus: Sequence[str], unit: type[RemappingUnit] | None) -> None:
    """A worker: receives tasks, and sends a Result, or a Found and whether it is steady, or what went wrong."""
    lanes: dict[tuple[str, bool], Lane] = {}
    try:
        with suppress(KeyboardInterrupt, EOFError, ConnectionError):
            crew.be_interruptible()
            while (task := connection.recv()) is not None:
                try:
                    connection.send(_perform(task, qemus[task.stream], lanes, unit))
                except VtdError as error:
                    connection.send(VtdError(str(error)))
    finally:
        for lane in lanes.values():
            lane.close()


def _perform(
    task: Task, qemu: str, lanes: dict[tuple[str, bool], Lane], unit: type[RemappingUnit] | None
) -> Result | tuple[Found, bool]:
    if isinstance(task, Shrink):
        return smallest(task.found, task.like, qemu, unit)
    key = qemu, task.fast
    for other in [each for each in lanes if each != key]:
        lanes.pop(other).close()
    if key not in lanes:
        lanes[key] = Fast(qemu, unit) if task.fast else SlowLane(qemu, unit)
    return lanes[key].run(task.batch)
