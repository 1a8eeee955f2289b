"""Spec 9.1, 9.3, 9.8: the reserved and the ignored bits of legacy mode's tables, each set alone in a valid entry.

The tables are written from the descriptions of the entries, not taken from `iommu.structures`. They are for a unit
without device-TLBs and, unless the setup says otherwise, without snoop control.
"""

from __future__ import annotations

from collections.abc import Callable

from iommu.structures import ContextEntry
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import NARROW, SNOOPING, WIDE, Setup

# The index into the table of level 4 is 0, of level 3 is 3, of level 2 is 4, of level 1 is 1.
ADDRESS = 0xC080_1010

Put = Callable[[int], None]
"""Writes the entry with some bits added."""
Part = tuple[str, int, int]
"""Neighbouring bits: a name, the highest and the lowest."""

ROOT: tuple[Part, ...] = (("low", 11, 1), ("beyond-host-width", 63, 48), ("upper-half", 127, 64))
CONTEXT: tuple[Part, ...] = (("low", 11, 4), ("beyond-host-width", 63, 48), ("bit-71", 71, 71), ("top", 127, 88))
CONTEXT_IGNORED: tuple[Part, ...] = (("available", 70, 67),)

SNP: Part = "snoop", 11, 11
TM: Part = "transient", 62, 62
BEYOND: Part = "beyond-host-width", 51, 48
BEYOND_39: Part = "beyond-39-bits", 51, 39
TABLE: dict[int, tuple[Part, ...]] = {
    4: (SNP, TM, BEYOND, ("page-size", 7, 7)),
    3: (SNP, TM, BEYOND),
    2: (SNP, TM, BEYOND),
}
PAGE: dict[int, tuple[Part, ...]] = {
    3: (SNP, TM, BEYOND, ("low-address", 29, 12)),
    2: (SNP, TM, BEYOND, ("low-address", 20, 12)),
    1: (SNP, TM, BEYOND),
}
IGNORED: tuple[Part, ...] = (("high", 63, 63), ("software", 61, 52), ("accessed-dirty", 10, 8), ("type", 6, 2))
PAGE_SIZE_IGNORED: Part = "page-size", 7, 7
"""Bit 7 of an entry that maps 4 KiB."""

HOST = {1: "0x800010", 2: "0x801010", 3: "0x801010"}
"""Where ADDRESS leads, by the level of the page."""


def outcome(bench: Bench) -> str:
    """A writes to ADDRESS with nothing cached: where to, or the fault, which is cleared."""
    bench.driver.invalidate_everything()
    host = bench.lands("A", ADDRESS)
    reasons = [f"fault {fault.reason:#04x}" for fault in bench.driver.faults()]
    bench.driver.clear_faults()
    return " ".join(reasons) or ("blocked" if host is None else f"{host:#x}")


def try_each(bench: Bench, bits: int, put: Put) -> None:
    """A writes with none of `bits` in the entry, then with each of them alone; logs which led to which outcome."""
    put(0)
    bench.note(f"no bit -> {outcome(bench)}")
    seen: dict[str, int] = {}
    for bit in (1 << n for n in range(bits.bit_length()) if bits >> n & 1):
        put(bit)
        result = outcome(bench)
        seen[result] = seen.get(result, 0) | bit
    for result, which in seen.items():
        bench.note(f"bits {which:#x} -> {result}")


def try_in_page(bench: Bench, bit: int, page: int, level: int) -> None:
    """As `try_each`, of one bit of a page entry of a level, in a legacy-mode second stage that maps ADDRESS."""
    table = bench.new_table()
    where = bench.map(table, ADDRESS, page, size=level)
    bench.context("A", table)
    bench.turn_on()
    entry = bench.memory.read_u64(where)
    try_each(bench, bit, lambda bits: bench.memory.write_u64(where, entry | bits))


def _each_bit(
    id_: str,
    section: str,
    title: str,
    part: Part,
    prepare: Callable[[Bench], Put],
    host: str,
    result: str,
    setup: Setup,
) -> None:
    _, high, low = part
    bits = (1 << high + 1) - (1 << low)

    def stimulus(bench: Bench) -> None:
        put = prepare(bench)
        bench.turn_on()
        try_each(bench, bits, put)

    which = f"bit {high}" if high == low else f"bits {high}:{low}, each alone"
    stimulus.__doc__ = f"{title}: {which}."
    scenario(id_, section, f"no bit -> {host}", f"bits {bits:#x} -> {result}", "FSTS 0", setup=setup)(stimulus)


def _root(bench: Bench) -> Put:
    table = bench.new_table()
    bench.map(table, ADDRESS, P0)
    bench.context("A", table)
    entry = int.from_bytes(bench.memory.read(bench.root, 16), "little")
    return lambda bits: bench.write_root(0, entry | bits)


def _context(bench: Bench) -> Put:
    table = bench.new_table()
    bench.map(table, ADDRESS, P0)
    entry = ContextEntry.make(P=1, AW=2, DID=1, SSPTPTR=table)
    return lambda bits: bench.write_context("A", entry | bits)


def _second_stage(level: int, size: int, levels: int = 4) -> Callable[[Bench], Put]:
    """The entry of one level, on the way to a page of one size."""

    def prepare(bench: Bench) -> Put:
        table = bench.new_table()
        bench.context("A", table, levels=levels)
        bench.map(table, ADDRESS, {1: P0, 2: 0x80_0000, 3: 0}[size], size=size, levels=levels)
        where = bench.entry(table, ADDRESS, level, levels=levels)
        entry = bench.memory.read_u64(where)
        return lambda bits: bench.memory.write_u64(where, entry | bits)

    return prepare


for _part in ROOT:
    _each_bit(
        f"reserved.root.{_part[0]}",
        "7.1.3 LRT.3",
        "Reserved bits of a root entry",
        _part,
        _root,
        HOST[1],
        "fault 0x0a",
        WIDE,
    )
for _part in CONTEXT:
    _each_bit(
        f"reserved.context.{_part[0]}",
        "7.1.3 LCT.3",
        "Reserved bits of a context entry",
        _part,
        _context,
        HOST[1],
        "fault 0x0b",
        WIDE,
    )
for _part in CONTEXT_IGNORED:
    _each_bit(
        f"reserved.context.{_part[0]}",
        "9.3",
        "Ignored bits of a context entry",
        _part,
        _context,
        HOST[1],
        HOST[1],
        WIDE,
    )


def _paging(level: int, size: int, part: Part, result: str, setup: Setup = WIDE) -> None:
    kind, levels = ("page" if level == size else "table"), 3 if setup is NARROW else 4
    what = (
        f"an entry of level {level} that maps a page"
        if level == size
        else f"an entry of level {level} that points to a table"
    )
    rule = "Reserved" if result.startswith("fault") else "Ignored" if setup is not SNOOPING else "Offered"
    section = "7.1.3 LSL.2" if result.startswith("fault") else "9.8"
    title = f"{rule} bits of {what}{'' if setup is WIDE else f', on a {setup.name} unit'}"
    id_ = f"reserved.{kind}-{level}.{part[0]}{'-with-control' if setup is SNOOPING else ''}"
    _each_bit(id_, section, title, part, _second_stage(level, size, levels), HOST[size], result, setup)


for _level, _parts in TABLE.items():
    for _part in _parts:
        _paging(_level, 1, _part, "fault 0x0c")
    for _part in IGNORED:
        _paging(_level, 1, _part, HOST[1])
for _level, _parts in PAGE.items():
    for _part in _parts:
        _paging(_level, _level, _part, "fault 0x0c")
    for _part in (*IGNORED, *((PAGE_SIZE_IGNORED,) if _level == 1 else ())):
        _paging(_level, _level, _part, HOST[_level])

# A host of 39 bits, with tables of 3 levels.
for _level in (3, 2):
    _paging(_level, 1, BEYOND_39, "fault 0x0c", NARROW)
for _level in (3, 2, 1):
    _paging(_level, _level, BEYOND_39, "fault 0x0c", NARROW)

# With snoop control, SNP is reserved only where an entry points to a table.
for _level in (4, 3, 2):
    _paging(_level, 1, SNP, "fault 0x0c", SNOOPING)
for _level in (3, 2, 1):
    _paging(_level, _level, SNP, HOST[_level], SNOOPING)
