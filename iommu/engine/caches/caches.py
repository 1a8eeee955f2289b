"""The caches of a unit and their tags (spec 6.2).

    context cache               source-id
    PASID cache                 source-id and PASID; domain-id for invalidation
    IOTLB                       domain-id, and the PASID if a first stage took part; page
    paging-structure caches     the same, one cache for each stage; level and page
    interrupt-entry cache       index

Only what led to a translation is cached; in caching mode, what did not is cached as well (spec 6.1). When memory
changes, cached entries become stale, and stay so until an invalidation covers them.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from iommu.engine.caches.entries import CachedContext, FaultyEntry, PasidContext, ScalableContext
from iommu.engine.caches.page import Page
from iommu.engine.caches.tables import Table
from iommu.engine.invalidation.selector import CacheName, Selector

Key = TypeVar("Key")
Item = TypeVar("Item")
Tag = tuple[int, int | None]
"""Domain-id and PASID; the PASID is None if no first stage took part."""


class KeyedCache(Generic[Key, Item]):
    """Entries by key. `evicted` is called after an entry has been evicted."""

    def __init__(self, capacity: int) -> None:
        self._entries: dict[Key, Item] = {}
        self._capacity = capacity
        self.find = self._entries.get
        self.evicted: Callable[[], None] = lambda: None

    def fill(self, key: Key, item: Item) -> None:
        """Cache one entry. If the cache is full, the oldest is evicted."""
        if len(self._entries) >= self._capacity and key not in self._entries:
            del self._entries[next(iter(self._entries))]
            self.evicted()
        self._entries[key] = item

    def __iter__(self) -> Iterator[Item]:
        return iter(self._entries.values())

    def items(self) -> ItemsView[Key, Item]:
        """Every key with its entry, the next one to be evicted first."""
        return self._entries.items()

    def load(self, items: Mapping[Key, Item]) -> None:
        """Put back the entries of a saved unit, of which there are no more than the cache holds."""
        self._entries.update(items)

    def remove(self, key: Key) -> None:
        """Drop one entry, if it is cached."""
        self._entries.pop(key, None)

    def _drop(self, is_named: Callable[[Key, Item], bool]) -> None:
        for key in [key for key, item in self._entries.items() if is_named(key, item)]:
            del self._entries[key]


class ContextCache(KeyedCache[int, CachedContext | FaultyEntry]):
    """Legacy-mode context entries by source-id. The root entry is not cached by itself."""

    def invalidate(self, named: Selector) -> None:
        """A device-selective invalidation matches the source-id only; its domain-id is ignored."""
        if named.source_id is None and named.domain_id is not None:
            self._drop(lambda _, context: context.domain_id == named.domain_id)
        else:
            self._drop(lambda source_id, _: named.matches(source_id))


class ScalableContextCache(KeyedCache[int, ScalableContext | FaultyEntry]):
    """Scalable-mode context entries by source-id. They have no domain-id: domain-selective means all."""

    def invalidate(self, named: Selector) -> None:
        """See ContextCache."""
        self._drop(lambda source_id, _: named.matches(source_id))


class PasidCache(KeyedCache[tuple[int, int], PasidContext | FaultyEntry]):
    """PASID-table entries by source-id and PASID (spec 6.2.3). The directory entry is not cached by itself."""

    def invalidate(self, named: Selector) -> None:
        """Faulty entries have no domain-id: an invalidation of any domain drops them."""

        def is_named(key: tuple[int, int], context: PasidContext | FaultyEntry) -> bool:
            right_domain = named.domain_id in (None, context.domain_id) or isinstance(context, FaultyEntry)
            return right_domain and named.pasid in (None, key[1])

        self._drop(is_named)


class InterruptCache(KeyedCache[int, int]):
    """Interrupt-remapping entries by index."""

    def invalidate(self, named: Selector) -> None:
        """Drop a range of indices, or all."""
        self._drop(lambda index, _: named.indices is None or index in named.indices)


class Pages(NamedTuple):
    """The pages of one tag by size (4 KiB, 2 MiB, 1 GiB) and page number."""

    small: dict[int, Page]
    large: dict[int, Page]
    huge: dict[int, Page]

    def find(self, address: int) -> Page | None:
        """The page that covers `address`, of whatever size."""
        return self.small.get(address >> 12) or self.large.get(address >> 21) or self.huge.get(address >> 30)

    def clear(self) -> None:
        """Drop all of them."""
        self.small.clear()
        self.large.clear()
        self.huge.clear()

    def drop_overlapping(self, addresses: range) -> None:
        """Drop the pages that overlap these bytes."""
        for shift, sized in zip((12, 21, 30), self, strict=True):
            low, high = addresses.start >> shift, addresses.stop - 1 >> shift
            if high - low < len(sized):
                gone = [frame for frame in range(low, high + 1) if frame in sized]
            else:
                gone = [frame for frame in sized if low <= frame <= high]
            for frame in gone:
                del sized[frame]


class Iotlb:
    """Translations by tag and page (spec 6.2.4). Devices that share a domain share them.

    `evicted` is called after pages have been evicted.
    """

    def __init__(self, capacity: int) -> None:
        self._tags: dict[Tag, Pages] = {}
        self._capacity = capacity
        self._count = 0
        self.evicted: Callable[[], None] = lambda: None

    def tags(self) -> ItemsView[Tag, Pages]:
        """Every tag with its pages."""
        return self._tags.items()

    def pages_of(self, domain_id: int, pasid: int | None) -> Pages:
        """All pages of a tag. The container stays the same object when pages are dropped from it."""
        pages = self._tags.get((domain_id, pasid))
        if pages is None:
            pages = self._tags[domain_id, pasid] = Pages({}, {}, {})
        return pages

    def find(self, domain_id: int, pasid: int | None, address: int) -> Page | None:
        """The translation that covers `address`, of whatever page size."""
        pages = self._tags.get((domain_id, pasid))
        return None if pages is None else pages.find(address)

    def fill(self, domain_id: int, pasid: int | None, address: int, page: Page) -> None:
        """Cache the page that maps `address`."""
        if page.overlaps_interrupt_range(address) or page.overlaps_interrupt_range(page.host):
            page.kind = page.kind.with_flags(overlaps_interrupt_range=True)
        shift = page.kind.size.bit_length() - 1
        self.put(self.pages_of(domain_id, pasid)[(shift - 12) // 9], address >> shift, page)

    def put(self, sized: dict[int, Page], frame: int, page: Page) -> None:
        """Cache a page in the dictionary of its tag and size. If the cache is full, everything is evicted first."""
        if self._count >= self._capacity:
            self._clear()
            self.evicted()
        self._count += 1
        sized[frame] = page

    def _clear(self) -> None:
        for pages in self._tags.values():
            pages.clear()
        self._count = 0

    def invalidate(self, named: Selector) -> None:
        """Drop the pages that the selector names; see Selector for addresses and PASIDs."""
        if named.domain_id is None and named.addresses is None:
            self._clear()
            return
        for (domain_id, pasid), pages in self._tags.items():
            without_pasid = pasid is None and named.addresses is None
            if named.domain_id not in (None, domain_id) or not (named.pasid in (None, pasid) or without_pasid):
                continue
            by_first_stage = named.domain_id is not None and named.pasid is None and pasid is not None
            if named.addresses is None or by_first_stage:
                pages.clear()
            else:
                pages.drop_overlapping(named.addresses)


class StructureCache:
    """Upper paging entries of one stage by tag, level and page (spec 6.2.5). `evicted` as in Iotlb."""

    def __init__(self, capacity: int) -> None:
        # For each tag, by level of the table (1 to 4), a dictionary by the address bits that select the table.
        self._tags: dict[Tag, list[dict[int, Table]]] = {}
        self._capacity = capacity
        self._count = 0
        self.evicted: Callable[[], None] = lambda: None

    def tags(self) -> ItemsView[Tag, list[dict[int, Table]]]:
        """Every tag with its tables, by level."""
        return self._tags.items()

    def tables_of(self, domain_id: int, pasid: int | None) -> list[dict[int, Table]]:
        """The tables of a tag, by level. The containers stay the same objects when tables are dropped from them."""
        tables = self._tags.get((domain_id, pasid))
        if tables is None:
            tables = self._tags[domain_id, pasid] = [{} for _ in range(5)]
        return tables

    def find(self, domain_id: int, pasid: int | None, address: int, levels: int) -> tuple[int, Table] | None:
        """The lowest-level table cached for `address`, and its level."""
        tables = self._tags.get((domain_id, pasid))
        if tables is None:
            return None
        for level in range(1, levels):
            table = tables[level].get(address >> 12 + 9 * level)
            if table is not None:
                return level, table
        return None

    def fill(self, domain_id: int, pasid: int | None, address: int, level: int, table: Table) -> None:
        """Cache `table` as the table of `level` for `address`. If the cache is full, everything is evicted first."""
        if self._count >= self._capacity:
            self._clear(self._tags)
            self._count = 0
            self.evicted()
        self._count += 1
        self.tables_of(domain_id, pasid)[level][address >> 12 + 9 * level] = table

    def _clear(self, tags: Iterable[Tag]) -> None:
        for tag in tags:
            for tables in self._tags[tag]:
                tables.clear()

    def invalidate(self, named: Selector) -> None:
        """A page-selective invalidation drops all upper entries of the tags that it names, unless it is leaf-only."""
        if named.domain_id is None and named.addresses is not None:
            for levels in self._tags.values():
                for level, tables in enumerate(levels):
                    tables.pop(named.addresses.start >> 12 + 9 * level, None)
            return
        if named.addresses is not None and named.leaf_only:
            return
        self._clear(
            [
                (domain_id, pasid)
                for domain_id, pasid in self._tags
                if named.domain_id in (None, domain_id) and named.pasid in (None, pasid)
            ]
        )
        if named.domain_id is None and named.pasid is None:
            self._count = 0


class Caches:
    """All caches of a unit. `invalidate` carries out every invalidation: by register, by queue, or implied.

    Args:
        capacity: the number of entries that each cache holds.
        first_stage, second_stage: the paging-structure caches, instead of plain ones.

    The functions in `changed` are called after anything has been invalidated or evicted; `invalidated` is called with
    each selector after it has been carried out.
    """

    def __init__(
        self,
        capacity: int = 1 << 20,
        first_stage: StructureCache | None = None,
        second_stage: StructureCache | None = None,
    ) -> None:
        self.contexts = ContextCache(capacity)
        self.scalable_contexts = ScalableContextCache(capacity)
        self.pasids = PasidCache(capacity)
        self.iotlb = Iotlb(capacity)
        self.first_stage = first_stage or StructureCache(capacity)
        self.second_stage = second_stage or StructureCache(capacity)
        self.interrupts = InterruptCache(capacity)
        self.changed: list[Callable[[], None]] = []
        self.invalidated: Callable[[Selector], None] = lambda _named: None
        for cache in (self.contexts, self.scalable_contexts, self.pasids, self.iotlb):
            cache.evicted = self._on_change
        for structures in (self.first_stage, self.second_stage):
            structures.evicted = self._on_change

    def invalidate(self, named: Selector) -> None:
        """Drop what the selector names. The selector in `then` is not carried out."""
        match named.cache:
            case CacheName.CONTEXTS:
                self.contexts.invalidate(named)
                self.scalable_contexts.invalidate(named)
            case CacheName.PASIDS:
                self.pasids.invalidate(named)
            case CacheName.TRANSLATIONS:
                self.iotlb.invalidate(named)
                self.first_stage.invalidate(named)
                self.second_stage.invalidate(named)
            case CacheName.INTERRUPTS:
                self.interrupts.invalidate(named)
        self._on_change()
        self.invalidated(named)

    def invalidate_dma(self) -> None:
        """Drop everything except interrupt entries: SRTP on a unit with CAP.ESRTPS, or translation turned off."""
        for named in (Selector.contexts(), Selector.pasids(), Selector.translations()):
            self.invalidate(named)

    def _on_change(self) -> None:
        for changed in self.changed:
            changed()
