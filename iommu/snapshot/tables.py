"""The tables of units: which bytes of memory they are.

Entries are followed whether or not the unit accepts them: a snapshot of tables is for finding out what is wrong with
them. Bits that are reserved are looked at by others (iommu.testing).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from iommu.errors import FormatError, MemoryAccessError
from iommu.memory import Memory
from iommu.registers import GSTS, IQA, IRTA, PQA, RTADDR, TableMode
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PAGE, PiecewiseMemory, ranges_of
from iommu.snapshot.unit import NOT_SHOWN, UnitSnapshot
from iommu.structures import (
    ContextEntry,
    FirstStageTable,
    InterruptEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    PostedInterruptDescriptor,
    PostedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    TranslationType,
)

_PAGE_SIZE = 1 << 7
_PRESENT_FIRST, _PRESENT_SECOND = 0b1, 0b111
_NEXT = FirstStageTable.ADDR.mask
_MOST_LEVELS = 5
# A page of a machine is a table of one level. Only where first-stage tables are under many second stages, and these
# lead to the same pages, is it read in one way for each: the guests of a hostile host could have it read without end.
_MOST_WAYS = 16


def queues_of(unit: UnitSnapshot) -> Iterator[tuple[str, range]]:
    """The invalidation queue and the page request queue, by these names, if their addresses are set."""
    if queue := unit.register(IQA.offset, 8):
        # The size counts descriptors of 128 bits, or of 256.
        start = IQA.IQA.get(queue)
        yield "the invalidation queue", range(start, start + (PAGE << IQA.QS.get(queue) + IQA.DW.get(queue)))
    if queue := unit.register(PQA.offset, 8):
        start = PQA.PQA.get(queue)
        yield "the page request queue", range(start, start + (PAGE << PQA.PQS.get(queue)))


class _Second(NamedTuple):
    """The second stage that first-stage tables are under: it says where a guest address is in memory."""

    memory: Memory
    root: int
    levels: int

    def __call__(self, address: int) -> int | None:
        """Where it is; None if nowhere."""
        table = self.root
        if address >> 12 + 9 * self.levels:
            return None
        for level in range(self.levels, 0, -1):
            shift = 3 + 9 * level
            try:
                entry = self.memory.read_u64(table + (address >> shift & 511) * 8)
            except MemoryAccessError:
                return None
            if not entry & _PRESENT_SECOND:
                return None
            table = entry & _NEXT
            if level == 1 or (level < 4 and entry & _PAGE_SIZE):
                return table & -(1 << shift) | address & (1 << shift) - 1
        return None


def tables_only(contents: Contents) -> Contents:
    """The same snapshot with the tables and queues of its units, and no other memory.

    These are the root, context, PASID and paging tables, the interrupt-remapping table with the descriptors that it
    posts to, the invalidation queue and the page request queue, byte for byte; what else is in their pages is left
    out. Raises FormatError for tables that lead to each other in so many ways that this would not end.
    """
    kept: dict[int, int] = {}
    for unit in contents.units:
        for start, size in _Tables(unit).pieces():
            kept[start] = max(size, kept.get(start, 0))
    pieces: list[tuple[int, bytearray]] = []
    for start, stop in _united(kept):
        for at, data in _readable(contents.memory, start, stop):
            if pieces and pieces[-1][0] + len(pieces[-1][1]) == at:
                pieces[-1][1].extend(data)
            else:
                pieces.append((at, bytearray(data)))
    memory = PiecewiseMemory(pieces)
    units = tuple(_over(unit, memory) for unit in contents.units)
    return contents._replace(memory=memory, units=units, unknown=contents.unknown or NOT_SHOWN, tables_only=True)


def _over(unit: UnitSnapshot, memory: Memory) -> UnitSnapshot:
    """The unit over other memory, without its saved state, which holds copies of what may be elsewhere."""
    return UnitSnapshot(unit.name, unit.registers, memory, unit.host_address_width, unit.register_base)


def _united(kept: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Ranges that neither overlap nor touch, of pieces that may."""
    start = end = -1
    for address in sorted(kept):
        if address > end:
            if end > start:
                yield start, end
            start, end = address, address
        end = max(end, address + kept[address])
    if end > start:
        yield start, end


def _readable(memory: Memory, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """What there is of a range, page by page."""
    while start < stop:
        end = min((start & -PAGE) + PAGE, stop)
        with suppress(MemoryAccessError):
            yield start, memory.read(start, end - start)
        start = end


class _Tables:
    """The tables that the registers of one unit lead to. Each is followed once for each way of reading it."""

    def __init__(self, unit: UnitSnapshot) -> None:
        self._unit, self._memory = unit, unit.memory
        self._seen: set[tuple[object, ...]] = set()
        self._places: dict[tuple[_Second, int], int | None] = {}
        pages = sum(each.stop - each.start for each in ranges_of(unit.memory)) // PAGE
        self._most = _MOST_WAYS * pages + _MOST_WAYS

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Address and size in bytes of each table and queue."""
        status = GSTS(self._unit.register(GSTS.offset, 4))
        root = RTADDR(self._unit.register(RTADDR.offset, 8))
        if status.RTPS or status.TES:
            scalable = root.TTM == TableMode.SCALABLE
            yield from self._scalable(root.RTA) if scalable else self._legacy(root.RTA)
        if status.IRTPS or status.IRES:
            table = IRTA(self._unit.register(IRTA.offset, 8))
            yield from self._interrupts(table.IRTA, 2 << table.S)
        yield from ((where.start, len(where)) for _, where in queues_of(self._unit))

    def _entries(self, address: int, count: int, size: int) -> Iterator[int]:
        """The entries of a table that are not 0, as far as there is memory."""
        for _, data in _readable(self._memory, address, address + count * size):
            if size == 8:
                yield from filter(None, struct.unpack(f"<{len(data) // 8}Q", data))
                continue
            for at in range(0, len(data), size):
                if entry := int.from_bytes(data[at : at + size], "little"):
                    yield entry

    # Legacy mode (9.1, 9.3).

    def _legacy(self, root: int) -> Iterator[tuple[int, int]]:
        yield root, PAGE
        for entry in self._entries(root, 256, 16):
            if RootEntry.P.get(entry):
                yield from self._contexts(RootEntry.CTP.get(entry))

    def _contexts(self, table: int) -> Iterator[tuple[int, int]]:
        if not self._is_new("contexts", table):
            return
        yield table, PAGE
        for raw in self._entries(table, 256, 16):
            entry = ContextEntry(raw)
            if entry.P and entry.TT != TranslationType.PASS_THROUGH:
                yield from self._paging(entry.SSPTPTR, entry.AW + 2, _PRESENT_SECOND, None)

    # Scalable mode (9.2, 9.4 to 9.6).

    def _scalable(self, root: int) -> Iterator[tuple[int, int]]:
        yield root, PAGE
        for half in self._entries(root, 512, 8):
            if ScalableRootHalf.P.get(half):
                yield from self._scalable_contexts(ScalableRootHalf.CTP.get(half))

    def _scalable_contexts(self, table: int) -> Iterator[tuple[int, int]]:
        if not self._is_new("scalable contexts", table):
            return
        yield table, PAGE
        for raw in self._entries(table, 128, 32):
            entry = ScalableContextEntry(raw)
            if entry.P and self._is_new("directory", entry.PASIDDIRPTR, entry.PDTS):
                count = 1 << entry.PDTS + 7
                yield entry.PASIDDIRPTR, 8 * count
                for directory in self._entries(entry.PASIDDIRPTR, count, 8):
                    if PasidDirectoryEntry.P.get(directory):
                        yield from self._pasids(PasidDirectoryEntry.SMPTBLPTR.get(directory))

    def _pasids(self, table: int) -> Iterator[tuple[int, int]]:
        if not self._is_new("pasids", table):
            return
        yield table, PAGE
        for raw in self._entries(table, 64, 64):
            entry = PasidEntry(raw)
            if not entry.P:
                continue
            place: _Second | None = None
            if entry.PGTT in (PasidTranslationType.SECOND_STAGE, PasidTranslationType.NESTED):
                yield from self._paging(entry.SSPTPTR, entry.AW + 2, _PRESENT_SECOND, None)
            if entry.PGTT == PasidTranslationType.NESTED:
                place = _Second(self._memory, entry.SSPTPTR, entry.AW + 2)
            if entry.PGTT in (PasidTranslationType.FIRST_STAGE, PasidTranslationType.NESTED):
                yield from self._paging(entry.FSPTPTR, entry.FSPM + 4, _PRESENT_FIRST, place)

    # Interrupts (9.9 to 9.11).

    def _interrupts(self, table: int, count: int) -> Iterator[tuple[int, int]]:
        yield table, 16 * count
        for raw in self._entries(table, count, 16):
            entry = PostedInterruptEntry(raw)
            if InterruptEntry.P.get(raw) and InterruptEntry.IM.get(raw):
                yield entry.PDAH << 32 | entry.PDAL << 6, PostedInterruptDescriptor.bits // 8

    # Paging tables (9.7, 9.8).

    def _paging(self, table: int, level: int, present: int, place: _Second | None) -> Iterator[tuple[int, int]]:
        """A paging table of a level, and all below it; `place` for tables at guest addresses."""
        where = table if place is None else self._in(place, table)
        if level > _MOST_LEVELS or where is None or not self._is_new("paging", where, level, present, place):
            return
        yield where, PAGE
        if level < 2:
            return
        for entry in self._entries(where, 512, 8):
            is_page = level < 4 and entry & _PAGE_SIZE
            if entry & present and not is_page:
                yield from self._paging(entry & _NEXT, level - 1, present, place)

    def _in(self, place: _Second, address: int) -> int | None:
        """Where a guest address is in memory; None if nowhere."""
        known = place, address
        if known not in self._places:
            self._places[known] = place(address)
        return self._places[known]

    def _is_new(self, *what: object) -> bool:
        if what in self._seen:
            return False
        self._seen.add(what)
        if len(self._seen) > self._most:
            message = f"its pages are tables in more than {_MOST_WAYS} ways each: its tables cannot be kept alone"
            raise FormatError(message, offset=0, where=self._unit.name, field="memory")
        return True
