"""A unit that takes entries with reserved bits: what tables describe, although a real unit would refuse them."""

from __future__ import annotations

from typing import ClassVar

from iommu.engine.formats import Formats
from iommu.engine.unit import RemappingUnit


class _NothingReserved(Formats):
    """Formats without reserved bits."""

    def reserved_in_root(self, entry: int) -> int:
        """None."""
        return 0

    reserved_in_context = reserved_in_scalable_root = reserved_in_scalable_context = reserved_in_root
    reserved_in_directory = reserved_in_pasid = reserved_in_root

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        """None."""
        return 0

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        """None."""
        return 0


class LenientUnit(RemappingUnit):
    """A unit that takes entries with reserved bits."""

    Formats: ClassVar[type[Formats]] = _NothingReserved
