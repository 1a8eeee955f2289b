"""What the unit remembers (spec 6.2): context entries by source-id, translations by domain-id and page.

Only entries that led to a translation are kept, as a unit without caching mode does. Nothing notices when memory
changes: staleness is real, until an invalidation covers it.
"""

from __future__ import annotations

from typing import NamedTuple

from iommu.structures import TranslationType


class CachedContext(NamedTuple):
    """A context entry that passed its checks, decoded."""

    domain_id: int
    translation_type: TranslationType
    levels: int
    table: int
    fpd: int


class Page(NamedTuple):
    """One translation: `host` is the first byte of the page, `shift` the log2 of its size."""

    host: int
    shift: int
    readable: int
    writable: int


class ContextCache:
    """Context entries by source-id, with the root entry folded in (spec 6.2.2)."""

    def __init__(self) -> None:
        self._entries: dict[int, CachedContext] = {}
        self.find = self._entries.get

    def fill(self, source_id: int, context: CachedContext) -> None:
        """Remember one entry."""
        self._entries[source_id] = context

    def drop_all(self) -> None:
        """Global invalidation."""
        self._entries.clear()

    def drop_domain(self, domain_id: int) -> None:
        """Domain-selective invalidation."""
        for source_id in [key for key, context in self._entries.items() if context.domain_id == domain_id]:
            del self._entries[source_id]

    def drop_device(self, source_id: int, ignored: int) -> None:
        """Device-selective invalidation; `ignored` are the source-id bits that need not match."""
        for key in [key for key in self._entries if (key ^ source_id) & ~ignored == 0]:
            del self._entries[key]


class Iotlb:
    """Translations by domain-id and page (spec 6.2.3): devices that share a domain share them."""

    SHIFTS = (12, 21, 30)

    def __init__(self) -> None:
        self._domains: dict[int, tuple[dict[int, Page], dict[int, Page], dict[int, Page]]] = {}

    def find(self, domain_id: int, address: int) -> Page | None:
        """The translation that covers `address`, of whatever page size."""
        pages = self._domains.get(domain_id)
        if pages is None:
            return None
        return pages[0].get(address >> 12) or pages[1].get(address >> 21) or pages[2].get(address >> 30)

    def fill(self, domain_id: int, address: int, page: Page) -> None:
        """Remember the page that maps `address`."""
        pages = self._domains.setdefault(domain_id, ({}, {}, {}))
        pages[self.SHIFTS.index(page.shift)][address >> page.shift] = page

    def drop_all(self) -> None:
        """Global invalidation."""
        self._domains.clear()

    def drop_domain(self, domain_id: int) -> None:
        """Domain-selective invalidation."""
        self._domains.pop(domain_id, None)

    def drop_pages(self, domain_id: int, address: int, mask: int) -> None:
        """Page-selective invalidation: every page that overlaps the 2**mask pages of 4 KiB around `address`."""
        first = address >> 12 + mask << mask
        last = first + (1 << mask) - 1
        for shift, pages in zip(self.SHIFTS, self._domains.get(domain_id, ()), strict=False):
            down = shift - 12
            for frame in [frame for frame in pages if first >> down <= frame <= last >> down]:
                del pages[frame]
