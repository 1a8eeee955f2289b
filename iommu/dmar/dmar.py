"""The table as users have it: its data, and what can be asked about it."""

from __future__ import annotations

from iommu.dmar.kinds import Drhd
from iommu.dmar.lint import Finding, lint
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.table import Table
from iommu.dmar.topology import unit_for


class Dmar(Table):
    """A DMAR table. Attributes and the way to and from bytes are Table's."""

    __slots__ = ()

    def unit_for(
        self, segment: int, bus: int, device: int, function: int, tree: PciTree | None = None
    ) -> Drhd | None:
        """The unit that remaps a PCI function's DMA, or None (spec 8.3, 8.3.1).

        Bridge scopes and paths of several hops need the machine's PCI tree: without one, a function below a bridge
        that a scope names is taken to belong to the unit with INCLUDE_PCI_ALL.
        """
        return unit_for(self, PciAddress(segment, bus, device, function), tree)[0]

    def lint(self) -> list[Finding]:
        """Everything wrong or odd about the table, by offset; see iommu.dmar.lint."""
        return lint(self)
