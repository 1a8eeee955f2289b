"""How batches of cases get to a QEMU: the interface of a lane, and the slow lane, which runs any case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from iommu import RemappingUnit
from qemu.vtd.errors import QemuDied, QemuError
from qemu.vtd.fuzz.case import SETUPS, Case, Found, Steps
from qemu.vtd.fuzz.generate import make
from qemu.vtd.fuzz.groups import Likeness, likeness
from qemu.vtd.fuzz.lawful import Terms, first_difference, freedom
from qemu.vtd.fuzz.model import Model, reached
from qemu.vtd.fuzz.quick import QuickPlatform
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.quirks import version_text

_WATCHED = 8
"""One case in so many is watched for what it reaches, which takes the model twice as long."""


_TRACE_LINES = 200
_RUNNING = 3
"""So many QEMUs of a lane run at once."""


@dataclass(frozen=True)
class Batch:
    """Cases that are run in one go.

    Attributes:
        seed, mode: see `generate.make`.
        number: of the batch in its mode.
        cases: the numbers of its cases.
        setup: the unit.
        weights: what was learnt when it was planned.
    """

    seed: int
    mode: str
    number: int
    cases: range
    setup: str
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Result:
    """What came of a batch.

    Attributes:
        cases: how many were compared.
        left_out: how many were not run, because their DMA would reach the machine itself.
        freedoms: how often a right outcome was not the expected one, by what the architecture leaves open.
        reached: what was reached, each with the choices that made the first case to reach it.
        further: how many others differ, which were not looked at.
        differences: the cases that differ, by their number, each with what it has in common with others.
    """

    cases: int = 0
    left_out: int = 0
    further: int = 0
    freedoms: Counter[str] = field(default_factory=Counter)
    reached: dict[str, list[str]] = field(default_factory=dict)
    differences: dict[int, tuple[Likeness, Found]] = field(default_factory=dict)


class Lane(Protocol):
    """A QEMU, or several, that batches are run on."""

    def run(self, batch: Batch) -> Result:
        """Run a batch. A QEMU that dies is a difference of its case, and is replaced.

        Raises VtdError when there can be no such unit.
        """
        ...

    def close(self) -> None:
        """End the QEMUs."""
        ...


def alone(case: Case, qemu: str | None, *, traced: bool = False) -> tuple[Steps, Terms, tuple[str, ...]]:
    """What a case does on a QEMU that is started for it, what that is held to, and its trace.

    Raises VtdError when it cannot be started, and Unreachable.
    """
    setup = SETUPS[case.setup]
    with QemuPlatform(qemu, dict(setup.properties), setup.topology) as platform:
        terms = Terms(platform.capabilities, platform.machine.version)
        if traced:
            platform.trace_everything()
        steps, _ = case.observe(platform)
        lines = [*platform.kept_trace, *platform.machine.trace_lines()] if traced else []
        return steps, terms, tuple(lines[-_TRACE_LINES:])


def difference(case: Case, seen: Steps, terms: Terms, origin: str) -> Found | None:
    """The case as a finding, if what was seen is not right."""
    model = terms.model()
    expected, _ = case.observe(model)
    if model.harmful or first_difference(expected, seen) is None or freedom(case, expected, seen, terms):
        return None
    return Found(case, version_text(terms.version), expected, seen, origin)


def _ended(seen: Steps) -> bool:
    """Whether QEMU has ended, or not answered."""
    return any(line.startswith("cut short: QEMU ") for line in seen[-1])


class SlowLane:
    """Cases one after the other, each compared with the model step by step.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.
        unit: the class of the model's unit, instead of that of the QEMU's version.
    """

    def __init__(self, qemu: str | None, unit: type[RemappingUnit] | None = None) -> None:
        self._qemu, self._unit = qemu, unit
        self._platforms: dict[str, QuickPlatform] = {}
        self._models: tuple[str, Model] | None = None

    def run(self, batch: Batch) -> Result:
        """See Lane."""
        result = Result()
        made = [(number, *make(batch.seed, batch.mode, number, batch.setup, batch.weights)) for number in batch.cases]
        # Cases with the same start go together: changing it takes a reset.
        for number, case, choices in sorted(made, key=lambda each: (each[1].start, each[0])):
            self._run_case(batch, number, case, choices, result)
        return result

    def _run_case(self, batch: Batch, number: int, case: Case, choices: frozenset[str], result: Result) -> None:
        terms = self.terms(batch.setup)
        model = self._model(batch.setup, terms)
        model.watched = number % _WATCHED == 0
        expected, _ = case.observe(model)
        if model.harmful:
            result.left_out += 1
            return
        if model.watched:
            for what in sorted(reached(expected, model.decided)):
                result.reached.setdefault(what, sorted(choices))
        seen = self.observe(batch.setup, case)
        if seen != expected and _ended(seen):
            # It may have been ended from outside. If it was not, it ends again: and now it is known at which action.
            seen, _, _ = alone(case, self._qemu)
        result.cases += 1
        if first_difference(expected, seen) is None:
            return
        if because := freedom(case, expected, seen, terms):
            result.freedoms[because] += 1
            return
        origin = f"seed {batch.seed}, {batch.mode}, case {number}"
        found = Found(case, version_text(terms.version), expected, seen, origin)
        result.differences[number] = likeness(found, terms), found

    def _model(self, setup: str, terms: Terms) -> Model:
        """The model of a setup; it is kept, since making one takes as long as a case."""
        if self._models is None or self._models[0] != setup:
            self._models = setup, terms.model()
        return self._models[1]

    def terms(self, setup: str) -> Terms:
        """What the QEMU with this unit is held to."""
        platform = self.platform(setup)
        return Terms(platform.capabilities, platform.machine.version, self._unit)

    def observe(self, setup: str, case: Case) -> Steps:
        """What a case does on this QEMU, which is replaced if it has failed."""
        platform = self.platform(setup)
        seen, cause = case.observe(platform)
        if isinstance(cause, QemuError):
            self._platforms.pop(setup).__exit__()
        elif cause is not None:
            platform.spoil()
        return seen

    def platform(self, setup: str) -> QuickPlatform:
        """The QEMU with this unit. Raises VtdError when there can be none."""
        platform = self._platforms.get(setup)
        if platform is None:
            try:
                platform = self._started(setup)
            except QemuDied:
                # It may have been ended from outside. If it was not, it ends again.
                platform = self._started(setup)
            self._platforms[setup] = platform
            while len(self._platforms) > _RUNNING:
                self._platforms.pop(next(iter(self._platforms))).__exit__()
        return platform

    def _started(self, setup: str) -> QuickPlatform:
        wanted = SETUPS[setup]
        return QuickPlatform(self._qemu, dict(wanted.properties), wanted.topology).__enter__()

    def close(self) -> None:
        """See Lane."""
        while self._platforms:
            self._platforms.popitem()[1].__exit__()
