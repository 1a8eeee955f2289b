"""A snapshot: the units of a machine, and the memory that holds their tables."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from iommu.dmar import Dmar
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.topology import Units
from iommu.engine.policy import Policy
from iommu.engine.request import SourceId
from iommu.errors import DmarError, MisuseError, RoutingError
from iommu.explain.report import FaultReport
from iommu.files.archive import ZIP, Archive
from iommu.files.reading import beginning
from iommu.snapshot import core, kdump
from iommu.snapshot.contents import Contents
from iommu.snapshot.core import NOTHING_GIVEN, Given
from iommu.snapshot.firmware import find_dmar
from iommu.snapshot.folder import from_folder, from_zip
from iommu.snapshot.onefile import SETTINGS, from_file
from iommu.snapshot.unit import UnitSnapshot
from iommu.system import System


class Snapshot(Contents):
    """A snapshot of a machine, of one unit or several. Its attributes are those of Contents."""

    @classmethod
    def open(cls, path: Path | str, given: Given = NOTHING_GIVEN) -> Self:
        """Read a snapshot that is a file or a folder, of any form (docs/snapshots.md).

        Args:
            given: what a core lacks.

        Raises FormatError or MisuseError for what is not one, and InputError for a file that cannot be read.
        """
        path = Path(path)
        if path.is_dir():
            return cls(*from_folder(path))
        if not path.is_file():
            raise MisuseError(f"there is no snapshot at {path}")
        begins = beginning(path, 16)
        if begins.startswith(core.MAGIC):
            return cls(*core.from_core(path, given))
        if begins.startswith(kdump.BEGINNINGS):
            return cls(*core.from_compressed(path, given))
        if given != NOTHING_GIVEN:
            raise MisuseError(f"{path} is not a core, and only these need registers that are given by hand")
        if not begins.startswith(ZIP):
            raise MisuseError(f"{path} is not a snapshot: it is neither a zip archive nor a core")
        archive = Archive(path)
        return cls(*(from_file if SETTINGS in archive.names else from_zip)(path, archive))

    @cached_property
    def table(self) -> Dmar | None:
        """The DMAR, from the snapshot or from its memory; None if it is in neither, or too damaged to be read."""
        data = self.dmar or find_dmar(self.memory)
        try:
            return None if data is None else Dmar.parse(data)
        except DmarError:
            return None

    @cached_property
    def _remapping(self) -> Units:
        """The units of the table by what they remap."""
        assert self.table is not None
        return Units(self.table, None)

    def system(self, policy: Policy | None = None, tree: PciTree | None = None) -> System:
        """All units, with the way of each request to its unit.

        Raises MisuseError if the snapshot lacks the DMAR or one of its units, and as UnitSnapshot.unit does.
        """
        if self.table is None:
            raise MisuseError(f"{self.name} has no DMAR, which says what each unit remaps")
        return System(self.table, {unit.register_base: unit.unit(policy) for unit in self.units}, tree)

    def unit_for(self, source_id: SourceId, segment: int = 0) -> UnitSnapshot:
        """The unit that remaps a device's DMA: by the DMAR if there are several. Raises RoutingError."""
        if len(self.units) == 1:
            return self.units[0]
        address = PciAddress(segment, source_id >> 8, source_id >> 3 & 31, source_id & 7)
        if self.table is None:
            raise RoutingError(f"{self.name} has no DMAR, which would say which of its units remaps {address}")
        if missing := self._remapping.undecided(address):
            raise RoutingError(missing)
        drhd, _ = self._remapping.unit_for(address)
        for unit in self.units:
            if drhd is not None and unit.register_base == drhd.base:
                return unit
        raise RoutingError(f"no unit of {self.name} remaps the DMA of {address}")

    def faults(self) -> list[FaultReport]:
        """The faults that its units have recorded and that are not yet cleared. Raises MisuseError."""
        return [fault for unit in self.units for fault in unit.faults()]
