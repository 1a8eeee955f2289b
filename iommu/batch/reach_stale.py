"""What the caches of a unit may still let requests reach, although the tables no longer say so (spec 6.2, 6.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from iommu.batch.reach import READ, WRITE, letters
from iommu.batch.reach_domains import Space
from iommu.engine.caches.entries import FaultyEntry
from iommu.engine.caches.page import Page
from iommu.engine.quiet import quiet_copy
from iommu.engine.reasons import Blocked
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.unit import RemappingUnit

Tag = tuple[int, int | None]


class StalePage(NamedTuple):
    """A page in the IOTLB that no requester of its domain has in its tables, or not with these rights.

    Attributes:
        domain_id, pasid: its tag; a second stage has no PASID there.
        address, size, host: of the page.
        rights: what is cached: "rw".
    """

    domain_id: int
    pasid: int | None
    address: int
    size: int
    host: int
    rights: str


@dataclass
class Stale:
    """What is cached, and what of it the tables no longer say.

    Attributes:
        cached: how many contexts, PASID-table entries, pages and tables are cached.
        contexts: the devices whose cached context differs from memory.
        pasids: the same with PASIDs.
        pages: the pages.
    """

    cached: dict[str, int]
    contexts: list[SourceId] = field(default_factory=list)
    pasids: list[tuple[SourceId, int]] = field(default_factory=list)
    pages: list[StalePage] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.contexts or self.pasids or self.pages)


def stale(unit: RemappingUnit, spaces: Iterable[Space]) -> Stale:
    """Compare what a unit has cached with its tables. `spaces`: all that its tables describe."""
    caches = unit.caches
    pages = list(_pages(unit))
    structures = (caches.first_stage, caches.second_stage)
    made = Stale(
        {
            "contexts": len(caches.contexts.items()) + len(caches.scalable_contexts.items()),
            "PASIDs": len(caches.pasids.items()),
            "pages": len(pages),
            "tables": sum(len(level) for cache in structures for _, levels in cache.tags() for level in levels),
        }
    )
    legacy, scalable = quiet_copy(unit.translation).legacy, quiet_copy(unit.translation).scalable
    for number, cached in caches.contexts.items():
        request = DmaRequest(SourceId.of(number), 0, Access.READ)
        if cached != _read(partial(legacy.read_context_of, request)):
            made.contexts.append(request.source_id)
    for number, known in caches.scalable_contexts.items():
        device = SourceId.of(number)
        if known != _read(partial(_scalable_context, scalable, device)):
            made.contexts.append(device)
    for (number, pasid), entry in caches.pasids.items():
        device = SourceId.of(number)
        if entry != _read(partial(_pasid_entry, scalable, device, pasid)):
            made.pasids.append((device, pasid))
    by_domain: dict[int, list[Space]] = {}
    for space in spaces:
        for domain in {one.domain_id for one in space.requesters if one.domain_id is not None}:
            by_domain.setdefault(domain, []).append(space)
    for tag, address, page in pages:
        if page.kind.fault is None and (rights := _rights(page)):
            described = _described(by_domain.get(tag[0], ()), tag, address, page)
            if rights & ~described:
                made.pages.append(StalePage(*tag, address, page.kind.size, page.host, letters(rights)))
    return made


def _scalable_context(scalable: ScalableMode, device: SourceId) -> object:
    return scalable.decode_context(scalable.context_entry(device))


def _pasid_entry(scalable: ScalableMode, device: SourceId, pasid: int) -> object:
    return scalable.pasid_entry(scalable.context_of(device), pasid)


def _read(entry: Callable[[], object]) -> object:
    """What would be cached now."""
    try:
        return entry()
    except Blocked as condition:
        return FaultyEntry(condition.reason, condition.fpd)


def _pages(unit: RemappingUnit) -> Iterator[tuple[Tag, int, Page]]:
    """The IOTLB: the tag of each page, its address, and the page."""
    for tag, sized in unit.caches.iotlb.tags():
        for pages in sized:
            for frame, page in pages.items():
                yield tag, frame * page.kind.size, page


def _rights(page: Page) -> int:
    return READ * page.kind.readable | WRITE * page.kind.writable


def _described(spaces: Iterable[Space], tag: Tag, address: int, page: Page) -> int:
    """The rights that tables of the domain give to all of a page that leads to the same place."""
    rights = 0
    for space in spaces:
        if tag[1] is not None and all(one.pasid not in (None, tag[1]) for one in space.requesters):
            continue
        each = space.reach.find(address)
        if each is None or each.host + address - each.start != page.host:
            continue
        if address + page.kind.size <= each.start + each.size:
            rights |= sum(bit for bit, letter in ((READ, "r"), (WRITE, "w")) if letter in each.rights)
    return rights
