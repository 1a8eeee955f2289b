"""The kinds of worlds that the fast lane makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iommu import RemappingUnit
from iommu.registers import TableMode
from qemu.vtd.conformance import setups
from qemu.vtd.conformance.setups import Setup
from qemu.vtd.fuzz.lane.legacy import Legacy
from qemu.vtd.fuzz.lane.scalable import FirstStage, Scalable
from qemu.vtd.fuzz.lane.worlds import Mode


@dataclass(frozen=True)
class Kind:
    """A kind of worlds.

    Attributes:
        number: part of the seed.
        setup: the name of such a unit in conformance/setups.py, which has its properties.
        cases: how many a batch has at most.
        table_mode: RTADDR.TTM.
        made: the mode, for a unit and the source-id of the device.
    """

    number: int
    setup: str
    cases: int
    table_mode: TableMode
    made: Callable[[RemappingUnit, int], Mode]

    @property
    def properties(self) -> dict[str, str]:
        """Of intel-iommu, by the names of `Build.spelled`."""
        setup: Setup = getattr(setups, self.setup)
        return dict(setup.properties)


MODES: dict[str, Kind] = {
    "legacy": Kind(1, "WIDE", 6144, TableMode.LEGACY, Legacy),
    "second": Kind(2, "SECOND_STAGE", 2048, TableMode.SCALABLE, Scalable),
    "first": Kind(3, "FIRST_STAGE", 2048, TableMode.SCALABLE, FirstStage),
    "legacy-on-scalable": Kind(4, "SECOND_STAGE", 6144, TableMode.LEGACY, Legacy),
}
"""By their names."""
