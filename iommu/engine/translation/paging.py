"""What both stages of paging share: the leaf of a walk, and how one stage translates a request."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from iommu.engine.caches.caches import Caches
from iommu.engine.caches.page import Intent, Page, PageKind
from iommu.engine.caches.tables import Root, SecondStageRoot, Table
from iommu.engine.capabilities import Capabilities
from iommu.engine.entry_format import PagingFormat
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import DmaRequest, Outcome, in_interrupt_range


class Leaf(NamedTuple):
    """The end of a walk: a page whose own entry is not marked yet.

    Attributes:
        page: the translation.
        where: the address of the entry that maps it, in host memory.
        entry: its bits.
        format: its format.
        table_leaf: in a nested walk, the second stage's leaf for the table that the entry is in.
        page_leaf: in a nested walk, the second stage's leaf for the page.
    """

    page: Page
    where: int
    entry: int
    format: PagingFormat
    table_leaf: Leaf | None = None
    page_leaf: Leaf | None = None


class Stage(Protocol):
    """FirstStage, which may be nested in a second one, or SecondStage. `tables` is a root of the stage's own kind."""

    def check_address(self, tables: Any, address: int) -> None:
        """Whether the stage maps such addresses at all. Raises Blocked."""
        ...

    def find(self, tables: Any, address: int, intent: Intent) -> Leaf:
        """The page that maps an address. Raises Blocked."""
        ...

    def set_accessed_dirty(self, tables: Any, leaf: Leaf, *, dirty: bool) -> Page:
        """Record the access in the entries that map the page; the page as it is from then on. Raises Blocked."""
        ...

    def check_leaf(self, tables: Any, table: Table, entry: int, intent: Intent) -> PageKind:
        """What a last table's entry makes of the page it maps. Raises Blocked."""
        ...

    def bits_to_set(self, tables: Any, entry: int, *, dirty: bool) -> int:
        """The bits that an access has still to set in the entry of its page."""
        ...

    def address_bits(self, tables: Any) -> int:
        """Addresses of so many bits are within what the stage maps; a larger one takes `check_address`."""
        ...

    def faulty_kind(self, tables: Any, reason: FaultReason) -> PageKind | None:
        """What caching mode caches where a walk has ended so; None for nothing."""
        ...


class Paging:
    """Translation by one stage: the same for legacy mode, second stage and first stage. The modes derive from it."""

    def __init__(self, capabilities: Capabilities, caches: Caches, *, cache_faulty: bool) -> None:
        self.capabilities, self.caches, self.cache_faulty = capabilities, caches, cache_faulty

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        """The outcome of a request that `tables` map. Raises Blocked."""
        stage.check_address(tables, request.address)
        page = self.cached_page(tables, intent, request.address)
        if page is not None:
            self.check(tables, page.kind, intent)
            return self.apply_no_write(self.outcome(tables, page, intent, request), page, request)
        early = self.caches_early(tables)
        leaf = self.walk(stage, tables, intent, request, early=early)
        self.check(tables, leaf.page.kind, intent)
        outcome = self.outcome(tables, leaf.page, intent, request)
        page = stage.set_accessed_dirty(tables, leaf, dirty=sets_dirty(leaf.page.kind, intent))
        if not early:
            self.caches.iotlb.fill(tables.domain_id, tables.pasid, request.address, page)
        return self.apply_no_write(outcome, page, request)

    def cached_page(self, tables: Root, intent: Intent, address: int) -> Page | None:
        """The IOTLB's page; none where a write has still to be recorded in the tables."""
        page = self.caches.iotlb.find(tables.domain_id, tables.pasid, address)
        return None if page is None or (intent.sets_dirty and not page.kind.dirty) else page

    def check(self, tables: Root, kind: PageKind, intent: Intent) -> None:
        """Whether the page permits the request, or is one at all (caching mode). Raises Blocked."""
        if kind.fault is not None:
            raise Blocked(kind.fault)
        tables.codes.check(kind, intent)

    def walk(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest, *, early: bool) -> Leaf:
        """The page, from the tables. In caching mode, what is not present or erroneous is cached (spec 6.1)."""
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
        """Caching mode caches a page before it is known whether the request may use it.

        Not where the page's own entry has still to be marked: the cached page could be used then without that.
        """
        return self.cache_faulty and isinstance(tables, SecondStageRoot) and not tables.accessed_dirty

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        """The host address within the page. Raises Blocked."""
        host = page.host | request.address & page.kind.size - 1
        # LGN.4, SGN.8: no DMA may reach the interrupt range through a translation (3.14).
        if self.reaches_interrupt_range(page, host):
            raise Blocked(tables.codes.interrupt_range)
        outcome = Outcome(host, page.kind.grant)
        if intent.user and not intent.execute:
            return outcome
        writable = page.kind.writable if intent.user else page.kind.supervisor_writable
        return outcome.replace(writable=writable, executable=intent.execute and page.kind.executable)

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        """Whether the address itself, not just its page, is in the range (spec 3.14)."""
        return in_interrupt_range(host)

    def apply_no_write(self, outcome: Outcome, page: Page, request: DmaRequest) -> Outcome:
        """A translation request that will not write is granted write permission only where D is set already."""
        if request.no_write and self.capabilities.no_write_requests and not page.kind.dirty:
            return outcome.replace(writable=False)
        return outcome


def sets_dirty(kind: PageKind, intent: Intent) -> bool:
    """Whether the request is recorded as a write: it is one, or may become one by what it is granted."""
    return intent.sets_dirty and (kind.writable if intent.user else kind.supervisor_writable)
