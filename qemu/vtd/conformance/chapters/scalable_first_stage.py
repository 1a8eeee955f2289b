"""Spec 3.6, 9.7: first-stage translation of requests without PASID. They are user requests and never execute.

The unit has a first stage alone and no ECAP.SMPWCS: no walk is snooped, so that software has to set A and D itself.
"""

from collections.abc import Callable

from iommu import Policy
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench
from qemu.vtd.conformance.scalable_bench import FIRST, NESTED, SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import FIRST_STAGE, FIRST_STAGE_NO_1G

P, RW, US = 1 << 0, 1 << 1, 1 << 2
A, D, PS, EA, XD = 1 << 5, 1 << 6, 1 << 7, 1 << 10, 1 << 63
ALL_ONES = (1 << 64) - 1

# Below 2**29, so that the address is canonical for QEMU too, whose check is wrong: see scalable.canonical.
ADDRESS = 0x10605000

READ_BLOCKED = "A read 0x10605010 -> blocked"
WRITE_BLOCKED = "A write 0x10605010 -> blocked"
READ_P0 = "A read 0x10605010 -> 0x800010"
WRITE_P0 = "A write 0x10605010 -> 0x800010"
# By the level of the page's entry.
PAGES = {1: P0, 2: 0x800000, 3: 0}
OFFSETS = {1: "0x800010", 2: "0x805010", 3: "blocked"}


def fault(code: int, kind: str = "write", address: str = "0x10605000") -> tuple[str, str]:
    """The lines for a single fault of A: the record and FSTS."""
    return f"fault {code:#04x} A {address} {kind}", "FSTS PPF"


def start(
    bench: Bench,
    *,
    address: int = ADDRESS,
    page: int = P0,
    size: int = 1,
    write: bool = True,
    accessed: bool = True,
    dirty: bool = True,
    also: int = 0,
) -> int:
    """Map an address to a page for A through 4 levels, and turn scalable mode on; returns the top table."""
    table = bench.new_table()
    bench.scalable.entry("A", FIRST, table, also=also)
    bench.scalable.map_first(table, address, page, size=size, write=write, accessed=accessed, dirty=dirty)
    bench.scalable.turn_on()
    return table


# Page sizes.


@scenario(
    "scalable.first.4k",
    "3.6",
    "A read 0x10605abc -> 0x800abc",
    "A write 0x10605abc -> 0x800abc",
    "FSTS 0",
    setup=FIRST_STAGE,
)
def page_4k(bench: Bench) -> None:
    """A 4 KiB page."""
    start(bench)
    bench.read("A", ADDRESS + 0xABC)
    bench.write("A", ADDRESS + 0xABC)


@scenario("scalable.first.2m", "3.6", "A write 0x10607010 -> 0x807010", "FSTS 0", setup=FIRST_STAGE)
def page_2m(bench: Bench) -> None:
    """A 2 MiB page."""
    start(bench, size=2, page=0x800000)
    bench.write("A", ADDRESS + 0x2010)


@scenario("scalable.first.1g", "3.6", "A write 0x807010 -> 0x807010", "FSTS 0", setup=FIRST_STAGE)
def page_1g(bench: Bench) -> None:
    """A 1 GiB page."""
    start(bench, size=3, page=0)
    bench.write("A", 0x807010)


@scenario(
    "scalable.first.1g-not-offered",
    "7.1.3 SFS.3",
    "A write 0x807010 -> blocked",
    *fault(0x72, address="0x807000"),
    setup=FIRST_STAGE_NO_1G,
)
def page_1g_not_offered(bench: Bench) -> None:
    """PS at level 3 without CAP.FS1GP."""
    start(bench, size=3, page=0)
    bench.write("A", 0x807010)


# Canonical addresses (SGN.1): bits 63:47 are equal.


def _canonical(name: str, address: int, title: str, *, page: str = "") -> None:
    """The address is mapped if its bits 46:0 are looked up; `page` is the fault's page, of a bad address."""

    def stimulus(bench: Bench) -> None:
        lookup = address & (1 << 47) - 1 | (ALL_ONES & ~((1 << 47) - 1) if address >> 47 & 1 else 0)
        start(bench, address=lookup)
        bench.write("A", address)

    stimulus.__doc__ = title
    moved = (f"A write {address:#x} -> {0x800000 | address & 0xFFF:#x}", "FSTS 0")
    lines = (f"A write {address:#x} -> blocked", *fault(0x80, address=page)) if page else moved
    scenario(f"scalable.canonical.{name}", "3.6.1", *lines, setup=FIRST_STAGE)(stimulus)


_canonical("half-a-gigabyte", (1 << 29) - 8, "The last address below 512 MiB.")
_canonical("bit-29", 1 << 29 | 0x5010, "Address bit 29 is 1 and all above it are 0.")
_canonical("bit-39", 1 << 39 | 0x5010, "Address bit 39 is 1 and all above it are 0.")
_canonical("lower-half-end", (1 << 47) - 8, "The last address of the lower half.")
_canonical("upper-half-start", ALL_ONES - (1 << 47) + 0x5011, "In the first pages of the upper half.")
_canonical("upper-half-end", ALL_ONES - 0x7FF, "In the last page of the upper half.")
_canonical("bit-47", 1 << 47 | 0x5010, "Bit 47 is 1, bits above it are 0.", page="0x800000005000")
_canonical("bit-48", 1 << 48 | 0x5010, "Bit 48 is 1: recorded as 0.", page="0x5000")
_canonical("bit-63", 1 << 63 | 0x5010, "Bit 63 is 1, bits below it are 0: recorded as 0.", page="0x5000")
_canonical("bit-62-clear", ALL_ONES - (1 << 62) - 0x7FF, "Bits 63:47 are 1 except bit 62.", page="0xfffffffff000")


@scenario(
    "scalable.canonical.second-width",
    "7.1.3 SPT.3",
    "A write 0x8000005010 -> blocked",
    *fault(0x5A, address="0x8000005000"),
    setup=FIRST_STAGE,
)
def second_width(bench: Bench) -> None:
    """AW says 48 bits, as drivers write it for a second stage; without one it is reserved."""
    start(bench, address=1 << 39 | 0x5000, also=2 << 2)
    bench.write("A", 1 << 39 | 0x5010)


# Entries one by one.


def _edited(
    id_: str,
    section: str,
    title: str,
    level: int,
    edit: Callable[[int], int],
    *expect: str,
    access: str = "write",
    size: int = 1,
    allowed: tuple[Allowed, ...] = (),
) -> None:
    """ADDRESS is mapped, and the entry of one level replaced before A uses it."""

    def stimulus(bench: Bench) -> None:
        table = start(bench, size=size, page=PAGES[size])
        where = bench.entry(table, ADDRESS, level)
        bench.memory.write_u64(where, edit(bench.memory.read_u64(where)))
        (bench.read if access == "read" else bench.write)("A", ADDRESS + 0x10)

    stimulus.__doc__ = title
    scenario(id_, section, *expect, allowed=allowed, setup=FIRST_STAGE)(stimulus)


for _level in (4, 3, 2, 1):
    _edited(
        f"scalable.first.absent-{_level}",
        "7.1.3 SFS.2",
        f"An entry of zeros at level {_level}.",
        _level,
        lambda _: 0,
        WRITE_BLOCKED,
        *fault(0x71),
    )
    _edited(
        f"scalable.first.supervisor-{_level}",
        "7.1.3 SGN.2",
        f"U/S is 0 at level {_level}.",
        _level,
        lambda entry: entry & ~US,
        READ_BLOCKED,
        *fault(0x81, "read"),
        access="read",
    )
    _edited(
        f"scalable.first.no-write-{_level}",
        "7.1.3 SGN.6",
        f"A write without R/W at level {_level}.",
        _level,
        lambda entry: entry & ~RW,
        WRITE_BLOCKED,
        *fault(0x85),
    )
    _edited(
        f"scalable.first.read-only-{_level}",
        "3.6.1",
        f"A read without R/W at level {_level} is permitted.",
        _level,
        lambda entry: entry & ~RW,
        READ_P0,
        "FSTS 0",
        access="read",
    )
    _edited(
        f"scalable.first.no-execute-{_level}",
        "3.6.1",
        f"XD at level {_level} does not matter to a write.",
        _level,
        lambda entry: entry | XD,
        WRITE_P0,
        "FSTS 0",
    )
_edited(
    "scalable.first.absent-read",
    "7.1.3 SFS.2",
    "A read through an entry that is not present.",
    1,
    lambda _: 0,
    READ_BLOCKED,
    *fault(0x71, "read"),
    access="read",
)
_edited(
    "scalable.first.absent-reserved-bits",
    "7.1.3 SFS.2",
    "P is 0, and every other bit 1: reserved bits are not checked.",
    1,
    lambda _: ALL_ONES & ~P,
    WRITE_BLOCKED,
    *fault(0x71),
)
_edited(
    "scalable.first.supervisor-before-write",
    "7.1.3 SGN.2",
    "A write to a page with neither U/S nor R/W.",
    1,
    lambda entry: entry & ~(US | RW),
    WRITE_BLOCKED,
    *fault(0x81),
)
for _level, _code, _condition in ((4, 0x73, "SFS.4"), (3, 0x70, "SFS.1"), (2, 0x70, "SFS.1"), (1, 0x70, "SFS.1")):

    def _unreadable(bench: Bench, *, level: int = _level) -> None:
        table = start(bench)
        if level == 4:
            bench.scalable.entry("A", FIRST, NOWHERE)
        else:
            bench.memory.write_u64(bench.entry(table, ADDRESS, level + 1), NOWHERE | P | RW | US | A)
        bench.write("A", ADDRESS + 0x10)

    _unreadable.__doc__ = f"The table of level {_level} lies outside memory, and cannot be read."
    scenario(
        f"scalable.first.unreadable-{_level}",
        f"7.1.3 {_condition}",
        WRITE_BLOCKED,
        *fault(_code),
        setup=FIRST_STAGE,
    )(_unreadable)


@scenario(
    "scalable.first.missing-above-reserved-below",
    "7.1.3",
    WRITE_BLOCKED,
    *fault(0x72),
    allowed=(
        Allowed(
            "the permission may be reported at the level that lacks it (doubt D-4)",
            (WRITE_BLOCKED, *fault(0x81)),
            Policy(permission_per_level=True),
        ),
    ),
    setup=FIRST_STAGE,
)
def missing_above_reserved_below(bench: Bench) -> None:
    """U/S is 0 at level 3, and a reserved bit is set at level 1: two fault conditions in one walk."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 3), clear=US)
    bench.change(bench.entry(table, ADDRESS, 1), set_=1 << 50)
    bench.write("A", ADDRESS + 0x10)


_edited(
    "scalable.first.all-ones",
    "7.1.3 SFS.3",
    "A page entry of all ones is present, with reserved bits set.",
    1,
    lambda _: ALL_ONES,
    WRITE_BLOCKED,
    *fault(0x72),
)

IGNORED = XD | 0x7FF << 52 | 1 << 11 | EA | 1 << 9 | 1 << 4 | 1 << 3
"""XD, which only execute requests read, EA without EAFE, PCD and PWT without ECAP.MTS, and what is software's."""
G, PAT = 1 << 8, 1 << 7


@scenario("scalable.first.ignored-bits", "9.7", READ_P0, WRITE_P0, "FSTS 0", setup=FIRST_STAGE)
def ignored_bits(bench: Bench) -> None:
    """Every bit that does not concern these requests on this unit is set at every level."""
    table = start(bench)
    for level in (4, 3, 2):
        bench.change(bench.entry(table, ADDRESS, level), set_=IGNORED | G | D)
    bench.change(bench.entry(table, ADDRESS, 1), set_=IGNORED | G | PAT)
    bench.read("A", ADDRESS + 0x10)
    bench.write("A", ADDRESS + 0x10)


_edited(
    "scalable.first.2m-pat",
    "9.7",
    "Bit 12 of a 2 MiB page is PAT, not a part of the address.",
    2,
    lambda entry: entry | 1 << 12,
    "A write 0x10605010 -> 0x805010",
    "FSTS 0",
    size=2,
)


# The interrupt address range (SGN.8).

_edited(
    "scalable.first.interrupt-range",
    "7.1.3 SGN.8",
    "A write to a page in the interrupt address range.",
    1,
    lambda entry: 0xFEE01000 | entry & 0xFFF,
    WRITE_BLOCKED,
    *fault(0x87),
)
_edited(
    "scalable.first.interrupt-range-read",
    "7.1.3 SGN.8",
    "A read from a page in the interrupt address range.",
    1,
    lambda entry: 0xFEE01000 | entry & 0xFFF,
    READ_BLOCKED,
    *fault(0x87, "read"),
    access="read",
)
_edited(
    "scalable.first.after-interrupt-range",
    "3.14",
    "The page just above the interrupt address range is not in it: nothing is there, and no fault is recorded.",
    1,
    lambda entry: 0xFEF00000 | entry & 0xFFF,
    WRITE_BLOCKED,
    "FSTS 0",
)


# Types and levels that a unit with a first stage alone does not have (SPT.4).


def _entry(name: str, title: str, type_: int, also: int = 0) -> None:
    def stimulus(bench: Bench) -> None:
        table = start(bench)
        bench.scalable.entry("A", FIRST, table, also=also)
        bench.change(bench.scalable.entry_at("A"), clear=7 << 6, set_=type_ << 6)
        bench.write("A", ADDRESS + 0x10)

    stimulus.__doc__ = title
    scenario(f"scalable.first.{name}", "7.1.3 SPT.4", WRITE_BLOCKED, *fault(0x5B), setup=FIRST_STAGE)(stimulus)


_entry("second-type", "A second stage on a unit that has none.", SECOND)
_entry("nested-type", "A nested translation on a unit that has none.", NESTED)
_entry("five-levels", "5 levels on a unit without CAP.FS5LP.", FIRST, 1 << 130)
_entry("levels-reserved-2", "FSPM 2, which is reserved.", FIRST, 2 << 130)
_entry("levels-reserved-3", "FSPM 3, which is reserved.", FIRST, 3 << 130)


NXE, SMEP, WPE = 1 << 133, 1 << 134, 1 << 132


@scenario(
    "scalable.first.withdrawn-bits",
    "9.6",
    READ_P0,
    "FSTS 0",
    setup=FIRST_STAGE,
)
def withdrawn_bits(bench: Bench) -> None:
    """NXE and SMEP of a PASID-table entry were withdrawn: they have no effect."""
    start(bench, also=NXE | SMEP)
    bench.read("A", ADDRESS + 0x10)


@scenario("scalable.first.write-protect", "3.6.1", READ_P0, WRITE_P0, "FSTS 0", setup=FIRST_STAGE)
def write_protect(bench: Bench) -> None:
    """WPE concerns supervisors; these requests are those of users."""
    start(bench, also=WPE)
    bench.read("A", ADDRESS + 0x10)
    bench.write("A", ADDRESS + 0x10)
