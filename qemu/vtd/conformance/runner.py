"""Runs the catalogue on the model and on a QEMU, and judges each scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby

from iommu import Capabilities
from qemu.vtd.conformance.scenario import Scenario, Setup
from qemu.vtd.errors import QemuError, QemuUnsuitable
from qemu.vtd.platform import ModelPlatform, QemuPlatform, Unreachable
from qemu.vtd.quirks import POLICY, Version, profile, quirks_of


class Verdict(Enum):
    """Result of the comparison. Only DIFFERS is a failure: of QEMU, the model or the list of quirks."""

    AGREES = "agrees"
    ALLOWED = "agrees (allowed)"
    QUIRK = "known quirk"
    MODEL_ONLY = "model only"
    DIFFERS = "DIFFERS"


@dataclass(frozen=True)
class Result:
    """The result of one scenario.

    Attributes:
        model: the outcome on the model.
        qemu: the outcome on QEMU; None when QEMU cannot run the scenario.
        verdict: the result of the comparison.
        why: quirk ids, the freedom used, what QEMU lacks, or what is wrong; may be empty.
    """

    scenario: Scenario
    model: tuple[str, ...]
    qemu: tuple[str, ...] | None
    verdict: Verdict
    why: str = ""


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
    report: Report | None = None
    by_properties = sorted(scenarios, key=lambda scenario: scenario.setup.properties, reverse=True)
    for properties, group in groupby(by_properties, key=lambda scenario: scenario.setup.properties):
        with QemuPlatform(qemu, dict(properties)) as platform:
            report = report or Report(platform.machine.build.path, platform.machine.version)
            for result in _run(list(group), platform):
                report.results.append(result)
                each(result)
    if report is None:
        raise QemuUnsuitable("no scenario to run")
    order = {scenario.id: n for n, scenario in enumerate(scenarios)}
    report.results.sort(key=lambda result: order[result.scenario.id])
    report.seconds = time.monotonic() - started
    return report


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
        return Result(scenario, model, None, _model_only(scenario, model), f"this QEMU does not offer {missing}")
    try:
        seen = scenario.run(platform)
    except Unreachable as reason:
        return Result(scenario, model, None, _model_only(scenario, model), str(reason))
    verdict, why = judge(scenario, model, seen, platform.machine.version)
    return Result(scenario, model, seen, verdict, why)


def on_model(scenario: Scenario) -> tuple[str, ...]:
    """The outcome on the model, which follows the specification."""
    return scenario.run(ModelPlatform(scenario.setup.capabilities))


def on_profile(scenario: Scenario, version: Version) -> tuple[str, ...]:
    """The outcome on the model with the quirks of that QEMU version."""
    return scenario.run(ModelPlatform(scenario.setup.capabilities, POLICY, profile(version)))


def _model_only(scenario: Scenario, model: tuple[str, ...]) -> Verdict:
    return Verdict.MODEL_ONLY if model == scenario.expect else Verdict.DIFFERS


def judge(scenario: Scenario, model: tuple[str, ...], seen: tuple[str, ...], version: Version) -> tuple[Verdict, str]:
    """The verdict on the outcome `seen` on that QEMU version, and the reason for it."""
    if model != scenario.expect:
        return Verdict.DIFFERS, "the model does not do what the specification says"
    claimed = [quirk for quirk in quirks_of(version) if scenario.id in quirk.scenarios]
    names = ", ".join(quirk.id for quirk in claimed)
    right = {scenario.expect: ""} | {allowed.lines: allowed.because for allowed in scenario.allowed}
    if seen in right:
        if claimed:
            return Verdict.DIFFERS, f"{names} no longer shows"
        return (Verdict.ALLOWED, right[seen]) if right[seen] else (Verdict.AGREES, "")
    if claimed and seen == on_profile(scenario, version):
        return Verdict.QUIRK, names
    return Verdict.DIFFERS, f"and not as {names} predicts" if claimed else ""


# The capabilities that the catalogue's expected outcomes depend on.
_RELEVANT = (
    "address_width",
    "host_address_width",
    "levels",
    "domain_id_bits",
    "page_2m",
    "page_1g",
    "pass_through",
    "device_tlb",
    "snoop_control",
    "caching_mode",
    "page_selective",
    "max_address_mask",
    "fault_records",
    "queued_invalidation",
    "interrupt_remapping",
    "posted_interrupts",
)


def missing_capabilities(setup: Setup, offered: Capabilities) -> str:
    """Names of the capabilities that a setup needs and the unit does not offer; empty when there are none.

    Raises QemuUnsuitable when the unit differs in another capability that the expected outcomes depend on.
    """
    missing = []
    for name in setup.needs:
        have, want = getattr(offered, name), getattr(setup.capabilities, name)
        if have != want:
            missing.append(name if want is True else f"{name}={want}")
    if missing:
        return ", ".join(missing)
    for name in _RELEVANT:
        have, want = getattr(offered, name), getattr(setup.capabilities, name)
        if have != want:
            raise QemuUnsuitable(f"the {setup.name} catalogue is for {name}={want}, this QEMU has {have}")
    return ""
