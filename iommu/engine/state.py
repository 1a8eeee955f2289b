"""Saving a unit and restoring it: everything that it would otherwise forget (docs/embedding.md).

A restored unit answers as the original would have. What follows from capabilities, policy or cached entries is not
saved but derived again, by the part that owns the rule. Nothing of a saved state is trusted: see `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from iommu.engine import state_ledger
from iommu.engine.ats import PageRequest
from iommu.engine.attributes import Attributes
from iommu.engine.audit import Ledger
from iommu.engine.caches.caches import Caches, Iotlb, KeyedCache, StructureCache
from iommu.engine.caches.entries import CachedContext, FaultyEntry, PasidContext, ScalableContext
from iommu.engine.caches.page import Page, PageKind, kind_of
from iommu.engine.caches.tables import LEGACY, SECOND_STAGE, Table
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.page_requests.page_requests import PageRequests
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.register_file import RegisterFile
from iommu.engine.request import SourceId
from iommu.engine.state_format import (
    COMMANDS,
    CONTEXTS,
    EVENTS,
    FIRST_TABLES,
    FIRST_TAGS,
    HUGE,
    IGNORED,
    INTERRUPTS,
    KINDS,
    LARGE,
    LATCHED,
    NO_PASID,
    NO_TYPE,
    OVERDUE,
    PASIDS,
    POSTED,
    PROTECTED,
    REGISTERS,
    SCALABLE_CONTEXTS,
    SECOND_TABLES,
    SECOND_TAGS,
    SECTIONS,
    SMALL,
    TAGS,
    Reader,
    Section,
    build,
)
from iommu.engine.steps import IgnoredWrite, Pending, Steps, Work
from iommu.engine.translation import first_stage, second_stage
from iommu.engine.translation.translation import Translation
from iommu.errors import MisuseError
from iommu.registers import PMEN
from iommu.structures import ContextEntry, PasidEntry, TranslationType

Key = TypeVar("Key")
Item = TypeVar("Item")
Rows = list[tuple[Any, ...]]


class Unit(Protocol):
    """What this module needs of a RemappingUnit."""

    capabilities: Capabilities
    policy: Policy
    ledger: Ledger | None
    registers: RegisterFile
    caches: Caches
    formats: Formats
    faults: FaultLog
    invalidation: Invalidation
    interrupts: Interrupts
    translation: Translation
    page_requests: PageRequests
    queue: Queue | None
    steps: Steps | None
    _events: list[Message]


class Latched(NamedTuple):
    """A number that a part of the unit holds: the path of the attribute, and the values it can have."""

    path: str
    allowed: Callable[[Unit], Container[int]]


def _any_of(values: Container[int]) -> Callable[[Unit], Container[int]]:
    return lambda _: values


def _counted(cache: str) -> Callable[[Unit], Container[int]]:
    """A cache counts what was filled since all was dropped: no less than it holds."""
    tags: Callable[[Unit], Any] = attrgetter(f"caches.{cache}")
    return lambda unit: range(
        sum(len(sized) for _, pages in tags(unit).tags() for sized in pages), unit.policy.cache_capacity + 1
    )


_FLAG, _MODE, _PAGE = _any_of(range(2)), _any_of(range(4)), _any_of(range(0, 1 << 64, 4096))

LATCHED_NUMBERS = (
    Latched("translation.enabled", _FLAG),
    Latched("translation.mode", _MODE),
    Latched("translation.legacy.root_table", _PAGE),
    Latched("translation.scalable.root_table", _PAGE),
    Latched("invalidation.mode", _MODE),
    Latched("interrupts.enabled", _FLAG),
    Latched("interrupts.compatibility_passes", _FLAG),
    Latched("interrupts.table", _PAGE),
    Latched("interrupts.size", _any_of([2 << size for size in range(16)])),
    Latched("interrupts.extended", _FLAG),
    Latched("page_requests.enabled", _FLAG),
    Latched("page_requests.mode", _MODE),
    Latched("faults._next", lambda unit: range(unit.capabilities.fault_records)),
    Latched("queue.enabled", _FLAG),
    Latched("queue.mode", _MODE),
    # IQA may differ from it only within one write of software.
    Latched("queue._effective_address", lambda unit: () if unit.queue is None else (unit.queue._address.value,)),
    Latched("caches.iotlb._count", _counted("iotlb")),
    Latched("caches.first_stage._count", _counted("first_stage")),
    Latched("caches.second_stage._count", _counted("second_stage")),
)


# Saving.


def save(unit: Unit) -> bytes:
    """The state of a unit, in the format of state_format.py.

    Raises MisuseError while the invalidation queue carries out a descriptor: a device that it calls cannot save.
    """
    if unit.queue is not None and unit.queue._running:
        raise MisuseError("a unit cannot be saved while its invalidation queue carries out a descriptor")
    rows: dict[Section, Rows] = {
        REGISTERS: [(slot.offset, slot.value) for slot in unit.registers],
        LATCHED: [(_latched(unit, each),) for each in LATCHED_NUMBERS],
        PROTECTED: list(unit.translation.protected.ranges),
        EVENTS: list(unit._events),
        POSTED: [_posted_row(request) for request in unit.page_requests._posted],
        COMMANDS: []
        if unit.steps is None
        else [(_WORKS.index(each.work), each.value) for each in unit.steps.commands],
        IGNORED: [] if unit.steps is None else list(unit.steps.ignored),
        OVERDUE: [] if unit.queue is None else [(source_id,) for source_id in unit.queue.overdue],
        CONTEXTS: [_context_row(*item) for item in unit.caches.contexts.items()],
        SCALABLE_CONTEXTS: [_scalable_context_row(*item) for item in unit.caches.scalable_contexts.items()],
        PASIDS: [_pasid_row(*item) for item in unit.caches.pasids.items()],
        INTERRUPTS: list(unit.caches.interrupts.items()),
        **_page_rows(unit.caches.iotlb),
        **_table_rows(unit.caches.first_stage, FIRST_TAGS, FIRST_TABLES),
        **_table_rows(unit.caches.second_stage, SECOND_TAGS, SECOND_TABLES),
    }
    if unit.ledger is not None:
        rows.update(state_ledger.rows(unit.ledger, unit.caches, unit.formats))
    packed = {section: section.pack(rows.get(section, ())) for section in SECTIONS}
    kept = {"audited": unit.ledger is not None, "stepped": unit.steps is not None}
    return build(unit.capabilities, unit.policy, packed, **kept)


def _latched(unit: Unit, number: Latched) -> int:
    if unit.queue is None and number.path.startswith("queue."):
        return 0
    return int(attrgetter(number.path)(unit))


def _posted_row(request: PageRequest) -> tuple[int, ...]:
    source_id, address, pasid, *rest = request
    return source_id, address, NO_PASID if pasid is None else pasid, *map(int, rest)


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


_PAGES = (SMALL, LARGE, HUGE)
_SHIFTS = (12, 21, 30)


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


def load(unit: Unit, reader: Reader) -> None:
    """Put a saved state into a new unit that has its capabilities and policy.

    Every number is checked: a unit that was restored from changed bytes may answer differently, but it answers.

    Raises:
        StateError: the unit cannot be in this state.
    """
    caches, scalable = unit.caches, unit.translation.scalable
    _load_registers(unit.registers, reader)
    _load_keyed(reader, CONTEXTS, caches.contexts, lambda *row: _context(unit, reader, *row))
    _load_keyed(
        reader, SCALABLE_CONTEXTS, caches.scalable_contexts, lambda *row: _scalable_context(unit, reader, *row)
    )
    _load_keyed(reader, PASIDS, caches.pasids, lambda *row: _pasid_context(unit, reader, *row))
    _load_keyed(reader, INTERRUPTS, caches.interrupts, lambda n, index, raw: (index, raw))
    _load_pages(reader, caches.iotlb, _kinds(reader, faulty=scalable.cache_faulty))
    _load_tables(reader, FIRST_TAGS, FIRST_TABLES, caches.first_stage, first_stage.RIGHTS)
    _load_tables(reader, SECOND_TAGS, SECOND_TABLES, caches.second_stage, second_stage.RIGHTS)
    _load_latched(unit, reader)
    _load_pending(unit, reader)
    _load_steps(unit, reader)
    if unit.ledger is not None:
        state_ledger.load(unit.ledger, caches, unit.formats, reader)


def _load_registers(registers: RegisterFile, reader: Reader) -> None:
    slots = list(registers)
    offsets, values = reader.columns(REGISTERS)
    if len(offsets) != len(slots):
        reader.refuse(REGISTERS, 0, "offset", len(offsets), f"the unit has {len(slots)} registers")
    for n, (slot, offset, value) in enumerate(zip(slots, offsets, values, strict=True)):
        if offset != slot.offset:
            reader.refuse(REGISTERS, n, "offset", offset, f"the register here is at {slot.offset:#x}")
        if value & ~registers.possible_bits(slot) or (registers.is_constant(slot) and value != slot.value):
            reader.refuse(REGISTERS, n, "value", value, f"not a value of {slot.layout.__name__}")
        slot.value = value


def _load_latched(unit: Unit, reader: Reader) -> None:
    (values,) = reader.columns(LATCHED)
    if len(values) != len(LATCHED_NUMBERS):
        reader.refuse(LATCHED, 0, "value", len(values), f"there are {len(LATCHED_NUMBERS)} latched numbers")
    for n, (number, value) in enumerate(zip(LATCHED_NUMBERS, values, strict=True)):
        absent = unit.queue is None and number.path.startswith("queue.")
        if value not in ((0,) if absent else number.allowed(unit)):
            reader.refuse(LATCHED, n, "value", value, f"not a value of {number.path.replace('._', '.')}")
        if not absent:
            owner, _, name = number.path.rpartition(".")
            part = attrgetter(owner)(unit)
            setattr(part, name, bool(value) if isinstance(getattr(part, name), bool) else value)
    queue = unit.queue
    # The head would never meet the tail.
    if queue is not None and (queue.head() % queue.width() or queue.head() >= queue.size()):
        offset = [slot.offset for slot in unit.registers].index(queue._head.offset)
        reader.refuse(REGISTERS, offset, "value", queue._head.value, "the head of the queue is at no descriptor")


def _load_pending(unit: Unit, reader: Reader) -> None:
    """What waits: messages, page requests, devices that have not answered; and the protected ranges."""
    for n, (first, last) in enumerate(zip(*reader.columns(PROTECTED), strict=True)):
        if first > last or unit.registers.get(PMEN) is None or n > 1:
            reader.refuse(PROTECTED, n, "first", first, "not a protected range of this unit")
        unit.translation.protected.ranges.append((first, last))
    unit._events += [Message(*each) for each in zip(*reader.columns(EVENTS), strict=True)]
    for n, row in enumerate(zip(*reader.columns(POSTED), strict=True)):
        source_id, address, pasid, *flags, group, last = row
        read, write, execute, privileged = map(bool, flags)
        request = PageRequest(
            SourceId.of(source_id), address, _pasid(pasid), read, write, execute, privileged, group, bool(last)
        )
        try:
            unit.page_requests.post(request.check())
        except MisuseError as error:
            reader.refuse(POSTED, n, "pasid", pasid, str(error))
    (overdue,) = reader.columns(OVERDUE)
    if unit.queue is not None:
        unit.queue.overdue += overdue
    elif overdue:
        reader.refuse(OVERDUE, 0, "source_id", overdue[0], "the unit has no invalidation queue")


def _load_steps(unit: Unit, reader: Reader) -> None:
    """The commands that are pending in a stepped unit, and the writes that it has ignored."""
    commands = []
    for n, (number, value) in enumerate(zip(*reader.columns(COMMANDS), strict=True)):
        command = Pending(_WORKS[number], value) if number < len(_WORKS) else None
        if command is None or unit.steps is None or not unit.steps.may_be_pending(command):
            reader.refuse(COMMANDS, n, "work", number, f"not a command that can be pending, with {value:#x}")
        commands.append(command)
    ignored = [IgnoredWrite(*each) for each in zip(*reader.columns(IGNORED), strict=True)]
    if unit.steps is not None:
        unit.steps.restore(commands)
        unit.steps.ignored += ignored
    elif ignored:
        reader.refuse(IGNORED, 0, "offset", ignored[0].offset, "the unit is not stepped")


_WORKS = list(Work)


def _pasid(number: int) -> int | None:
    return None if number == NO_PASID else number


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


def _faulty(unit: Unit, reader: Reader, section: Section, n: int, number: int, fpd: int) -> FaultyEntry:
    if not (unit.translation.scalable.cache_faulty and number in _REASONS and FaultReason(number).cached):
        reader.refuse(section, n, "fault", number, "not a fault that this unit caches")
    return FaultyEntry(FaultReason(number), fpd)


_REASONS = frozenset(map(int, FaultReason))


def _context(
    unit: Unit, reader: Reader, n: int, source_id: int, fault: int, fpd: int, kind: int, levels: int, domain_id: int,
    table: int,
) -> tuple[SourceId, CachedContext | FaultyEntry]:  # fmt: skip
    if fault:
        return SourceId.of(source_id), _faulty(unit, reader, CONTEXTS, n, fault, fpd)
    if levels not in unit.capabilities.levels:
        reader.refuse(CONTEXTS, n, "levels", levels, "not levels that the unit walks")
    if unit.formats.translation_type(ContextEntry.make(TT=kind)) is None:
        reader.refuse(CONTEXTS, n, "translation_type", kind, "the unit does not support it")
    legacy = unit.translation.legacy
    return SourceId.of(source_id), legacy.context(domain_id, TranslationType(kind), table << 12, levels, fpd)


def _scalable_context(
    unit: Unit, reader: Reader, n: int, source_id: int, fault: int, fpd: int, directory: int, pasids: int, *flags: int
) -> tuple[SourceId, ScalableContext | FaultyEntry]:
    if fault:
        return SourceId.of(source_id), _faulty(unit, reader, SCALABLE_CONTEXTS, n, fault, fpd)
    if pasids not in _DIRECTORIES:
        reader.refuse(SCALABLE_CONTEXTS, n, "pasids", pasids, "no directory covers this number of PASIDs")
    enabled, device_tlb, page_requests, rid_pasid, rid_priv = flags
    context = ScalableContext(directory << 12, pasids, enabled, device_tlb, page_requests, rid_pasid, rid_priv, fpd)
    return SourceId.of(source_id), context


_DIRECTORIES = frozenset(1 << bits for bits in range(13, 21))


def _pasid_context(
    unit: Unit, reader: Reader, n: int, source_id: int, pasid: int, fault: int, fpd: int, raw: int
) -> tuple[tuple[SourceId, int], PasidContext | FaultyEntry]:
    key = SourceId.of(source_id), pasid
    if fault:
        return key, _faulty(unit, reader, PASIDS, n, fault, fpd)
    tables = unit.translation.scalable
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


_PAGE_FAULTS = (LEGACY.reserved, SECOND_STAGE.reserved, SECOND_STAGE.not_present)


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
        yield n, domain_id, _pasid(pasid), counts


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
