"""Runs the catalogue on the model and on a QEMU, and judges each scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from iommu import VtdError
from qemu.vtd.conformance.judge import (
    WRONG_MODEL,
    Result,
    Verdict,
    judge,
    missing_capabilities,
    on_model,
    unexpected_capabilities,
    without_qemu,
)
from qemu.vtd.conformance.machines import Machines, NotOffered
from qemu.vtd.conformance.scenario import Scenario, describe
from qemu.vtd.errors import QemuUnsuitable
from qemu.vtd.platform import Unreachable
from qemu.vtd.probe import Build, find_qemu, probe, version_text
from qemu.vtd.quirks import Version


@dataclass
class Report:
    """All scenarios on one QEMU.

    Attributes:
        path: the program.
        version: what it says its version is.
        results: one for each scenario.
        seconds: how long the scenarios took, including QEMU's start.
        doubts: reasons not to believe what it says of itself.
    """

    path: str
    version: Version
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    doubts: tuple[str, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """Number of scenarios with this verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether no scenario differs."""
        return self.count(Verdict.DIFFERS) == 0


@dataclass(frozen=True)
class Unusable:
    """A QEMU on which no scenario could be run, and why."""

    path: str
    why: str


def conform(
    scenarios: Sequence[Scenario], qemu: str | None, each: Callable[[Result], None] = lambda _: None
) -> Report:
    """Run scenarios against one QEMU; `each` is called with every result as it becomes available.

    Whatever QEMU does in a scenario is the result of that scenario, and the others are run all the same. No process
    is left running.

    Raises QemuNotFound or QemuUnsuitable when no scenario can be run on it.
    """
    started = time.monotonic()
    build = probe(find_qemu(qemu))
    report = Report(build.path, build.version, doubts=build.doubts)
    by_machine: dict[object, list[Scenario]] = {}
    for scenario in scenarios:
        by_machine.setdefault(scenario.setup.machine, []).append(scenario)
    with Machines(build.path) as machines:
        for scenario in chain.from_iterable(by_machine.values()):
            result = run_one(scenario, machines)
            report.results.append(result)
            each(result)
    order = {scenario.id: n for n, scenario in enumerate(scenarios)}
    report.results.sort(key=lambda result: order[result.scenario.id])
    report.seconds = time.monotonic() - started
    if all(result.qemu is None for result in report.results):
        _check_that_it_can_run(report, build)
    return report


def _check_that_it_can_run(report: Report, build: Build) -> None:
    """Called when no scenario was run: raises QemuUnsuitable unless it was right not to run any."""
    lacking = [model for model in ("edu", "rocker") if model not in build.devices]
    if lacking:
        raise QemuUnsuitable(f"QEMU {version_text(build.version)} has no device {' and no device '.join(lacking)}")
    never_started = [each for each in report.results if each.verdict is Verdict.DIFFERS and each.why != WRONG_MODEL]
    if never_started:
        raise QemuUnsuitable(never_started[0].why)


def run_one(scenario: Scenario, machines: Machines) -> Result:
    """Run one scenario on the model and on a QEMU, and compare. A QEMU that fails is replaced."""
    model = on_model(scenario)
    try:
        return _run_on_qemu(scenario, model, machines)
    except Unreachable as reason:
        return without_qemu(scenario, model, Verdict.MODEL_ONLY, str(reason))
    except NotOffered as lack:
        return without_qemu(scenario, model, Verdict.NOT_APPLICABLE, str(lack))
    except VtdError as error:
        return without_qemu(scenario, model, Verdict.DIFFERS, describe(error))


def _run_on_qemu(scenario: Scenario, model: tuple[str, ...], machines: Machines) -> Result:
    platform = machines.get(scenario.setup)
    missing = missing_capabilities(scenario.setup, platform.capabilities)
    if missing:
        raise NotOffered(f"this QEMU does not offer {missing}")
    before = ""
    seen = scenario.observe(platform)
    if seen.cause is not None and not seen.begun:
        # The scenario has not done anything yet. What it does is seen on a QEMU that has just started.
        before = f"in the reset after {machines.last or 'the start'}: {describe(seen.cause)}"
        machines.discard(seen.cause)
        platform = machines.get(scenario.setup)
        seen = scenario.observe(platform)
    machines.last = scenario.id
    if seen.cause is not None:
        machines.discard(seen.cause)
    verdict, why = judge(scenario, model, seen.lines, platform.machine.version)
    other = unexpected_capabilities(scenario.setup, platform.capabilities)
    if before or other:
        verdict = Verdict.DIFFERS
    reasons = [before, other and f"the unit has {other}", why]
    if verdict is Verdict.DIFFERS and seen.cause is not None:
        reasons.append(describe(seen.cause))
    return Result(scenario, model, seen.lines, verdict, "; ".join(filter(None, reasons)))
