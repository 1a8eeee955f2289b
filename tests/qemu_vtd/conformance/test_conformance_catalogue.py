"""The catalogue: one test per scenario and platform, and checks of every scenario's declaration."""

from collections.abc import Iterator

import pytest

from iommu import FaultReason
from qemu.vtd.conformance.judge import Verdict, on_model, terms_of
from qemu.vtd.conformance.machines import Machines
from qemu.vtd.conformance.scenario import Allowed, Scenario, catalogue
from qemu.vtd.conformance.trial import run_one
from qemu.vtd.platform import ModelPlatform
from qemu.vtd.probe import Build

CATALOGUE = catalogue()
_MACHINES = list(dict.fromkeys(scenario.setup.machine for scenario in CATALOGUE))
# One QEMU after the other: those of all machines would take gigabytes.
BY_MACHINE = sorted(CATALOGUE, key=lambda scenario: _MACHINES.index(scenario.setup.machine))
WITH_POLICY = [(each, allowed) for each in CATALOGUE for allowed in each.allowed if allowed.policy is not None]


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.id)
def test_model(scenario: Scenario) -> None:
    assert on_model(scenario) == scenario.expect


@pytest.mark.parametrize(("scenario", "allowed"), WITH_POLICY, ids=lambda part: getattr(part, "id", ""))
def test_model_with_an_allowed_policy(scenario: Scenario, allowed: Allowed) -> None:
    platform = ModelPlatform(scenario.setup.capabilities, allowed.policy, topology=scenario.setup.topology)
    assert scenario.run(platform) == allowed.lines


@pytest.fixture(scope="module")
def machines(build: Build) -> Iterator[Machines]:
    with Machines(build.path) as machines:
        yield machines


@pytest.mark.parametrize("scenario", BY_MACHINE, ids=lambda scenario: scenario.id)
def test_qemu(scenario: Scenario, machines: Machines, build: Build) -> None:
    result = run_one(scenario, machines)
    if result.verdict is Verdict.NOT_APPLICABLE:
        pytest.skip(result.why)
    fails = terms_of(build.version).fails
    assert result.verdict not in fails, f"{result.why}\nQEMU: {result.qemu}\nexpected: {scenario.expect}"


def test_every_reason_has_a_scenario() -> None:
    """Of those that requests without a PASID, to which no device-TLB belongs, can cause."""
    seen = {line.split()[1] for scenario in CATALOGUE for line in scenario.expect if line.startswith("fault")}
    legacy = {f"{code:#04x}" for code in range(1, 0x0F)}
    interrupts = {f"{code:#04x}" for code in (*range(0x20, 0x27), 0x29)}
    tables = (0x30, *range(0x38, 0x3B), *range(0x40, 0x44), *range(0x50, 0x53), *range(0x58, 0x5C))
    stages = (*range(0x70, 0x74), *range(0x78, 0x7D), 0x80, 0x81, *range(0x83, 0x88), 0x90)
    assert seen == legacy | interrupts | {f"{code:#04x}" for code in (*tables, *stages)}


def test_fpd_suppresses_every_qualified_reason() -> None:
    """Except LCT.5, whose scenarios need a device with a device-TLB."""
    suppressed = {scenario.id.rpartition(".")[2] for scenario in CATALOGUE if scenario.id.startswith("legacy.fpd.")}
    qualified = {f"{reason:02x}" for reason in FaultReason if reason.qualified and reason < 0x20}
    assert qualified - suppressed == {"0d"}


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.id)
def test_a_scenario_has_title_section_and_status(scenario: Scenario) -> None:
    assert scenario.title.endswith(".")
    assert scenario.section[0].isdigit()
    assert scenario.expect[-1].startswith("FSTS")
    assert all(allowed.lines != scenario.expect and allowed.because for allowed in scenario.allowed)


def test_patterns_match_as_shell_patterns_or_substrings() -> None:
    assert [each.id for each in catalogue("legacy.root.unreadable")] == ["legacy.root.unreadable"]
    assert {each.id.split(".")[1] for each in catalogue("legacy.r*t.*")} == {"root"}
    assert {each.id.split(".")[1] for each in catalogue("y.root.")} == {"root"}
    assert catalogue("nothing like this") == []
