"""The short way of a plain request: from what the caches know, or one entry away from it, to the outcome.

Nothing here is architecture. A plain request is untranslated, has a length and asks neither to execute nor for
privileged mode. Nearly all are, and find their context, and their page or the last table on the way to it, in a
cache. Where anything is out of the ordinary the long way decides, and nothing here says what it would not.
"""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.cached import Page, Table
from iommu.engine.caches import Iotlb, StructureCache
from iommu.engine.request import INTERRUPT_RANGE, Access
from iommu.errors import MemoryAccessError

SmallPage = Callable[[Table, int, Access], Page | None]
"""The page of 4 KiB that a last table maps an address to, for a plain request; None where that takes a second look.

Raises MemoryAccessError."""


class Shortcut:
    """The pages and the last tables that are known of one domain, or of one PASID in it.

    Args:
        iotlb, structures: the caches; structures of the stage, which has to be the only one.
        domain_id, pasid: the tag.
        small_page: how the stage reads the entries of its last tables.

    `small` are the pages of 4 KiB, by page number.
    """

    __slots__ = ("_huge", "_iotlb", "_large", "_small_page", "_tables", "small")

    def __init__(
        self, iotlb: Iotlb, structures: StructureCache, domain_id: int, pasid: int | None, small_page: SmallPage
    ) -> None:
        self.small, self._large, self._huge = iotlb.pages_of(domain_id, pasid)
        self._tables = structures.tables_of(domain_id, pasid)[1]
        self._iotlb, self._small_page = iotlb, small_page

    def find(self, address: int, access: Access) -> Page | None:
        """The page that maps an address, where it is not among the small ones that have been used."""
        if self._large and (page := self._large.get(address >> 21)) is not None:
            return page
        if self._huge and (page := self._huge.get(address >> 30)) is not None:
            return page
        table = self._tables.get(address >> 21)
        if table is None or address >> 20 == INTERRUPT_RANGE:
            return None
        try:
            page = self._small_page(table, address, access)
        except MemoryAccessError:
            return None
        if page is None or page.host >> 20 == INTERRUPT_RANGE:
            return None
        # The walk would have found it, and remembered it, without ado.
        self._iotlb.put(self.small, address >> 12, page)
        return page
