"""What the unit remembers (spec 6.2), tagged as the specification's table says.

    context cache               source-id
    PASID cache                 source-id and PASID; domain-id for invalidation
    IOTLB                       domain-id, and the PASID where a first stage took part; page
    paging-structure caches     the same, each stage its own; level and page
    interrupt-entry cache       index

Only what led to a translation is kept, and with caching mode what did not, too (spec 6.1). Nothing notices when
memory changes: staleness is real, until an invalidation covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from iommu.engine.caches.page import CachedContext, FaultyEntry, Page, Process, ScalableContext, Table

Key = TypeVar("Key")
Item = TypeVar("Item")


class Keyed(Generic[Key, Item]):
    """Entries by key. `evicted` is called when one has had to make room for another."""

    def __init__(self, capacity: int) -> None:
        self._entries: dict[Key, Item] = {}
        self._capacity = capacity
        self.find = self._entries.get
        self.evicted: Callable[[], None] = lambda: None

    def fill(self, key: Key, item: Item) -> None:
        """Remember one entry; the oldest makes room for it where there is none."""
        if len(self._entries) >= self._capacity and key not in self._entries:
            del self._entries[next(iter(self._entries))]
            self.evicted()
        self._entries[key] = item

    def __iter__(self) -> Iterator[Item]:
        return iter(self._entries.values())

    def drop_all(self) -> None:
        """Forget everything."""
        self._entries.clear()


class Numbered(Keyed[int, Item]):
    """Entries by a number: a source-id, an index."""

    def drop_matching(self, wanted: int, ignored: int) -> None:
        """Forget the entries whose key equals `wanted` in all bits that are not `ignored`."""
        for key in [key for key in self._entries if (key ^ wanted) & ~ignored == 0]:
            del self._entries[key]


class ContextCache(Numbered[CachedContext | FaultyEntry]):
    """Legacy context entries by source-id, with the root entry folded in."""

    def drop_domain(self, domain_id: int) -> None:
        """Forget the entries of a domain."""
        for key in [key for key, context in self._entries.items() if context.domain_id == domain_id]:
            del self._entries[key]


class PasidCache(Keyed[tuple[int, int], Process | FaultyEntry]):
    """PASID-table entries by source-id and PASID, with the directory entry folded in (spec 6.2.3)."""

    def drop(self, domain_id: int, pasid: int | None = None) -> None:
        """Forget the entries of a domain, or those of one PASID in it; faulty ones have no domain yet, and go too."""
        gone = [
            key
            for key, process in self._entries.items()
            if pasid in (None, key[1]) and (process.domain_id == domain_id or isinstance(process, FaultyEntry))
        ]
        for key in gone:
            del self._entries[key]


class Pages(NamedTuple):
    """The pages of one tag, by size and page number."""

    small: dict[int, Page]
    large: dict[int, Page]
    huge: dict[int, Page]

    def find(self, address: int) -> Page | None:
        """The page that covers `address`, of whatever size."""
        return self.small.get(address >> 12) or self.large.get(address >> 21) or self.huge.get(address >> 30)

    def clear(self) -> None:
        """Forget all of them."""
        self.small.clear()
        self.large.clear()
        self.huge.clear()


class Iotlb:
    """Translations by domain-id, PASID and page (spec 6.2.4). Devices that share a domain share them.

    The PASID is None where no first stage took part.
    """

    def __init__(self, capacity: int) -> None:
        self._tags: dict[tuple[int, int | None], Pages] = {}
        self._capacity = capacity
        self._count = 0

    def pages_of(self, domain_id: int, pasid: int | None) -> Pages:
        """All pages of a tag: a container that stays the same one, whatever is dropped from it."""
        pages = self._tags.get((domain_id, pasid))
        if pages is None:
            pages = self._tags[domain_id, pasid] = Pages({}, {}, {})
        return pages

    def find(self, domain_id: int, pasid: int | None, address: int) -> Page | None:
        """The translation that covers `address`, of whatever page size."""
        pages = self._tags.get((domain_id, pasid))
        return None if pages is None else pages.find(address)

    def fill(self, domain_id: int, pasid: int | None, address: int, page: Page) -> None:
        """Remember the page that maps `address`."""
        if page.touches_interrupts(address) or page.touches_interrupts(page.host):
            page.kind = page.kind.but(guarded=True)
        shift = page.kind.size.bit_length() - 1
        self.put(self.pages_of(domain_id, pasid)[(shift - 12) // 9], address >> shift, page)

    def put(self, sized: dict[int, Page], frame: int, page: Page) -> None:
        """Remember a page of a known tag and size. With no room left, everything is forgotten to make some."""
        if self._count >= self._capacity:
            self.drop_all()
        self._count += 1
        sized[frame] = page

    def drop_all(self) -> None:
        """Forget everything."""
        for pages in self._tags.values():
            pages.clear()
        self._count = 0

    def drop_domain(self, domain_id: int) -> None:
        """Forget everything of a domain, whatever its PASID."""
        self.pages_of(domain_id, None).clear()
        self._drop_with_pasid(domain_id)

    def drop_pages(self, domain_id: int, address: int, mask: int) -> None:
        """Page-selective within a domain: second-stage pages that overlap, and all that a first stage had part in.

        `mask`: the 2**mask pages of 4 KiB around `address`.
        """
        self._drop_with_pasid(domain_id)
        drop_overlapping(self.pages_of(domain_id, None), address, mask)

    def drop_pasid(self, domain_id: int, pasid: int) -> None:
        """PASID-selective: everything of one PASID; second-stage entries may stay."""
        self.pages_of(domain_id, pasid).clear()

    def drop_pasid_pages(self, domain_id: int, pasid: int, address: int, mask: int) -> None:
        """Page-selective within a PASID."""
        drop_overlapping(self.pages_of(domain_id, pasid), address, mask)

    def drop_page(self, address: int) -> None:
        """Whatever covers one 4 KiB page, under any tag."""
        for pages in self._tags.values():
            drop_overlapping(pages, address, 0)

    def _drop_with_pasid(self, domain_id: int) -> None:
        for (domain, pasid), pages in self._tags.items():
            if domain == domain_id and pasid is not None:
                pages.clear()


def drop_overlapping(pages: Pages, address: int, mask: int) -> None:
    """Forget the pages that overlap the 2**mask pages of 4 KiB around `address`."""
    first = address >> 12 + mask << mask
    last = first + (1 << mask) - 1
    for down, sized in zip((0, 9, 18), pages, strict=True):
        low, high = first >> down, last >> down
        if high - low < len(sized):
            gone = [frame for frame in range(low, high + 1) if frame in sized]
        else:
            gone = [frame for frame in sized if low <= frame <= high]
        for frame in gone:
            del sized[frame]


class StructureCache:
    """Upper paging entries of one stage by domain-id, PASID, level and page (spec 6.2.5)."""

    def __init__(self, capacity: int) -> None:
        # For each tag a dictionary per level of the table pointed to, 1 to 4, by the address bits that lead to it.
        self._tags: dict[tuple[int, int | None], list[dict[int, Table]]] = {}
        self._capacity = capacity
        self._count = 0

    def tables_of(self, domain_id: int, pasid: int | None) -> list[dict[int, Table]]:
        """What is known under a tag, by level: containers that stay the same, whatever is dropped from them."""
        tables = self._tags.get((domain_id, pasid))
        if tables is None:
            tables = self._tags[domain_id, pasid] = [{} for _ in range(5)]
        return tables

    def find(self, domain_id: int, pasid: int | None, address: int, levels: int) -> tuple[int, Table] | None:
        """The deepest table known on the way to `address`, and its level."""
        tables = self._tags.get((domain_id, pasid))
        if tables is None:
            return None
        for level in range(1, levels):
            table = tables[level].get(address >> 12 + 9 * level)
            if table is not None:
                return level, table
        return None

    def fill(self, domain_id: int, pasid: int | None, address: int, level: int, table: Table) -> None:
        """Remember that the table of `level` on the way to `address` is `table`."""
        if self._count >= self._capacity:
            self.drop_all()
        self._count += 1
        self.tables_of(domain_id, pasid)[level][address >> 12 + 9 * level] = table

    def drop_all(self) -> None:
        """Forget everything."""
        for tag in self._tags:
            self.drop_tag(*tag)
        self._count = 0

    def drop_domain(self, domain_id: int) -> None:
        """Forget everything of a domain."""
        for tag in self._tags:
            if tag[0] == domain_id:
                self.drop_tag(*tag)

    def drop_page(self, address: int) -> None:
        """Forget the tables on the way to one page, under any tag."""
        for tables in self._tags.values():
            for level, known in enumerate(tables):
                known.pop(address >> 12 + 9 * level, None)

    def drop_tag(self, domain_id: int, pasid: int | None) -> None:
        """Forget everything of one PASID, or of the domain's second stage."""
        for known in self.tables_of(domain_id, pasid):
            known.clear()


class Caches:
    """All of a unit's caches, and what each invalidation command drops (spec 6.5.2).

    Register-based and queued commands both end here. A command may drop more than it names, never less.

    Args:
        capacity: entries each cache holds.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.contexts = ContextCache(capacity)
        self.scalable_contexts: Numbered[ScalableContext | FaultyEntry] = Numbered(capacity)
        self.pasids = PasidCache(capacity)
        self.pasids.evicted = self._part_contexts_from_pasids
        self.iotlb = Iotlb(capacity)
        self.first_stage = StructureCache(capacity)
        self.second_stage = StructureCache(capacity)
        self.interrupts: Numbered[int] = Numbered(capacity)

    def drop_contexts(self) -> None:
        """Context cache, global."""
        self.contexts.drop_all()
        self.scalable_contexts.drop_all()

    def drop_contexts_of_domain(self, domain_id: int) -> None:
        """Context cache, domain-selective. Scalable-mode context entries have no domain-id: all of them go."""
        self.contexts.drop_domain(domain_id)
        self.scalable_contexts.drop_all()

    def drop_contexts_of_device(self, source_id: int, ignored: int) -> None:
        """Context cache, device-selective; `ignored` are the source-id bits that need not match."""
        self.contexts.drop_matching(source_id, ignored)
        self.scalable_contexts.drop_matching(source_id, ignored)

    def drop_pasids(self) -> None:
        """PASID cache, global."""
        self.pasids.drop_all()
        self._part_contexts_from_pasids()

    def drop_pasids_of_domain(self, domain_id: int) -> None:
        """PASID cache, domain-selective."""
        self.pasids.drop(domain_id)
        self._part_contexts_from_pasids()

    def drop_pasid(self, domain_id: int, pasid: int) -> None:
        """PASID cache, PASID-selective within a domain."""
        self.pasids.drop(domain_id, pasid)
        self._part_contexts_from_pasids()

    def _part_contexts_from_pasids(self) -> None:
        """What a context knows of its process goes with the PASID cache."""
        for context in self.scalable_contexts:
            if isinstance(context, ScalableContext):
                context.shortcut = None

    def drop_translations(self) -> None:
        """IOTLB, global."""
        self.iotlb.drop_all()
        self.first_stage.drop_all()
        self.second_stage.drop_all()

    def drop_translations_of_domain(self, domain_id: int) -> None:
        """IOTLB, domain-selective."""
        self.iotlb.drop_domain(domain_id)
        self.first_stage.drop_domain(domain_id)
        self.second_stage.drop_domain(domain_id)

    def drop_translations_of_pages(self, domain_id: int, address: int, mask: int, leaf_only: int) -> None:
        """IOTLB, page-selective within a domain: 2**mask pages. With `leaf_only`, the hint IH, upper entries stay."""
        self.iotlb.drop_pages(domain_id, address, mask)
        if not leaf_only:
            self.second_stage.drop_tag(domain_id, None)
            self.first_stage.drop_domain(domain_id)

    def drop_translations_of_pasid(self, domain_id: int, pasid: int) -> None:
        """PASID-based IOTLB, PASID-selective within a domain."""
        self.iotlb.drop_pasid(domain_id, pasid)
        self.first_stage.drop_tag(domain_id, pasid)

    def drop_translations_of_pasid_pages(
        self, domain_id: int, pasid: int, address: int, mask: int, leaf_only: int
    ) -> None:
        """PASID-based IOTLB, page-selective within a PASID: 2**mask pages."""
        self.iotlb.drop_pasid_pages(domain_id, pasid, address, mask)
        if not leaf_only:
            self.first_stage.drop_tag(domain_id, pasid)

    def drop_page(self, address: int) -> None:
        """What a page request drops by itself, so that the device's retry is translated anew (spec 7.4)."""
        self.iotlb.drop_page(address)
        self.first_stage.drop_page(address)
        self.second_stage.drop_page(address)

    def drop_interrupts(self, index: int = 0, mask: int = 16) -> None:
        """Interrupt-entry cache: the 2**mask entries around `index`; by default all."""
        self.interrupts.drop_matching(index, (1 << mask) - 1)

    def drop_all_of_dma(self) -> None:
        """What a unit that says so does by itself when the root table is set (CAP.ESRTPS)."""
        self.drop_contexts()
        self.drop_pasids()
        self.drop_translations()
