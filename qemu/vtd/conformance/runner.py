"""Runs the catalogue on the model and on a QEMU, and judges each scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from qemu.vtd.conformance.judge import (
    CHANGES,
    Result,
    Terms,
    Verdict,
    judge,
    missing_capabilities,
    model_only,
    on_model,
    terms_of,
)
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.errors import PropertyMissing, QemuError, QemuUnsuitable
from qemu.vtd.platform import Unreachable
from qemu.vtd.probe import find_qemu, probe
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.quirks import Version
from qemu.vtd.topology import Topology


@dataclass
class Report:
    """All scenarios on one QEMU.

    Attributes:
        path: the program.
        version: what it says its version is.
        results: one for each scenario.
        seconds: how long the scenarios took, including QEMU's start.
        old, quirks_of: what else decides what it is held to: see `terms_of`.
    """

    path: str
    version: Version
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
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


def conform(
    scenarios: Sequence[Scenario],
    qemu: str | None,
    each: Callable[[Result], None] = lambda _: None,
    *,
    old: Version | None = None,
    quirks_of: Version | None = None,
) -> Report:
    """Run scenarios against one QEMU; `each` is called with every result as it becomes available.

    `old` and `quirks_of` decide what it is held to: see `terms_of`.

    Raises QemuError when there is no suitable QEMU, or when it dies. No process is left running.
    """
    started = time.monotonic()
    if not scenarios:
        raise QemuUnsuitable("no scenario to run")
    build = probe(find_qemu(qemu))
    report = Report(build.path, build.version, old=old, quirks_of=quirks_of)
    by_machine: dict[tuple[tuple[tuple[str, str], ...], Topology], list[Scenario]] = {}
    for scenario in scenarios:
        by_machine.setdefault(scenario.setup.machine, []).append(scenario)
    for group in by_machine.values():
        for result in _run_group(group, qemu, report.terms.version):
            report.results.append(result)
            each(result)
    order = {scenario.id: n for n, scenario in enumerate(scenarios)}
    report.results.sort(key=lambda result: order[result.scenario.id])
    report.seconds = time.monotonic() - started
    return report


def _run_group(scenarios: list[Scenario], qemu: str | None, version: Version) -> Iterator[Result]:
    """Run the scenarios of one machine; on a QEMU that lacks a property of its unit, on the model alone."""
    properties, topology = scenarios[0].setup.machine
    try:
        platform = QemuPlatform(qemu, dict(properties), topology)
    except PropertyMissing as lack:
        for scenario in scenarios:
            model = on_model(scenario)
            why = f"this QEMU has no property {lack.name}"
            yield Result(scenario, model, None, model_only(scenario, model), why)
        return
    with platform:
        yield from _run(scenarios, platform, version)


def _run(scenarios: list[Scenario], platform: QemuPlatform, version: Version) -> Iterator[Result]:
    for scenario in scenarios:
        try:
            yield run_one(scenario, platform, version)
        except QemuError as error:
            raise QemuError(f"{error} (in scenario {scenario.id}, {platform.name})") from error


def run_one(scenario: Scenario, platform: QemuPlatform, version: Version) -> Result:
    """Run one scenario on the model and on a running QEMU, and judge it by the quirks of a version."""
    model = on_model(scenario)
    missing = missing_capabilities(scenario.setup, platform.capabilities)
    if missing:
        return Result(scenario, model, None, model_only(scenario, model), f"this QEMU does not offer {missing}")
    try:
        seen = scenario.run(platform)
    except Unreachable as reason:
        return Result(scenario, model, None, model_only(scenario, model), str(reason))
    verdict, why = judge(scenario, model, seen, version)
    return Result(scenario, model, seen, verdict, why)
