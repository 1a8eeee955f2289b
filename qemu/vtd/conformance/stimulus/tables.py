"""Which structure each part of memory is, followed from the registers that point to tables (spec 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from iommu import SourceId
from iommu.fields import Layout
from iommu.registers import IQA, IRTA, RTADDR, TableMode
from iommu.structures import (
    DESCRIPTORS,
    FIRST_STAGE_PAGES,
    SECOND_STAGE_PAGES,
    ContextEntry,
    Descriptor,
    FirstStageTable,
    InterruptEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    PostedInterruptDescriptor,
    PostedInterruptEntry,
    RemappedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStage2MPage,
    SecondStageTable,
    TranslationType,
)
from qemu.vtd.conformance.stimulus.events import Event, MemoryWritten, RegisterWritten

PAGE = 0x1000


@dataclass(frozen=True)
class Table:
    """One table in memory.

    Attributes:
        name: what its entries are called.
        start, length: its place, in bytes.
        size: of an entry, in bytes.
        layout: the declaration to read an entry with.
        place: what an entry is for: "bus 0", "00:04.0", "0x5000".
        points: the tables that an entry points to.
    """

    name: str
    start: int
    length: int
    size: int
    layout: Callable[[int], type[Layout]]
    place: Callable[[int], str]
    points: Callable[[int, int], Iterable[Table]] = field(default=lambda index, raw: ())

    def touched(self, event: MemoryWritten) -> Iterator[tuple[int, int, int]]:
        """The entries that an event changed: index, value before, value after."""
        first = max(event.address, self.start) - self.start
        last = min(event.address + event.length, self.start + self.length) - self.start
        for index in range(first // self.size, -(-last // self.size)):
            at = self.start + index * self.size - event.start
            before, after = (
                int.from_bytes(data[at : at + self.size], "little") for data in (event.before, event.after)
            )
            if before != after:
                yield index, before, after


def tables_of(events: Iterable[Event]) -> list[Table]:
    """Every table that software has built, by what was ever written to the registers and to memory."""
    events = list(events)
    written = [event for event in events if isinstance(event, MemoryWritten)]
    found: dict[int, Table] = {table.start: table for table in _from_registers(events)}
    waiting = list(found.values())
    while waiting:
        table = waiting.pop()
        for event in written:
            for index, _, after in table.touched(event):
                for pointed in table.points(index, after):
                    if pointed.start not in found:
                        found[pointed.start] = pointed
                        waiting.append(pointed)
    return list(found.values())


def _from_registers(events: list[Event]) -> Iterator[Table]:
    values = {RTADDR.offset: 0, IRTA.offset: 0, IQA.offset: 0}
    for event in events:
        if isinstance(event, RegisterWritten) and (at := event.offset & ~7) in values:
            shift, mask = 8 * (event.offset & 7), (1 << 8 * event.size) - 1
            values[at] = values[at] & ~(mask << shift) | event.value << shift
            yield from _pointed_by(at, values[at])


def _pointed_by(register: int, value: int) -> Iterator[Table]:
    if register == IRTA.offset:
        yield interrupt_table(IRTA.IRTA.get(value), 2 << IRTA.S.get(value))
    elif register == IQA.offset:
        yield queue(IQA.IQA.get(value), PAGE << IQA.QS.get(value), wide=bool(IQA.DW.get(value)))
    elif RTADDR.TTM.get(value) == TableMode.SCALABLE:
        yield scalable_root_table(RTADDR.RTA.get(value))
    else:
        yield root_table(RTADDR.RTA.get(value))


# Legacy mode.


def root_table(start: int) -> Table:
    """9.1: an entry for each bus."""

    def points(bus: int, raw: int) -> Iterator[Table]:
        if RootEntry.P.get(raw):
            yield context_table(RootEntry.CTP.get(raw), bus)

    return Table("root entry", start, PAGE, 16, lambda _: RootEntry, lambda bus: f"bus {bus:#04x}", points)


def context_table(start: int, bus: int) -> Table:
    """9.3: an entry for each device and function."""

    def points(_: int, raw: int) -> Iterator[Table]:
        if ContextEntry.P.get(raw) and ContextEntry.TT.get(raw) != TranslationType.PASS_THROUGH:
            yield second_stage(ContextEntry.SSPTPTR.get(raw), ContextEntry.AW.get(raw) + 2)

    return Table(
        "context entry",
        start,
        PAGE,
        16,
        lambda _: ContextEntry,
        lambda devfn: str(SourceId.of(bus << 8 | devfn)),
        points,
    )


# Scalable mode.


def scalable_root_table(start: int) -> Table:
    """9.2: two halves for each bus."""

    def points(half: int, raw: int) -> Iterator[Table]:
        if ScalableRootHalf.P.get(raw):
            yield scalable_context_table(ScalableRootHalf.CTP.get(raw), half)

    def place(half: int) -> str:
        return f"bus {half >> 1:#04x}, {'upper' if half & 1 else 'lower'} half"

    return Table("root entry", start, PAGE, 8, lambda _: ScalableRootHalf, place, points)


def scalable_context_table(start: int, half: int) -> Table:
    """9.4: an entry for each device and function of half a bus."""

    def points(_: int, raw: int) -> Iterator[Table]:
        if ScalableContextEntry.P.get(raw):
            yield pasid_directory(
                ScalableContextEntry.PASIDDIRPTR.get(raw), 0x80 << ScalableContextEntry.PDTS.get(raw)
            )

    def place(index: int) -> str:
        return str(SourceId.of(half << 7 | index))

    return Table("context entry", start, PAGE, 32, lambda _: ScalableContextEntry, place, points)


def pasid_directory(start: int, entries: int) -> Table:
    """9.5: an entry for 64 PASIDs."""

    def points(index: int, raw: int) -> Iterator[Table]:
        if PasidDirectoryEntry.P.get(raw):
            yield pasid_table(PasidDirectoryEntry.SMPTBLPTR.get(raw), index * 64)

    def place(index: int) -> str:
        return f"PASIDs from {index * 64:#x}"

    return Table("PASID directory entry", start, 8 * entries, 8, lambda _: PasidDirectoryEntry, place, points)


def pasid_table(start: int, first: int) -> Table:
    """9.6: an entry for each PASID. A first stage below a second has guest addresses: it is not followed."""

    def points(_: int, raw: int) -> Iterator[Table]:
        entry = PasidEntry(raw)
        if entry.P and entry.PGTT in (PasidTranslationType.SECOND_STAGE, PasidTranslationType.NESTED):
            yield second_stage(entry.SSPTPTR, entry.AW + 2)
        if entry.P and entry.PGTT == PasidTranslationType.FIRST_STAGE:
            yield first_stage(entry.FSPTPTR, 5 if entry.FSPM else 4)

    return Table(
        "PASID-table entry", start, PAGE, 64, lambda _: PasidEntry, lambda index: f"PASID {first + index:#x}", points
    )


# Paging: the levels of both stages.

_PAGE_SIZE = SecondStage2MPage.PS.mask


def second_stage(start: int, level: int, address: int = 0) -> Table:
    """9.8: a table of one level, whose first entry is for `address`."""
    present = SecondStageTable.bits_of("R", "W")
    return _paging("second-stage", SECOND_STAGE_PAGES, SecondStageTable, present, second_stage, start, level, address)


def first_stage(start: int, level: int, address: int = 0) -> Table:
    """9.7: a table of one level, whose first entry is for `address`."""
    present = FirstStageTable.P.mask
    return _paging("first-stage", FIRST_STAGE_PAGES, FirstStageTable, present, first_stage, start, level, address)


def _paging(
    stage: str,
    pages: dict[int, type[Layout]],
    table: type[Layout],
    present: int,
    next_table: Callable[[int, int, int], Table],
    start: int,
    level: int,
    address: int,
) -> Table:
    step = PAGE << 9 * (level - 1)

    def layout(raw: int) -> type[Layout]:
        return pages[level] if level == 1 or (level in pages and raw & _PAGE_SIZE) else table

    def points(index: int, raw: int) -> Iterator[Table]:
        if raw & present and layout(raw) is table and level > 1:
            yield next_table(table.fields["ADDR"].get(raw), level - 1, address + index * step)

    def place(index: int) -> str:
        return f"{address + index * step:#x}"

    return Table(f"{stage} entry, level {level}", start, PAGE, 8, layout, place, points)


# Interrupts and the queue.


def interrupt_table(start: int, entries: int) -> Table:
    """9.9, 9.10: an entry for each interrupt index."""

    def layout(raw: int) -> type[Layout]:
        return PostedInterruptEntry if InterruptEntry.IM.get(raw) else RemappedInterruptEntry

    def points(_: int, raw: int) -> Iterator[Table]:
        if InterruptEntry.P.get(raw) and InterruptEntry.IM.get(raw):
            entry = PostedInterruptEntry(raw)
            yield posted_descriptor(entry.PDAH << 32 | entry.PDAL << 6)

    return Table(
        "interrupt-remapping entry", start, 16 * entries, 16, layout, lambda index: f"index {index:#x}", points
    )


def posted_descriptor(start: int) -> Table:
    """9.11."""
    return Table("posted-interrupt descriptor", start, 64, 64, lambda _: PostedInterruptDescriptor, lambda _: "")


def queue(start: int, length: int, *, wide: bool) -> Table:
    """6.5.2: the invalidation queue; its places are numbered by their offset."""
    size = 32 if wide else 16

    def layout(raw: int) -> type[Layout]:
        return DESCRIPTORS.get(Descriptor.TYPE.get(raw), Descriptor)

    def place(index: int) -> str:
        return f"at offset {index * size:#x}"

    return Table("descriptor", start, length, size, layout, place)
