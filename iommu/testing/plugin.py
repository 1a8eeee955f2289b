"""The pytest plugin: fixtures for the tests of a VT-d driver, and failed assertions in words.

pytest loads this module at every start, wherever vtdlab is installed: nothing else of the project is imported until a
test asks for a fixture.

To test on another unit, override a fixture in a conftest.py, or for one test:

    @pytest.mark.parametrize("vtd_capabilities", [Capabilities(caching_mode=True)])
"""

# ruff: noqa: PLC0415 - a fixture imports what it needs, so that pytest starts as quickly as without this plugin

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from iommu import Capabilities, Device, FlatMemory, Policy, SourceId
    from iommu.testing import Registers, WatchedUnit

_UNIT = pytest.StashKey["WatchedUnit"]()


@pytest.fixture
def vtd_memory() -> FlatMemory:
    """256 MiB of zeroed memory from address 0, which takes space only where it is written."""
    from iommu import FlatMemory

    return FlatMemory(256 << 20)


@pytest.fixture
def vtd_capabilities() -> Capabilities:
    """What the unit offers: by default a complete legacy-mode unit that can record eight faults."""
    from iommu import Capabilities

    return Capabilities(fault_records=8)


@pytest.fixture
def vtd_policy() -> Policy:
    """What the unit does where the architecture leaves a choice: by default the strictest reading."""
    from iommu import Policy

    return Policy()


@pytest.fixture
def vtd_unit(
    request: pytest.FixtureRequest, vtd_memory: FlatMemory, vtd_capabilities: Capabilities, vtd_policy: Policy
) -> WatchedUnit:
    """The unit under the driver: it audits its caches, traces every request, and checks the driver's accesses."""
    from iommu.testing import WatchedUnit

    unit = request.node.stash[_UNIT] = WatchedUnit(vtd_memory, vtd_capabilities, vtd_policy)
    return unit


@pytest.fixture
def vtd_registers(vtd_unit: WatchedUnit) -> Registers:
    """The unit's registers for the driver: read32, read64, write32, write64, by offset."""
    from iommu.testing import Registers

    return Registers(vtd_unit)


@pytest.fixture
def vtd_device(vtd_unit: WatchedUnit) -> Callable[[SourceId], Device]:
    """Devices behind the unit by their source-ids: the same device for the same source-id. They do not use ATS."""
    from iommu import Device

    devices: dict[SourceId, Device] = {}

    def device(source_id: SourceId) -> Device:
        """The device with this source-id."""
        if source_id not in devices:
            devices[source_id] = Device(vtd_unit, source_id, uses_ats=False)
        return devices[source_id]

    return device


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """A failed comparison in words, if it is one of values of this project."""
    if "iommu.engine.request" not in sys.modules:  # there can be no such value
        return None
    from iommu.testing.words import compared

    return compared(op, left, right)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a failed test, what was wrong with its unit: the driver may only say that the unit does not answer."""
    report = yield
    unit = item.stash.get(_UNIT, None)
    # What assert_clean has said is not repeated.
    if report.failed and unit is not None and "the unit is not clean" not in report.longreprtext:
        from iommu.testing.clean import problems

        report.sections.append(("vtd_unit at the end of the test", "\n".join(problems(unit)) or "clean"))
    return report
