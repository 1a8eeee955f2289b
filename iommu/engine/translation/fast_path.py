"""The short way of a plain request: from what the caches know, or one entry away from it, to the outcome.

Nothing here is architecture. A plain request is untranslated, has a length and asks neither to execute nor for
privileged mode. Nearly all are, and find their context, and their page or the last table on the way to it, in a
cache. Where anything is out of the ordinary the long way decides, and nothing here says what it would not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from iommu.engine.caches.caches import Caches, Iotlb, StructureCache
from iommu.engine.caches.page import Page, Table
from iommu.engine.request import INTERRUPT_RANGE, Access
from iommu.errors import MemoryAccessError

if TYPE_CHECKING:
    from iommu.engine.translation.first_stage import Directory, FirstStage
    from iommu.engine.translation.second_stage import SecondStage, Tables

SmallPage = Callable[[Table, int, Access], Page | None]
"""The page of 4 KiB that a last table maps an address to, for a plain request; None where that takes a second look.

Raises MemoryAccessError."""


class Shortcut:
    """The pages and the last tables that are known of one domain, or of one PASID in it.

    Args:
        iotlb, structures: the caches; structures of the stage, which has to be the only one.
        domain_id, pasid: the tag.
        small_page: how the stage reads the entries of its last tables.

        reach: addresses of so many bits are within what the stage maps; others may be cached under the same tag.

    `small` are the pages of 4 KiB, by page number.
    """

    __slots__ = ("_huge", "_iotlb", "_large", "_small_page", "_tables", "reach", "small")

    def __init__(
        self,
        iotlb: Iotlb,
        structures: StructureCache,
        domain_id: int,
        pasid: int | None,
        small_page: SmallPage,
        reach: int,
    ) -> None:
        self.reach = reach
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
        if table is None or address >> 20 == INTERRUPT_RANGE or address >> self.reach:
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


class Shortcuts:
    """Makes the short ways of a unit.

    A mode is copied to be traced, and this is not: contexts and processes that a traced request caches have the same
    short way as any other.
    """

    def __init__(self, caches: Caches, first_stage: FirstStage, second_stage: SecondStage) -> None:
        self._caches, self._first, self._second = caches, first_stage, second_stage

    def by_second_stage(self, tables: Tables) -> Shortcut:
        """The second stage alone."""
        small_page, reach = self._second.small_pages(tables), self._second.reach(tables)
        caches, domain_id = self._caches, tables.domain_id
        return Shortcut(caches.iotlb, caches.second_stage, domain_id, None, small_page, reach)

    def by_first_stage(self, tables: Directory) -> Shortcut:
        """The first stage alone: the lower half of its addresses."""
        small_page, caches = self._first.small_pages(tables), self._caches
        tag = tables.domain_id, tables.pasid
        return Shortcut(caches.iotlb, caches.first_stage, *tag, small_page, 11 + 9 * tables.levels)
