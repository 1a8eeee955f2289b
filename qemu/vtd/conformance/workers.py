"""Runs scenarios in several processes, each with a QEMU of its own: half of the time is spent in Python.

The processes are forks, so that they have the scenarios; results come back one by one. Whatever ends this process
ends them, and with each its QEMU.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection, wait
from typing import Any

from qemu.vtd import crew
from qemu.vtd.conformance.judge import Result, Verdict, on_model, without_qemu
from qemu.vtd.conformance.machines import Machines
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.trial import run_one
from qemu.vtd.quirks import Version

# A worker takes so many scenarios of one machine at a time. Starting a QEMU takes as long as some ten scenarios.
_PIECE = 16
_NO_MORE: list[int] = []

Piece = deque[int]
"""Indices of scenarios that share a machine, in the order in which they are to be run."""


def run_all(
    scenarios: Sequence[Scenario],
    qemu: str,
    each: Callable[[Result], None],
    workers: int | None = None,
    *,
    judge_by: Version | None = None,
) -> None:
    """Run every scenario, and call `each` with every result as it becomes available.

    `workers` is the number of processes; by default one for each core, and none for a few scenarios.
    The quirks of `judge_by` are expected, by default those of QEMU's own version.
    """
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), len(scenarios) // _PIECE)
    if workers > 1:
        _Crew(scenarios, qemu, each, judge_by).run(workers)
        return
    with Machines(qemu, judge_by) as machines:
        for piece in _pieces(scenarios):
            for index in piece:
                each(run_one(scenarios[index], machines))


def _pieces(scenarios: Sequence[Scenario]) -> list[Piece]:
    """All scenarios, the largest groups of one machine first."""
    by_machine: dict[object, list[int]] = {}
    for index, scenario in enumerate(scenarios):
        by_machine.setdefault(scenario.setup.machine, []).append(index)
    groups = sorted(by_machine.values(), key=len, reverse=True)
    return [deque(group[at : at + _PIECE]) for group in groups for at in range(0, len(group), _PIECE)]


@dataclass(eq=False)
class _Worker(crew.Worker):
    """A worker with what it has been given and not returned, and the machine it last had."""

    piece: Piece = field(default_factory=deque)
    machine: object = None


class _Crew:
    def __init__(
        self, scenarios: Sequence[Scenario], qemu: str, each: Callable[[Result], None], judge_by: Version | None
    ) -> None:
        self._scenarios, self._qemu, self._each, self._judge_by = scenarios, qemu, each, judge_by
        self._open = _pieces(scenarios)
        self._workers: dict[Connection, _Worker] = {}

    def run(self, count: int) -> None:
        """Run everything; whatever happens, no worker is left."""
        try:
            for _ in range(min(count, len(self._open))):
                self._hire()
            while self._workers:
                for ready in wait(list(self._workers)):
                    assert isinstance(ready, Connection)
                    self._hear(self._workers[ready])
        finally:
            self._end()

    def _hire(self) -> None:
        hired = crew.hire(_work, self._scenarios, self._qemu, self._judge_by)
        worker = self._workers[hired.connection] = _Worker(hired.process, hired.connection)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next piece, of the machine it has if there is one; without any, it ends."""
        if not self._open:
            self._dismiss(worker)
            return
        piece = next((piece for piece in self._open if self._machine(piece) == worker.machine), self._open[0])
        self._open.remove(piece)
        worker.piece, worker.machine = piece, self._machine(piece)
        with suppress(BrokenPipeError):  # it has died: its end is heard of next
            worker.connection.send(list(piece))

    def _machine(self, piece: Piece) -> object:
        return self._scenarios[piece[0]].setup.machine

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        scenario = self._scenarios[worker.piece.popleft()]
        self._each(Result(scenario=scenario, **message))
        if not worker.piece:
            self._give(worker)

    def _replace(self, worker: _Worker) -> None:
        """A worker has died. So has the scenario it was running; another worker takes the rest of its piece."""
        status = self._dismiss(worker)
        if worker.piece:
            scenario = self._scenarios[worker.piece.popleft()]
            why = f"the process that ran it ended, status {status}"
            self._each(without_qemu(scenario, on_model(scenario), Verdict.DIFFERS, why))
        if worker.piece:
            self._open.append(worker.piece)
        if self._open:
            self._hire()

    def _dismiss(self, worker: _Worker) -> int | None:
        """Let a worker end, and wait for it. Returns its exit status."""
        del self._workers[worker.connection]
        return crew.dismiss(worker, _NO_MORE)

    def _end(self) -> None:
        """End the workers that are left."""
        try:
            crew.end(self._workers.values())
        finally:
            self._workers.clear()


def _work(connection: Connection, scenarios: Sequence[Scenario], qemu: str, judge_by: Version | None) -> None:
    """A worker: receives lists of indices, and sends a result for each."""
    with suppress(KeyboardInterrupt, EOFError, ConnectionError), Machines(qemu, judge_by) as machines:
        crew.be_interruptible()
        while piece := connection.recv():
            for index in piece:
                connection.send(_without_scenario(run_one(scenarios[index], machines)))


def _without_scenario(result: Result) -> dict[str, Any]:
    """A result as it can be sent: a scenario is a function, and the receiver has it."""
    return {each.name: getattr(result, each.name) for each in fields(result) if each.name != "scenario"}
