"""What the caches hold, in the saved state of a unit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from iommu.engine.attributes import Attributes
from iommu.engine.caches.caches import Caches, Iotlb, KeyedCache, StructureCache
from iommu.engine.caches.entries import CachedContext, FaultyEntry, PasidContext, ScalableContext
from iommu.engine.caches.page import Page, PageKind, kind_of
from iommu.engine.caches.tables import LEGACY, SECOND_STAGE, Table
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import SourceId
from iommu.engine.state_format import (
    CONTEXTS,
    FIRST_TABLES,
    FIRST_TAGS,
    HUGE,
    INTERRUPTS,
    KINDS,
    LARGE,
    NO_PASID,
    NO_TYPE,
    PASIDS,
    SCALABLE_CONTEXTS,
    SECOND_TABLES,
    SECOND_TAGS,
    SMALL,
    TAGS,
    Reader,
    Section,
    pasid_of,
)
from iommu.engine.translation import first_stage, second_stage
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.translation import Translation
from iommu.structures import ContextEntry, PasidEntry, TranslationType

Key = TypeVar("Key")
Item = TypeVar("Item")
Rows = list[tuple[Any, ...]]

_PAGES = (SMALL, LARGE, HUGE)
_SHIFTS = (12, 21, 30)
_PAGE_FAULTS = (LEGACY.reserved, SECOND_STAGE.reserved, SECOND_STAGE.not_present)
_REASONS = frozenset(map(int, FaultReason))
_DIRECTORIES = frozenset(1 << bits for bits in range(13, 21))
"""The numbers of PASIDs that a directory can cover (9.4, PDTS)."""

# Saving.


def rows(caches: Caches) -> dict[Section, Rows]:
    """The records of the sections of all caches, in the order in which each cache evicts."""
    return {
        CONTEXTS: [_context_row(*item) for item in caches.contexts.items()],
        SCALABLE_CONTEXTS: [_scalable_context_row(*item) for item in caches.scalable_contexts.items()],
        PASIDS: [_pasid_row(*item) for item in caches.pasids.items()],
        INTERRUPTS: list(caches.interrupts.items()),
        **_page_rows(caches.iotlb),
        **_table_rows(caches.first_stage, FIRST_TAGS, FIRST_TABLES),
        **_table_rows(caches.second_stage, SECOND_TAGS, SECOND_TABLES),
    }


def _context_row(source_id: int, context: CachedContext | FaultyEntry) -> tuple[int, ...]:
    if isinstance(context, FaultyEntry):
        return source_id, context.reason, context.fpd, 0, 0, 0, 0
    tables = context.tables
    place = tables.levels, context.domain_id, tables.address >> 12
    return source_id, 0, context.fpd, context.translation_type, *place


def _scalable_context_row(source_id: int, context: ScalableContext | FaultyEntry) -> tuple[int, ...]:
    if isinstance(context, FaultyEntry):
        return source_id, context.reason, context.fpd, 0, 0, 0, 0, 0, 0, 0
    return (
        source_id,
        0,
        context.fpd,
        context.directory >> 12,
        context.pasids,
        context.pasid_enabled,
        context.device_tlb_enabled,
        context.page_requests_enabled,
        context.rid_pasid,
        context.rid_priv,
    )


def _pasid_row(key: tuple[int, int], context: PasidContext | FaultyEntry) -> tuple[int, ...]:
    if isinstance(context, FaultyEntry):
        return *key, context.reason, context.fpd, 0
    return *key, 0, context.fpd, context.raw


def _page_rows(iotlb: Iotlb) -> dict[Section, Rows]:
    """The pages of all tags, and the kinds that they are of."""
    kinds = {id(page.kind): page.kind for _, pages in iotlb.tags() for sized in pages for page in sized.values()}
    number = {kind: n for n, kind in enumerate(kinds)}
    tags: Rows = []
    found: tuple[Rows, Rows, Rows] = ([], [], [])
    for (domain_id, pasid), pages in iotlb.tags():
        tags.append((domain_id, NO_PASID if pasid is None else pasid, *map(len, pages)))
        for shift, sized, rows in zip(_SHIFTS, pages, found, strict=True):
            rows += [(frame, page.host >> shift, number[id(page.kind)]) for frame, page in sized.items()]
    return {KINDS: [_kind_row(kind) for kind in kinds.values()], TAGS: tags, **dict(zip(_PAGES, found, strict=True))}


def _kind_row(kind: PageKind) -> tuple[int, ...]:
    attributes = kind.attributes
    types = [NO_TYPE if each is None else each for each in (attributes.first_stage, attributes.second_stage)]
    return (
        kind.size.bit_length() - 1,
        *(kind.readable, kind.writable, kind.supervisor_writable, kind.user, kind.executable, kind.dirty),
        kind.overlaps_interrupt_range,
        kind.fault or 0,
        attributes.snooped,
        *types,
        attributes.ignores_first_stage,
        attributes.uncacheable,
    )


def _table_rows(cache: StructureCache, tags: Section, tables: Section) -> dict[Section, Rows]:
    named: Rows = []
    rows: Rows = []
    for (domain_id, pasid), levels in cache.tags():
        named.append((domain_id, NO_PASID if pasid is None else pasid, *map(len, levels[1:])))
        for held in levels[1:]:
            rows += [(frame, table.address >> 12, table.rights) for frame, table in held.items()]
    return {tags: named, tables: rows}


# Restoring.


def load(caches: Caches, translation: Translation, reader: Reader) -> None:
    """Put back what the caches held; `translation` decodes entries again. Raises StateError."""
    legacy, scalable, faulty = translation.legacy, translation.scalable, translation.scalable.cache_faulty
    _load_keyed(reader, CONTEXTS, caches.contexts, lambda *row: _context(legacy, reader, *row))
    _load_keyed(
        reader, SCALABLE_CONTEXTS, caches.scalable_contexts, lambda *row: _scalable_context(reader, faulty, *row)
    )
    _load_keyed(reader, PASIDS, caches.pasids, lambda *row: _pasid_context(scalable, reader, *row))
    _load_keyed(reader, INTERRUPTS, caches.interrupts, lambda n, index, raw: (index, raw))
    _load_pages(reader, caches.iotlb, _kinds(reader, faulty=faulty))
    _load_tables(reader, FIRST_TAGS, FIRST_TABLES, caches.first_stage, first_stage.RIGHTS)
    _load_tables(reader, SECOND_TAGS, SECOND_TABLES, caches.second_stage, second_stage.RIGHTS)


def _load_keyed(
    reader: Reader, section: Section, cache: KeyedCache[Key, Item], item_of: Callable[..., tuple[Key, Item]]
) -> None:
    """The entries of a cache; `item_of` makes each of the number of its record and its columns."""
    count, columns, capacity = reader.count(section), reader.columns(section), reader.policy.cache_capacity
    if count > capacity:
        reader.refuse(section, capacity, section.first, count, f"the cache holds {capacity} entries")
    items = dict(item_of(n, *row) for n, row in enumerate(zip(*columns, strict=True)))
    if len(items) != count:
        reader.refuse(section, 0, section.first, count, f"only {len(items)} of the entries have keys of their own")
    cache.load(items)


def _faulty(reader: Reader, cached: bool, section: Section, n: int, number: int, fpd: int) -> FaultyEntry:
    if not (cached and number in _REASONS and FaultReason(number).cached):
        reader.refuse(section, n, "fault", number, "not a fault that this unit caches")
    return FaultyEntry(FaultReason(number), fpd)


def _context(
    legacy: LegacyMode, reader: Reader, n: int, source_id: int, fault: int, fpd: int, kind: int, levels: int,
    domain_id: int, table: int,
) -> tuple[SourceId, CachedContext | FaultyEntry]:  # fmt: skip
    if fault:
        return SourceId.of(source_id), _faulty(reader, legacy.cache_faulty, CONTEXTS, n, fault, fpd)
    if levels not in legacy.capabilities.levels:
        reader.refuse(CONTEXTS, n, "levels", levels, "not levels that the unit walks")
    if legacy.formats.translation_type(ContextEntry.make(TT=kind)) is None:
        reader.refuse(CONTEXTS, n, "translation_type", kind, "the unit does not support it")
    return SourceId.of(source_id), legacy.context(domain_id, TranslationType(kind), table << 12, levels, fpd)


def _scalable_context(
    reader: Reader,
    cached: bool,
    n: int,
    source_id: int,
    fault: int,
    fpd: int,
    directory: int,
    pasids: int,
    *flags: int,
) -> tuple[SourceId, ScalableContext | FaultyEntry]:
    if fault:
        return SourceId.of(source_id), _faulty(reader, cached, SCALABLE_CONTEXTS, n, fault, fpd)
    if pasids not in _DIRECTORIES:
        reader.refuse(SCALABLE_CONTEXTS, n, "pasids", pasids, "no directory covers this number of PASIDs")
    enabled, device_tlb, page_requests, rid_pasid, rid_priv = flags
    context = ScalableContext(directory << 12, pasids, enabled, device_tlb, page_requests, rid_pasid, rid_priv, fpd)
    return SourceId.of(source_id), context


def _pasid_context(
    tables: ScalableMode, reader: Reader, n: int, source_id: int, pasid: int, fault: int, fpd: int, raw: int
) -> tuple[tuple[SourceId, int], PasidContext | FaultyEntry]:
    key = SourceId.of(source_id), pasid
    if fault:
        return key, _faulty(reader, tables.cache_faulty, PASIDS, n, fault, fpd)
    try:
        tables.check_pasid_entry(raw, fpd)
    except Blocked as condition:
        reader.refuse(PASIDS, n, "raw", raw, f"not an entry that the unit caches: {condition.reason}")
    return key, tables.decode_pasid(PasidEntry(raw), pasid, fpd)


def _kinds(reader: Reader, *, faulty: bool) -> list[PageKind]:
    """The kinds of pages; those of faults only if the unit caches `faulty` entries."""
    kinds = []
    for n, row in enumerate(zip(*reader.columns(KINDS), strict=True)):
        shift, readable, writable, supervisor_writable, user, executable, dirty, overlaps, fault, *rest = row
        snooped, first, second, ignores, uncacheable = rest
        if shift not in _SHIFTS:
            reader.refuse(KINDS, n, "shift", shift, "pages have 4 KiB, 2 MiB or 1 GiB")
        if fault and not (faulty and fault in _PAGE_FAULTS and shift == 12):
            reader.refuse(KINDS, n, "fault", fault, "not a fault that this unit caches")
        for name, value in (("first_stage", first), ("second_stage", second)):
            if value > NO_TYPE:
                reader.refuse(KINDS, n, name, value, "not a memory type")
        first, second = (None if each == NO_TYPE else each for each in (first, second))
        attributes = Attributes(bool(snooped), first, second, bool(ignores), bool(uncacheable))
        rights = map(bool, (readable, writable, supervisor_writable, user, executable, dirty))
        reason = FaultReason(fault) if fault else None
        kinds.append(kind_of(1 << shift, *rights, attributes, bool(overlaps), reason))
    return kinds


class _Runs:
    """Hands out the records of a section in runs: each tag says how many of them are its own."""

    def __init__(self, reader: Reader, tags: Section, section: Section) -> None:
        self.reader, self.tags, self.section = reader, tags, section
        self._columns, self._count, self.at = reader.columns(section), reader.count(section), 0

    def take(self, tag: int, count: int) -> list[Sequence[int]]:
        """The columns of the next records."""
        if self.at + count > self._count:
            left = self._count - self.at
            self.reader.refuse(self.tags, tag, self.tags.first, count, f"only {left} {self.section.name} are left")
        self.at += count
        return [column[self.at - count : self.at] for column in self._columns]

    def check_count(self, tag: int, count: int, held: Collection[int]) -> None:
        """All records of the last run were different."""
        if len(held) != count:
            self.reader.refuse(
                self.tags, tag, self.tags.first, count, f"only {len(held)} different {self.section.name}"
            )

    def finish(self) -> None:
        """All records belong to a tag."""
        if self.at != self._count:
            self.reader.refuse(self.section, self.at, self.section.first, 0, "belongs to no tag")


def _tags(reader: Reader, section: Section) -> Iterator[tuple[int, int, int | None, list[int]]]:
    """The tags of a cache: number of the record, domain-id, PASID, and the numbers of its records."""
    seen = set()
    for n, (domain_id, pasid, *counts) in enumerate(zip(*reader.columns(section), strict=True)):
        if pasid > NO_PASID or (domain_id, pasid) in seen:
            reader.refuse(section, n, "pasid", pasid, "not a PASID, or the tag is there twice")
        seen.add((domain_id, pasid))
        yield n, domain_id, pasid_of(pasid), counts


def _load_pages(reader: Reader, iotlb: Iotlb, kinds: list[PageKind]) -> None:
    runs = [_Runs(reader, TAGS, section) for section in _PAGES]
    for n, domain_id, pasid, counts in _tags(reader, TAGS):
        pages = iotlb.pages_of(domain_id, pasid)
        for shift, run, count, sized in zip(_SHIFTS, runs, counts, pages, strict=True):
            frames, hosts, numbers = run.take(n, count)
            for number in set(numbers):
                if number >= len(kinds) or not _may_have(kinds[number], shift, pasid):
                    first = run.at - count + numbers.index(number)
                    reader.refuse(run.section, first, "kind", number, "no page of this size and tag has this kind")
            made = map(Page, [host << shift for host in hosts], [kinds[number] for number in numbers])
            sized.update(zip(frames, made, strict=True))
            run.check_count(n, count, sized)
    for run in runs:
        run.finish()


def _may_have(kind: PageKind, shift: int, pasid: int | None) -> bool:
    """Whether a page of this size and PASID can have this kind: a second stage alone knows no users (3.7)."""
    if kind.size != 1 << shift:
        return False
    if kind.fault is not None:
        return pasid is None
    return pasid is not None or (kind.user and kind.executable)


def _load_tables(reader: Reader, tags: Section, tables: Section, cache: StructureCache, rights: int) -> None:
    run = _Runs(reader, tags, tables)
    for n, domain_id, pasid, counts in _tags(reader, tags):
        if (pasid is None) != (tags is SECOND_TAGS):
            reader.refuse(tags, n, "pasid", NO_PASID if pasid is None else pasid, "not a tag of this stage")
        levels = cache.tables_of(domain_id, pasid)
        for level, count in enumerate(counts, 1):
            frames, addresses, left = run.take(n, count)
            for first, (frame, each) in enumerate(zip(frames, left, strict=True), run.at - count):
                if frame >> 52 - 9 * level or each & ~rights:
                    reader.refuse(tables, first, "rights", each, f"not a table of level {level}")
            made = map(Table, [address << 12 for address in addresses], left)
            levels[level].update(zip(frames, made, strict=True))
            run.check_count(n, count, levels[level])
    run.finish()
