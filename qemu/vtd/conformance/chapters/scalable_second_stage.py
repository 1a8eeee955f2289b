"""Spec 3.7, 9.8: second-stage translation in scalable mode. Its faults have codes of their own (7.1.3 SSS, SGN)."""

from collections.abc import Callable

from iommu import Policy
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench
from qemu.vtd.conformance.scalable_bench import SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import (
    SECOND_STAGE,
    SECOND_STAGE_39,
    SECOND_STAGE_SNOOPING,
    Setup,
)

R, W = 1 << 0, 1 << 1
PS, A, D, SNP, TM = 1 << 7, 1 << 8, 1 << 9, 1 << 11, 1 << 62
ALL_ONES = (1 << 64) - 1

# 0x200c0401000: the index into the table of level N is N.
ADDRESS = 4 << 39 | 3 << 30 | 2 << 21 | 1 << 12

# Where ADDRESS + 0x10 is, mapped by a page of level 1, 2 or 3 to P0, 0x800000 or 0.
OFFSETS = {1: "0x800010", 2: "0x801010", 3: "0x401010"}

READ_BLOCKED = "A read 0x200c0401010 -> blocked"
WRITE_BLOCKED = "A write 0x200c0401010 -> blocked"
READ_P0 = "A read 0x200c0401010 -> 0x800010"
WRITE_P0 = "A write 0x200c0401010 -> 0x800010"


def fault(code: int, kind: str = "write", address: str = "0x200c0401000") -> tuple[str, str]:
    """The lines for a single fault of A: the record and FSTS."""
    return f"fault {code:#04x} A {address} {kind}", "FSTS PPF"


def start(bench: Bench, *, size: int = 1, page: int = P0, r: int = 1, w: int = 1, also: int = 0) -> int:
    """Map ADDRESS to a page for A through 4 levels, and turn scalable mode on; returns the top table."""
    table = bench.new_table()
    bench.scalable.entry("A", SECOND, table, also=also)
    bench.map(table, ADDRESS, page, size=size, r=r, w=w)
    bench.scalable.turn_on()
    return table


# Page sizes and levels.


@scenario(
    "scalable.second.4k-4-levels",
    "3.7",
    "A read 0x200c0401abc -> 0x800abc",
    "A write 0x200c0401abc -> 0x800abc",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def page_4k(bench: Bench) -> None:
    """A 4 KiB page through 4 levels."""
    start(bench)
    bench.read("A", ADDRESS + 0xABC)
    bench.write("A", ADDRESS + 0xABC)


@scenario("scalable.second.2m-4-levels", "3.7", "A write 0x200c0407010 -> 0x807010", "FSTS 0", setup=SECOND_STAGE)
def page_2m(bench: Bench) -> None:
    """A 2 MiB page."""
    start(bench, size=2, page=0x800000)
    bench.write("A", ADDRESS + 0x6010)


@scenario("scalable.second.1g-4-levels", "3.7", "A write 0x200c0807010 -> 0x807010", "FSTS 0", setup=SECOND_STAGE)
def page_1g(bench: Bench) -> None:
    """A 1 GiB page."""
    start(bench, size=3, page=0)
    bench.write("A", ADDRESS - 0x401000 + 0x807010)


def _three_levels(name: str, size: int, address: int, host: str, setup: Setup) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.scalable.entry("A", SECOND, table, levels=3)
        bench.map(table, address, P0 if size < 3 else 0, levels=3, size=size)
        bench.scalable.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = f"A level-{size} page through 3 levels, on a unit of {setup.capabilities.address_width} bits."
    id_ = f"scalable.second.{name}-3-levels{'' if setup is SECOND_STAGE else '-narrow'}"
    scenario(id_, "3.7", f"A write {address:#x} -> {host}", "FSTS 0", setup=setup)(stimulus)


for _setup in (SECOND_STAGE, SECOND_STAGE_39):
    _three_levels("4k", 1, 0x7F_C040_1010, "0x800010", _setup)
    _three_levels("2m", 2, 0x7F_C040_1010, "0x801010", _setup)
    _three_levels("1g", 3, 0x7F_C080_1010, "0x801010", _setup)


@scenario("scalable.second.last-address", "3.7", "A write 0xfffffffffff8 -> 0x800ff8", "FSTS 0", setup=SECOND_STAGE)
def last_address(bench: Bench) -> None:
    """The last page of the 48-bit address space."""
    table = bench.new_table()
    bench.scalable.entry("A", SECOND, table)
    bench.map(table, (1 << 48) - 0x1000, P0)
    bench.scalable.turn_on()
    bench.write("A", (1 << 48) - 8)


# Address width (SGN.5).


def _beyond(name: str, title: str, address: int, page: str, levels: int, setup: Setup = SECOND_STAGE) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.scalable.entry("A", SECOND, table, levels=levels)
        bench.map(table, 0x5000, P0, levels=levels)
        bench.scalable.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = title
    lines = (f"A write {address:#x} -> blocked", *fault(0x84, address=page))
    scenario(f"scalable.width.{name}", "7.1.3 SGN.5", *lines, setup=setup)(stimulus)


_beyond("beyond-levels", "Address bit 39 with 3 levels, on a unit of 48 bits.", 1 << 39 | 0x5010, "0x8000005000", 3)
_beyond("beyond-guest-width", "Address bit 48 with 4 levels: recorded as 0.", 1 << 48 | 0x5010, "0x5000", 4)
_beyond("beyond-39-bits", "Address bit 39 on a unit of 39 bits.", 1 << 39 | 0x5010, "0x5000", 3, SECOND_STAGE_39)


# Entries one by one.


def _edited(
    id_: str,
    condition: str,
    title: str,
    level: int,
    edit: Callable[[int], int],
    *expect: str,
    access: str = "write",
    size: int = 1,
    allowed: tuple[Allowed, ...] = (),
    setup: Setup = SECOND_STAGE,
) -> None:
    """ADDRESS is mapped by a page of a size, and the entry of one level replaced before A uses it."""

    def stimulus(bench: Bench) -> None:
        table = start(bench, size=size, page=P0 if size == 1 else 0x800000 if size == 2 else 0)
        where = bench.entry(table, ADDRESS, level)
        bench.memory.write_u64(where, edit(bench.memory.read_u64(where)))
        (bench.read if access == "read" else bench.write)("A", ADDRESS + 0x10)

    stimulus.__doc__ = title
    scenario(id_, condition, *expect, allowed=allowed, setup=setup)(stimulus)


for _level in (4, 3, 2, 1):
    _edited(
        f"scalable.absent.level-{_level}",
        "7.1.3 SSS.2",
        f"An entry of zeros at level {_level}.",
        _level,
        lambda _: 0,
        WRITE_BLOCKED,
        *fault(0x79),
    )
    _edited(
        f"scalable.absent.level-{_level}-read",
        "7.1.3 SSS.2",
        f"A read through an entry of zeros at level {_level}.",
        _level,
        lambda _: 0,
        READ_BLOCKED,
        *fault(0x79, "read"),
        access="read",
    )
    _edited(
        f"scalable.permission.no-write-{_level}",
        "7.1.3 SGN.6",
        f"A write without W at level {_level}.",
        _level,
        lambda entry: entry & ~W,
        WRITE_BLOCKED,
        *fault(0x85),
    )
    _edited(
        f"scalable.permission.no-read-{_level}",
        "7.1.3 SGN.7",
        f"A read without R at level {_level}.",
        _level,
        lambda entry: entry & ~R,
        READ_BLOCKED,
        *fault(0x86, "read"),
        access="read",
    )
    _edited(
        f"scalable.permission.read-only-{_level}",
        "3.7.1",
        f"A read without W at level {_level} is permitted.",
        _level,
        lambda entry: entry & ~W,
        READ_P0,
        "FSTS 0",
        access="read",
    )
    _edited(
        f"scalable.permission.write-only-{_level}",
        "3.7.1",
        f"A write without R at level {_level} is permitted.",
        _level,
        lambda entry: entry & ~R,
        WRITE_P0,
        "FSTS 0",
    )
_edited(
    "scalable.absent.reserved-bits",
    "7.1.3 SSS.2",
    "Neither R nor W, and every reserved bit set: the entry is not present, and they are not checked.",
    1,
    lambda _: ALL_ONES & ~(R | W),
    WRITE_BLOCKED,
    *fault(0x79),
)
for _level, _code, _condition in ((4, 0x7B, "SSS.4"), (3, 0x78, "SSS.1"), (2, 0x78, "SSS.1"), (1, 0x78, "SSS.1")):

    def _unreadable(bench: Bench, *, level: int = _level) -> None:
        table = start(bench)
        if level == 4:
            bench.scalable.entry("A", SECOND, NOWHERE)
        else:
            bench.memory.write_u64(bench.entry(table, ADDRESS, level + 1), NOWHERE | R | W)
        bench.write("A", ADDRESS + 0x10)

    _unreadable.__doc__ = f"The table of level {_level} lies outside memory, and cannot be read."
    scenario(
        f"scalable.unreadable.level-{_level}",
        f"7.1.3 {_condition}",
        WRITE_BLOCKED,
        *fault(_code),
        setup=SECOND_STAGE,
    )(_unreadable)


@scenario(
    "scalable.permission.disjoint-levels",
    "7.1.3 SSS.2",
    READ_BLOCKED,
    *fault(0x79, "read"),
    allowed=(
        Allowed(
            "the permission may be reported at the level that lacks it (doubt D-4)",
            (READ_BLOCKED, *fault(0x86, "read")),
            Policy(permission_per_level=True),
        ),
    ),
    setup=SECOND_STAGE,
)
def disjoint_permissions(bench: Bench) -> None:
    """A read-only level above a write-only one: nothing is left, as if the entry were not present."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 3), clear=W)
    bench.change(bench.entry(table, ADDRESS, 1), clear=R)
    bench.read("A", ADDRESS + 0x10)


@scenario(
    "scalable.permission.missing-above-reserved-below",
    "7.1.3",
    WRITE_BLOCKED,
    *fault(0x7A),
    allowed=(
        Allowed(
            "the permission may be reported at the level that lacks it (doubt D-4)",
            (WRITE_BLOCKED, *fault(0x85)),
            Policy(permission_per_level=True),
        ),
    ),
    setup=SECOND_STAGE,
)
def missing_above_reserved_below(bench: Bench) -> None:
    """No W at level 3 and a reserved bit at level 1: two fault conditions in one walk."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 3), clear=W)
    bench.change(bench.entry(table, ADDRESS, 1), set_=1 << 50)
    bench.write("A", ADDRESS + 0x10)


# Reserved bits (SSS.3), and those that are software's.

_edited(
    "scalable.second.all-ones",
    "7.1.3 SSS.3",
    "A page entry of all ones is present, with reserved bits set.",
    1,
    lambda _: ALL_ONES,
    WRITE_BLOCKED,
    *fault(0x7A),
)


def _snoop(name: str, size: int, outcome: tuple[str, ...], setup: Setup) -> None:
    _edited(
        f"scalable.second.snoop{name}",
        "9.8",
        f"SNP in a level-{size} page, {'with' if setup is SECOND_STAGE_SNOOPING else 'without'} ECAP.SC.",
        size,
        lambda entry: entry | SNP,
        *outcome,
        size=size,
        setup=setup,
    )


for _size in (1, 2, 3):
    _snoop(f"-without-{_size}", _size, (WRITE_BLOCKED, *fault(0x7A)), SECOND_STAGE)
    _snoop(f"-with-{_size}", _size, (f"A write 0x200c0401010 -> {OFFSETS[_size]}", "FSTS 0"), SECOND_STAGE_SNOOPING)


IGNORED_IN_TABLE = 1 << 63 | 0x3FF << 52 | 1 << 10 | D | A | 0x7C
IGNORED_IN_PAGE = IGNORED_IN_TABLE | PS


@scenario("scalable.second.ignored-bits", "9.8", READ_P0, WRITE_P0, "FSTS 0", setup=SECOND_STAGE)
def ignored_bits(bench: Bench) -> None:
    """Every bit that is software's, or is not read without SSADE, EMTE or SSEE, is set at every level."""
    table = start(bench)
    for level in (4, 3, 2):
        bench.change(bench.entry(table, ADDRESS, level), set_=IGNORED_IN_TABLE)
    bench.change(bench.entry(table, ADDRESS, 1), set_=IGNORED_IN_PAGE)
    bench.read("A", ADDRESS + 0x10)
    bench.write("A", ADDRESS + 0x10)


# The interrupt address range (SGN.8).

_edited(
    "scalable.second.interrupt-range",
    "7.1.3 SGN.8",
    "A write to a page in the interrupt address range.",
    1,
    lambda _: 0xFEE01000 | R | W,
    WRITE_BLOCKED,
    *fault(0x87),
)
_edited(
    "scalable.second.interrupt-range-read",
    "7.1.3 SGN.8",
    "A read from a page in the interrupt address range.",
    1,
    lambda _: 0xFEE01000 | R | W,
    READ_BLOCKED,
    *fault(0x87, "read"),
    access="read",
)
_edited(
    "scalable.second.before-interrupt-range",
    "3.14",
    "The page just below the interrupt address range is not in it: nothing is there, and no fault is recorded.",
    1,
    lambda _: 0xFEDFF000 | R | W,
    WRITE_BLOCKED,
    "FSTS 0",
)


@scenario(
    "scalable.second.beside-interrupt-range",
    "3.14",
    "A write 0x200c0500010 -> blocked",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def beside_interrupt_range(bench: Bench) -> None:
    """A 2 MiB page with the interrupt range in its first half: a write to the second half does not fault."""
    start(bench, size=2, page=0xFEE00000)
    bench.write("A", ADDRESS - 0x1000 + 0x100010)
