"""The fast path for plain requests: results of full translations, looked up without repeating the checks.

Nothing here is architecture, and no rule of the architecture is stated here. A plain request is untranslated, has a
length, and requests neither execute permission nor privileged mode. Nearly all requests are plain, and find their
page or its last-level table in a cache of the unit. The fast path holds, for each requester and PASID, where in the
caches that is. It drops everything when anything is invalidated or evicted, or when the mode or the tables of the
unit change. Every other request takes the full translation.
"""

from __future__ import annotations

from iommu.engine.caches.caches import Caches
from iommu.engine.caches.page import PLAIN_INTENTS, Page, PageKind
from iommu.engine.caches.tables import Root, Table
from iommu.engine.reasons import Blocked
from iommu.engine.request import Access, AddressType, DmaRequest, Outcome, SourceId, in_interrupt_range
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.paging import Stage
from iommu.engine.translation.translation import Translation
from iommu.errors import MemoryAccessError

_new = object.__new__
_UNTRANSLATED = AddressType.UNTRANSLATED


class Lookup:
    """Looks up the pages and last-level tables of one requester and PASID in the caches.

    Attributes:
        small: the cached 4 KiB pages, by page number.
        end: addresses from here on may be beyond what the stage maps.
    """

    __slots__ = (
        "_address",
        "_huge",
        "_kinds",
        "_large",
        "_put",
        "_read",
        "_rest",
        "_root",
        "_stage",
        "_tables",
        "end",
        "small",
    )

    def __init__(self, stage: Stage, root: Root, caches: Caches, access: TableAccess) -> None:
        self._stage, self._root = stage, root
        self.end = 1 << stage.address_bits(root)
        self.small, self._large, self._huge = caches.iotlb.pages_of(root.domain_id, root.pasid)
        structures = caches.second_stage if root.pasid is None else caches.first_stage
        self._tables = structures.tables_of(root.domain_id, root.pasid)[1]
        self._put, self._read = caches.iotlb.put, access.memory_for(root.snooped).read_u64
        self._address = root.formats[1].page_address
        self._rest = ~self._address
        self._kinds: dict[int, PageKind] = {}

    def find(self, address: int, access: Access) -> Page | None:
        """The page that maps an address, if it is not in `small`; None if the full translation is needed."""
        if self._large and (page := self._large.get(address >> 21)) is not None:
            return page
        if self._huge and (page := self._huge.get(address >> 30)) is not None:
            return page
        table = self._tables.get(address >> 21)
        if table is None or address >= self.end or in_interrupt_range(address):
            return None
        where, rights = table
        try:
            entry = self._read(where + (address >> 9 & 0xFF8))
        except MemoryAccessError:
            return None
        # The kind depends on all bits of an entry except the address; access and rights are put in place of those.
        meaning = entry & self._rest | access << 12 | rights << 14
        kind = self._kinds.get(meaning) or self._learn(meaning, table, entry, access)
        host = entry & self._address
        if kind is None or in_interrupt_range(host):
            return None
        page = _new(Page)
        page.host, page.kind = host, kind
        self._put(self.small, address >> 12, page)
        return page

    def _learn(self, meaning: int, table: Table, entry: int, access: Access) -> PageKind | None:
        """The kind of page that such an entry maps; None if the full translation has to block or to set bits."""
        intent = PLAIN_INTENTS[access]
        try:
            kind = self._stage.check_leaf(self._root, table, entry, intent)
        except Blocked:
            return None
        if access & kind.refused or self._stage.bits_to_set(self._root, entry, dirty=intent.sets_dirty):
            return None
        self._kinds[meaning] = kind
        return kind


class FastPath:
    """Translates plain requests from the caches if possible, and all others by the full translation."""

    def __init__(self, translation: Translation, caches: Caches, access: TableAccess) -> None:
        self._translation, self._caches, self._access = translation, caches, access
        self._lookups: dict[SourceId | tuple[SourceId, int], Lookup] = {}
        translation.changed = self.drop
        caches.changed.append(self.drop)

    def drop(self) -> None:
        """Drop everything: it may be outdated."""
        self._lookups.clear()

    def translate(self, request: DmaRequest) -> Outcome:
        """The outcome of a request; the same as that of the full translation."""
        pasid, address, lookup = request.pasid, request.address, None
        if pasid is None:
            lookup = self._lookups.get(request.source_id)
        elif not (request.privileged or request.execute):
            lookup = self._lookups.get((request.source_id, pasid))
        if lookup is not None and request.address_type is _UNTRANSLATED and request.length:
            access = request.access
            page = lookup.small.get(address >> 12) or lookup.find(address, access)
            if page is not None and not (access & (kind := page.kind).refused or address >= lookup.end):
                # Calling the constructor would cost a tenth of the time that all of this takes.
                outcome = _new(Outcome)
                outcome.host_address, outcome.grant = page.host | address & kind.size - 1, kind.grant
                return outcome
        outcome = self._translation.translate(request)
        if lookup is None:
            self._learn(request)
        return outcome

    def _learn(self, request: DmaRequest) -> None:
        """After a full translation, prepare the lookup for further requests like this one."""
        plain = request.address_type is _UNTRANSLATED and not (request.privileged or request.execute)
        if plain and (found := self._translation.single_stage(request)) is not None:
            key = request.source_id if request.pasid is None else (request.source_id, request.pasid)
            self._lookups[key] = Lookup(*found, self._caches, self._access)
