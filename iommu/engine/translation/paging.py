"""What both stages have in common: the leaf of a walk, and how one stage translates a request."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from iommu.engine.caches.caches import Caches, StructureCache
from iommu.engine.caches.page import Intent, Page, PageKind
from iommu.engine.caches.tables import Root, SecondStageRoot, Table
from iommu.engine.capabilities import Capabilities
from iommu.engine.entry_format import PagingFormat
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import DmaRequest, Outcome, in_interrupt_range
from iommu.engine.table_access import ATTEMPTS, EntryChanged, TableAccess


class Leaf(NamedTuple):
    """The result of a walk: a page, before the accessed and dirty bits of its own entry are set.

    Attributes:
        page: the translation.
        where: the host address of the entry that maps the page.
        entry: the bits of that entry.
        format: the format of that entry.
        table_leaf: in a nested walk, the second-stage leaf for the table that holds the entry.
        page_leaf: in a nested walk, the second-stage leaf for the page.
    """

    page: Page
    where: int
    entry: int
    format: PagingFormat
    table_leaf: Leaf | None = None
    page_leaf: Leaf | None = None


class Stage(Protocol):
    """FirstStage, nested or not, or SecondStage. `tables` is a FirstStageRoot or SecondStageRoot accordingly."""

    def check_address(self, tables: Any, address: int) -> None:
        """Check that the address is one the stage can map. Raises Blocked."""
        ...

    def find(self, tables: Any, address: int, intent: Intent) -> Leaf:
        """The page that maps an address. Raises Blocked."""
        ...

    def set_accessed_dirty(self, tables: Any, leaf: Leaf, *, dirty: bool) -> Page:
        """Set the accessed and dirty bits of the leaf entries. Returns the page with them. Raises Blocked."""
        ...

    def check_leaf(self, tables: Any, table: Table, entry: int, intent: Intent) -> PageKind:
        """The kind of page that an entry of a last-level table maps. Raises Blocked."""
        ...

    def bits_to_set(self, tables: Any, entry: int, *, dirty: bool) -> int:
        """The accessed and dirty bits of a leaf entry that an access still has to set."""
        ...

    def address_bits(self, tables: Any) -> int:
        """An address that fits in this number of bits passes `check_address`; a larger one may not."""
        ...

    def faulty_kind(self, tables: Any, reason: FaultReason) -> PageKind | None:
        """What caching mode caches after a walk that ended with this fault; None for nothing."""
        ...


class StageWalk:
    """How both stages read the entries of their tables. Base class of both."""

    def __init__(self, access: TableAccess, policy: Policy, cache: StructureCache) -> None:
        self.access, self.policy, self.cache = access, policy, cache

    def read_entry(self, entry_format: PagingFormat, where: int, snooped: int) -> int:
        """The bits of an entry. Raises MemoryAccessError."""
        return self.access.read(entry_format, where, snooped)

    def unreadable(self, tables: Root, level: int) -> FaultReason:
        """The fault of an entry that could not be read: the top table has one of its own."""
        return tables.codes.top_unreadable if level == tables.levels else tables.codes.unreadable


class Paging:
    """Translation by one stage, the same for legacy mode, first stage and second stage. Base class of both modes."""

    def __init__(self, capabilities: Capabilities, caches: Caches, *, cache_faulty: bool) -> None:
        self.capabilities, self.caches, self.cache_faulty = capabilities, caches, cache_faulty

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        """Translate a request through `tables`. Raises Blocked.

        If others write an entry between the unit's read and its update, the request is walked and checked again.
        """
        stage.check_address(tables, request.address)
        page = self.cached_page(tables, intent, request.address)
        if page is not None:
            self.check(tables, page.kind, intent)
            return self.apply_no_write(self.outcome(tables, page, intent, request), page, request)
        early, changes = self.caches_early(tables), 0
        while True:
            try:
                leaf = self.walk(stage, tables, intent, request, early=early)
                self.check(tables, leaf.page.kind, intent)
                outcome = self.outcome(tables, leaf.page, intent, request)
                page = stage.set_accessed_dirty(tables, leaf, dirty=sets_dirty(leaf.page.kind, intent))
                break
            except EntryChanged as changed:
                changes += 1
                # SFS.10, SSS.6: the entry could not be updated, as it changed each time.
                if changes == ATTEMPTS:
                    raise Blocked(changed.reason) from None
        if not early:
            self.caches.iotlb.fill(tables.domain_id, tables.pasid, request.address, page)
        return self.apply_no_write(outcome, page, request)

    def cached_page(self, tables: Root, intent: Intent, address: int) -> Page | None:
        """The page from the IOTLB; None if a write still has to set the dirty bit in the tables."""
        page = self.caches.iotlb.find(tables.domain_id, tables.pasid, address)
        return None if page is None or (intent.sets_dirty and not page.kind.dirty) else page

    def check(self, tables: Root, kind: PageKind, intent: Intent) -> None:
        """Check that the page permits the request, and is not a cached fault (caching mode). Raises Blocked."""
        # Any fault that caching mode caches: it was cached in place of a page (6.1).
        if kind.fault is not None:
            raise Blocked(kind.fault)
        tables.codes.check(kind, intent)

    def walk(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest, *, early: bool) -> Leaf:
        """The page, from the tables. In caching mode, faulty entries are cached too (spec 6.1). Raises Blocked."""
        try:
            leaf = stage.find(tables, request.address, intent)
        except Blocked as condition:
            kind = stage.faulty_kind(tables, condition.reason) if self.cache_faulty else None
            if kind is not None:
                self.caches.iotlb.fill(tables.domain_id, tables.pasid, request.address, Page(0, kind))
            raise
        if early:
            self.caches.iotlb.fill(tables.domain_id, tables.pasid, request.address, leaf.page)
        return leaf

    def caches_early(self, tables: Root) -> bool:
        """Whether a page is cached before it is known if the request may use it: in caching mode.

        But not if the accessed bit of its own entry still has to be set: a later request could use the cached page
        without setting it.
        """
        return self.cache_faulty and isinstance(tables, SecondStageRoot) and not tables.accessed_dirty

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        """The outcome, with the host address in the page. Raises Blocked."""
        host = page.host | request.address & page.kind.size - 1
        # LGN.4, SGN.8: the host address is in the interrupt range (3.14).
        if self.reaches_interrupt_range(page, host):
            raise Blocked(tables.codes.interrupt_range)
        outcome = Outcome(host, page.kind.grant)
        if intent.user and not intent.execute:
            return outcome
        writable = page.kind.writable if intent.user else page.kind.supervisor_writable
        return outcome.replace(writable=writable, executable=intent.execute and page.kind.executable)

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        """Whether the host address itself, not only its page, is in the range (spec 3.14)."""
        return in_interrupt_range(host)

    def apply_no_write(self, outcome: Outcome, page: Page, request: DmaRequest) -> Outcome:
        """A translation request with NW gets write permission only if the dirty bit is set already."""
        if request.no_write and self.capabilities.no_write_requests and not page.kind.dirty:
            return outcome.replace(writable=False)
        return outcome


def sets_dirty(kind: PageKind, intent: Intent) -> bool:
    """Whether the request sets the dirty bit: it writes, or it is granted write permission."""
    return intent.sets_dirty and (kind.writable if intent.user else kind.supervisor_writable)
