"""Spec 7.1.3: the neighbour of each fault condition in legacy mode, which must not fault, or fault otherwise."""

from __future__ import annotations

from collections.abc import Callable

from iommu.structures import RootEntry, SecondStageTable
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import NARROW, WIDE, Setup
from qemu.vtd.platform import MEMORY_SIZE

TOP_BIT = 1 << 47
"""The highest address bit of a host of 48 bits."""
LAST_PAGE = MEMORY_SIZE - 0x1000
ALL_ONES = b"\xff" * 0x1000
WORKS = ("A write 0x5010 -> 0x800010", "FSTS 0")
BLOCKED = "A write 0x5010 -> blocked"


def _near(name: str, section: str, title: str, prepare: Callable[[Bench, int], None], *expect: str) -> None:
    """A's 0x5000 is mapped to P0; something is changed; A writes."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.context("A", table)
        prepare(bench, table)
        bench.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write(LAST_PAGE, bytes(0x1000))

    stimulus.__doc__ = title
    scenario(f"legacy.near.{name}", section, *expect)(stimulus)


def contexts_of(bench: Bench) -> int:
    """The context table of bus 0."""
    return RootEntry.CTP.get(bench.memory.read_u64(bench.root))


# Readable to the last page, and to the highest bit of an address.


def _root_in_last_page(bench: Bench, table: int) -> None:
    bench.memory.write(LAST_PAGE, bench.memory.read(bench.root, 0x1000))
    bench.root = LAST_PAGE


def _contexts_in_last_page(bench: Bench, table: int) -> None:
    bench.memory.write(LAST_PAGE, bench.memory.read(contexts_of(bench), 0x1000))
    bench.write_root(0, RootEntry.make(P=1, CTP=LAST_PAGE))


def _table_in_last_page(bench: Bench, table: int) -> None:
    where = bench.entry(table, 0x5000, 2)
    pages = SecondStageTable.ADDR.get(bench.memory.read_u64(where))
    bench.memory.write(LAST_PAGE, bench.memory.read(pages, 0x1000))
    bench.memory.write_u64(where, SecondStageTable.make(R=1, W=1, ADDR=LAST_PAGE))


_near(
    "root-table-readable",
    "7.1.3 LRT.1",
    "A root table in the last page of memory is readable.",
    _root_in_last_page,
    *WORKS,
)
_near(
    "context-table-readable",
    "7.1.3 LCT.1",
    "A context table in the last page of memory is readable.",
    _contexts_in_last_page,
    *WORKS,
)
_near(
    "table-readable",
    "7.1.3 LSL.1",
    "A second-stage table in the last page of memory is readable.",
    _table_in_last_page,
    *WORKS,
)


def _context_pointer_top_bit(bench: Bench, table: int) -> None:
    bench.write_root(0, RootEntry.make(P=1, CTP=contexts_of(bench) | TOP_BIT))


def _top_bit_at(level: int) -> Callable[[Bench, int], None]:
    return lambda bench, table: bench.change(bench.entry(table, 0x5000, level), set_=TOP_BIT)


def _table_pointer_top_bit(bench: Bench, table: int) -> None:
    bench.context("A", table, also=TOP_BIT)


_near(
    "context-pointer-top-bit",
    "7.1.3 LRT.3",
    "The highest host address bit of a context-table pointer is not reserved: the table is unreadable.",
    _context_pointer_top_bit,
    BLOCKED,
    "fault 0x09 A 0x5000 write",
    "FSTS PPF",
)
_near(
    "table-pointer-top-bit",
    "7.1.3 LCT.3",
    "The highest host address bit of a table pointer is not reserved: the table is unreadable.",
    _table_pointer_top_bit,
    BLOCKED,
    "fault 0x03 A 0x5000 write",
    "FSTS PPF",
)
for _level in (4, 3, 2):
    _near(
        f"table-address-top-bit-{_level}",
        "7.1.3 LSL.2",
        f"The highest host address bit in a table entry of level {_level} is not reserved: the table is unreadable.",
        _top_bit_at(_level),
        BLOCKED,
        "fault 0x07 A 0x5000 write",
        "FSTS PPF",
    )
_near(
    "page-address-top-bit",
    "7.1.3 LSL.2",
    "The highest host address bit in a page entry is not reserved: there is just no memory.",
    lambda bench, table: bench.change(bench.entry(table, 0x5000, 1), set_=TOP_BIT),
    BLOCKED,
    "FSTS 0",
)


# Only the entry that the request selects counts.


def _other_roots(bench: Bench, table: int) -> None:
    bench.memory.write(bench.root + 16, ALL_ONES[16:])


def _other_contexts(bench: Bench, table: int) -> None:
    contexts = contexts_of(bench)
    own = bench.memory.read(contexts + 16 * 0x20, 16)
    bench.memory.write(contexts, ALL_ONES)
    bench.memory.write(contexts + 16 * 0x20, own)


def _others_at(level: int) -> Callable[[Bench, int], None]:
    def prepare(bench: Bench, table: int) -> None:
        where = bench.entry(table, 0x5000, level)
        own = bench.memory.read(where, 8)
        bench.memory.write(where & -0x1000, ALL_ONES)
        bench.memory.write(where, own)

    return prepare


_near("other-roots", "9.1", "The root entries of the other buses are all ones.", _other_roots, *WORKS)
_near("other-contexts", "9.3", "The context entries of the other devices are all ones.", _other_contexts, *WORKS)
for _level in (4, 3, 2, 1):
    _near(
        f"other-entries-level-{_level}",
        "9.8",
        f"The other entries of the table of level {_level} are all ones.",
        _others_at(_level),
        *WORKS,
    )


# The interrupt address range, and the addresses beside it.


def _output(name: str, title: str, page: int, size: int, offset: int, faults: bool) -> None:
    base = 1 << 30 | (0x5000 if size == 1 else 0)
    address = base + offset

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, base, page, size=size)
        bench.context("A", table)
        bench.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = title
    fault = (f"fault 0x0e A {address & ~0xFFF:#x} write", "FSTS PPF") if faults else ("FSTS 0",)
    scenario(f"legacy.interrupt-range.{name}", "7.1.3 LGN.4", f"A write {address:#x} -> blocked", *fault)(stimulus)


_output("first-page", "A page at the start of the interrupt range.", 0xFEE0_0000, 1, 0x10, True)
_output("last-page", "A page at the end of the interrupt range.", 0xFEEF_F000, 1, 0xFF0, True)
_output(
    "page-below",
    "A page right below the interrupt range does not fault; there is no memory.",
    0xFEDF_F000,
    1,
    0xFF0,
    False,
)
_output(
    "page-above",
    "A page right above the interrupt range does not fault; there is no memory.",
    0xFEF0_0000,
    1,
    0x10,
    False,
)
_output(
    "2m-below",
    "A 2 MiB page that ends where the interrupt range begins does not fault.",
    0xFEC0_0000,
    2,
    0x1F_F010,
    False,
)
_output("2m-above", "A 2 MiB page beyond the interrupt range does not fault.", 0xFF00_0000, 2, 0x10, False)
_output("2m-within", "An address in the interrupt range through a 2 MiB page faults.", 0xFEE0_0000, 2, 0xF_F010, True)
_output(
    "1g-within", "An address in the interrupt range through a 1 GiB page faults.", 0xC000_0000, 3, 0x3EE0_1010, True
)


def _input(name: str, title: str, address: int) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, address & ~0xFFF, P0)
        bench.context("A", table)
        bench.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = title
    expect = f"A write {address:#x} -> {P0 | address & 0xFFF:#x}"
    scenario(f"legacy.interrupt-range.{name}", "3.14", expect, "FSTS 0")(stimulus)


_input("input-below", "A request right below the interrupt range is translated like any other.", 0xFEDF_FFF0)
_input("input-above", "A request right above the interrupt range is translated like any other.", 0xFEF0_0010)


# Address widths.


def _width(name: str, title: str, levels: int, address: int, setup: Setup = WIDE) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, address & ~0xFFF, P0, levels=levels)
        bench.context("A", table, levels=levels)
        bench.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = title
    expect = f"A write {address:#x} -> {P0 | address & 0xFFF:#x}"
    scenario(f"legacy.near.{name}", "7.1.3 LGN.1", expect, "FSTS 0", setup=setup)(stimulus)


_width("last-of-39-bits", "The last address of 3 levels.", 3, (1 << 39) - 0x10)
_width("bit-39-of-4-levels", "Address bit 39 selects an entry of level 4.", 4, 1 << 39 | 0x10)
_width("last-of-39-bits-narrow", "The last address of 3 levels, on a 39-bit unit.", 3, (1 << 39) - 0x10, NARROW)


# Every index of a table.


@scenario("legacy.pages.first-and-last-entry", "3.7", "reached -> 32 of 32", "FSTS 0")
def first_and_last_entry(bench: Bench) -> None:
    """Entries from the first to the last of tables of levels 1 and 2 lead to their own pages."""
    table = bench.new_table()
    bench.context("A", table)
    wanted = {}
    for n, (upper, lower) in enumerate(
        (high, low) for high in (0, 1, 0x1FE, 0x1FF) for low in (0, 1, 2, 3, 0x100, 0x1FD, 0x1FE, 0x1FF)
    ):
        address = upper << 21 | lower << 12
        page = P0 + 0x1000 * (n % 8)
        bench.map(table, address, page)
        wanted[address + 0x10] = page + 0x10
    bench.turn_on()
    reached = sum(bench.lands("A", address) == host for address, host in wanted.items())
    bench.note(f"reached -> {reached} of {len(wanted)}")
