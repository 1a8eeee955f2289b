"""The catalogue: one test per scenario and platform, and checks of every scenario's declaration."""

from collections.abc import Iterator

import pytest

from iommu import FaultReason
from qemu.vtd.conformance.judge import Verdict, on_model
from qemu.vtd.conformance.runner import run_one
from qemu.vtd.conformance.scenario import Allowed, Scenario, catalogue
from qemu.vtd.errors import PropertyMissing
from qemu.vtd.platform import ModelPlatform
from qemu.vtd.probe import Build
from qemu.vtd.qemu_platform import QemuPlatform

CATALOGUE = catalogue()
WITH_POLICY = [(each, allowed) for each in CATALOGUE for allowed in each.allowed if allowed.policy is not None]


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.id)
def test_model(scenario: Scenario) -> None:
    assert on_model(scenario) == scenario.expect


@pytest.mark.parametrize(("scenario", "allowed"), WITH_POLICY, ids=lambda part: getattr(part, "id", ""))
def test_model_with_an_allowed_policy(scenario: Scenario, allowed: Allowed) -> None:
    platform = ModelPlatform(scenario.setup.capabilities, allowed.policy, topology=scenario.setup.topology)
    assert scenario.run(platform) == allowed.lines


class Platforms:
    """The installed QEMU, started once for each machine that a setup needs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._running: dict[object, QemuPlatform] = {}

    def get(self, scenario: Scenario) -> QemuPlatform:
        machine = properties, topology = scenario.setup.machine
        if machine not in self._running:
            self._running[machine] = QemuPlatform(self._path, dict(properties), topology).__enter__()
        return self._running[machine]

    def close(self) -> None:
        for platform in self._running.values():
            platform.__exit__()


@pytest.fixture(scope="module")
def platforms(build: Build) -> Iterator[Platforms]:
    running = Platforms(build.path)
    yield running
    running.close()


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.id)
def test_qemu(scenario: Scenario, platforms: Platforms) -> None:
    try:
        platform = platforms.get(scenario)
    except PropertyMissing as lack:
        pytest.skip(str(lack))
    result = run_one(scenario, platform)
    assert result.verdict is not Verdict.DIFFERS, f"{result.why}\nQEMU: {result.qemu}\nexpected: {scenario.expect}"


def test_every_reason_has_a_scenario() -> None:
    """Of those that requests without a PASID, to which no device-TLB belongs, can cause."""
    seen = {line.split()[1] for scenario in CATALOGUE for line in scenario.expect if line.startswith("fault")}
    legacy = {f"{code:#04x}" for code in range(1, 0x0F)}
    interrupts = {f"{code:#04x}" for code in range(0x21, 0x27)}
    tables = (0x30, *range(0x38, 0x3B), *range(0x40, 0x43), 0x48, *range(0x50, 0x53), *range(0x58, 0x5C))
    stages = (*range(0x70, 0x74), *range(0x78, 0x7C), 0x80, 0x81, *range(0x83, 0x88))
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
