"""Runs the catalogue on the model and on a QEMU, and judges each scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from qemu.vtd.conformance.judge import Result, Verdict, judge, missing_capabilities, model_only, on_model
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.errors import PropertyMissing, QemuError, QemuUnsuitable
from qemu.vtd.platform import Unreachable
from qemu.vtd.probe import find_qemu, probe
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.quirks import Version
from qemu.vtd.topology import Topology


@dataclass
class Report:
    """All scenarios on one QEMU. `seconds` is the time the scenarios took, including QEMU's start."""

    path: str
    version: Version
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, verdict: Verdict) -> int:
        """Number of scenarios with this verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether no scenario differs."""
        return self.count(Verdict.DIFFERS) == 0


def conform(
    scenarios: Sequence[Scenario], qemu: str | None, each: Callable[[Result], None] = lambda _: None
) -> Report:
    """Run scenarios against one QEMU; `each` is called with every result as it becomes available.

    Raises QemuError when there is no suitable QEMU, or when it dies. No process is left running.
    """
    started = time.monotonic()
    if not scenarios:
        raise QemuUnsuitable("no scenario to run")
    build = probe(find_qemu(qemu))
    report = Report(build.path, build.version)
    by_machine: dict[tuple[tuple[tuple[str, str], ...], Topology], list[Scenario]] = {}
    for scenario in scenarios:
        by_machine.setdefault(scenario.setup.machine, []).append(scenario)
    for group in by_machine.values():
        for result in _run_group(group, qemu):
            report.results.append(result)
            each(result)
    order = {scenario.id: n for n, scenario in enumerate(scenarios)}
    report.results.sort(key=lambda result: order[result.scenario.id])
    report.seconds = time.monotonic() - started
    return report


def _run_group(scenarios: list[Scenario], qemu: str | None) -> Iterator[Result]:
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
        yield from _run(scenarios, platform)


def _run(scenarios: list[Scenario], platform: QemuPlatform) -> Iterator[Result]:
    for scenario in scenarios:
        try:
            yield run_one(scenario, platform)
        except QemuError as error:
            raise QemuError(f"{error} (in scenario {scenario.id}, {platform.name})") from error


def run_one(scenario: Scenario, platform: QemuPlatform) -> Result:
    """Run one scenario on the model and on a running QEMU, and compare."""
    model = on_model(scenario)
    missing = missing_capabilities(scenario.setup, platform.capabilities)
    if missing:
        return Result(scenario, model, None, model_only(scenario, model), f"this QEMU does not offer {missing}")
    try:
        seen = scenario.run(platform)
    except Unreachable as reason:
        return Result(scenario, model, None, model_only(scenario, model), str(reason))
    verdict, why = judge(scenario, model, seen, platform.machine.version)
    return Result(scenario, model, seen, verdict, why)
