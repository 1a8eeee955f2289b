"""Runs the catalogue on the model and on a QEMU, and judges each scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qemu.vtd.conformance.judge import CHANGES, WRONG_MODEL, Result, Terms, Verdict, terms_of
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.workers import run_all
from qemu.vtd.errors import QemuUnsuitable
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
        old, quirks_of: what else decides what it is held to: see `terms_of`.
    """

    path: str
    version: Version
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    doubts: tuple[str, ...] = ()
    old: Version | None = None
    quirks_of: Version | None = None

    def count(self, verdict: Verdict) -> int:
        """Number of scenarios with this verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def terms(self) -> Terms:
        """What it is held to."""
        return terms_of(self.version, self.old, self.quirks_of)

    @property
    def passed(self) -> bool:
        """Whether no scenario has a verdict that fails the run."""
        return not self.failures

    @property
    def failures(self) -> list[Result]:
        """The results that fail the run."""
        return [result for result in self.results if result.verdict in self.terms.fails]

    @property
    def changes(self) -> list[Result]:
        """The results that are not as known, whether or not they fail the run."""
        return [result for result in self.results if result.verdict in CHANGES]


@dataclass(frozen=True)
class Unusable:
    """A QEMU on which no scenario could be run, and why."""

    path: str
    why: str


def conform(
    scenarios: Sequence[Scenario],
    qemu: str | None,
    each: Callable[[Result], None] = lambda _: None,
    *,
    old: Version | None = None,
    quirks_of: Version | None = None,
) -> Report:
    """Run scenarios against one QEMU; `each` is called with every result as it becomes available.

    Whatever QEMU does in a scenario is the result of that scenario, and the others are still run. No process is left
    running. `old` and `quirks_of` decide what it is held to: see `terms_of`.

    Raises QemuNotFound or QemuUnsuitable when no scenario can be run on it.
    """
    started = time.monotonic()
    build = probe(find_qemu(qemu))
    report = Report(build.path, build.version, doubts=build.doubts, old=old, quirks_of=quirks_of)

    def add(result: Result) -> None:
        report.results.append(result)
        each(result)

    run_all(scenarios, build.path, add, judge_by=report.terms.version)
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
