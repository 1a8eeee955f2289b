"""Spec 9.2, 9.4 to 9.6: root, context, PASID directory and PASID-table entries of scalable mode."""

from collections.abc import Callable
from dataclasses import replace

from qemu.vtd.conformance.bench import NOWHERE, P0, P1, Bench
from qemu.vtd.conformance.scalable_bench import FIRST, NESTED, SECOND
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE, SECOND_STAGE_39, Setup
from qemu.vtd.conformance.topologies import HOST_BRIDGE

BLOCKED = "A write 0x5010 -> blocked"
TO_P0 = "A write 0x5010 -> 0x800010"


def fault(code: int, page: str = "0x5000") -> tuple[str, str]:
    """The lines for a single fault of A: the record and FSTS."""
    return f"fault {code:#04x} A {page} write", "FSTS PPF"


def start(bench: Bench, *, pasid: int = 0, domain: int = 1) -> int:
    """A's second stage maps 0x5000 to P0; nothing is turned on yet. Returns the address of its PASID-table entry."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    return bench.scalable.entry("A", SECOND, table, pasid=pasid, domain=domain)


Place = Callable[[Bench], int]


def root(bench: Bench) -> int:
    """The address of A's root entry's half."""
    return bench.scalable.root_at("A")


def context(bench: Bench) -> int:
    """The address of A's context entry."""
    return bench.scalable.context_at("A")


def directory(bench: Bench) -> int:
    """The address of A's PASID directory entry."""
    return bench.scalable.directory_at("A")


def entry(bench: Bench) -> int:
    """The address of A's PASID-table entry."""
    return bench.scalable.entry_at("A")


def _edited(
    id_: str,
    section: str,
    title: str,
    place: Place,
    *expect: str,
    clear: int = 0,
    set_: int = 0,
    setup: Setup = SECOND_STAGE,
) -> None:
    """A's tables map 0x5000; then bits of one entry's first 64 are changed, and A writes."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.change(place(bench), clear=clear, set_=set_)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    scenario(id_, section, *expect, setup=setup)(stimulus)


ADDRESS_BITS = 0xF_FFFF_FFFF_F000
P = 1


@scenario("scalable.tables.works", "3.4.3", TO_P0, "FSTS 0", setup=SECOND_STAGE)
def works(bench: Bench) -> None:
    """A request without PASID: root entry, context entry, PASID directory, PASID table, second stage."""
    start(bench)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)


# Root entry (7.1.3 SRT).

_edited(
    "scalable.root.not-present",
    "7.1.3 SRT.2",
    "The half of the root entry for A is not present.",
    root,
    BLOCKED,
    *fault(0x39),
    clear=P,
)
_edited(
    "scalable.root.not-present-reserved",
    "7.1.3 SRT.2",
    "Not present, with all its reserved bits set: they are not checked.",
    root,
    BLOCKED,
    *fault(0x39),
    clear=P,
    set_=0xFFE | 0xFFFF << 48,
)


@scenario("scalable.root.unreadable", "7.1.3 SRT.1", BLOCKED, *fault(0x38), setup=SECOND_STAGE)
def root_unreadable(bench: Bench) -> None:
    """The root table lies outside memory, and cannot be read."""
    bench.scalable.root = NOWHERE
    bench.scalable.turn_on()
    bench.write("A", 0x5010)


@scenario("scalable.root.other-half-reserved", "9.2", TO_P0, "FSTS 0", setup=SECOND_STAGE)
def other_half_reserved(bench: Bench) -> None:
    """Reserved bits in the half that serves devices 10 to 1f: it is not used, and not checked."""
    start(bench)
    bench.memory.write_u64(bench.scalable.root_at("A") + 8, 0xFFE)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)


BY_HALVES = replace(SECOND_STAGE, name="scalable, second stage, second host bridge", topology=HOST_BRIDGE)


def _half(device: str, other: str, half: str) -> None:
    """One of the devices 00:0f.7 and 00:10.0, on either side of the border between the halves, has tables."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.scalable.entry(device, SECOND, table)
        bench.scalable.turn_on()
        bench.write(device, 0x5010)
        bench.write(other, 0x5010)

    stimulus.__doc__ = f"The {half} half of a root entry serves device {device} alone; the other is not present."
    scenario(
        f"scalable.root.{half}-half",
        "9.2",
        f"{device} write 0x5010 -> 0x800010",
        f"{other} write 0x5010 -> blocked",
        f"fault 0x39 {other} 0x5000 write",
        "FSTS PPF",
        setup=BY_HALVES,
    )(stimulus)


_half("C", "D", "lower")
_half("D", "C", "upper")


@scenario(
    "scalable.root.upper-half-reserved",
    "7.1.3 SRT.3",
    "C write 0x5010 -> 0x800010",
    "D write 0x5010 -> blocked",
    "fault 0x3a D 0x5000 write",
    "FSTS PPF",
    setup=BY_HALVES,
)
def upper_half_reserved(bench: Bench) -> None:
    """A reserved bit in the upper half concerns the devices it serves, and no others."""
    for device in ("C", "D"):
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.scalable.entry(device, SECOND, table)
    bench.change(bench.scalable.root_at("D"), set_=1 << 4)
    bench.scalable.turn_on()
    bench.write("C", 0x5010)
    bench.write("D", 0x5010)


@scenario(
    "scalable.root.both-halves",
    "9.4",
    "C write 0x5010 -> 0x800010",
    "D write 0x5010 -> 0x801010",
    "FSTS 0",
    setup=BY_HALVES,
)
def both_halves(bench: Bench) -> None:
    """00:0f.7 has the last context entry of the lower table, 00:10.0 the first of the upper."""
    for device, page, domain in (("C", P0, 1), ("D", P1, 2)):
        table = bench.new_table()
        bench.map(table, 0x5000, page)
        bench.scalable.entry(device, SECOND, table, domain=domain)
    bench.scalable.turn_on()
    bench.write("C", 0x5010)
    bench.write("D", 0x5010)


# Context entry (7.1.3 SCT).

_edited(
    "scalable.context.not-present",
    "7.1.3 SCT.2",
    "The context entry of A is not present.",
    context,
    BLOCKED,
    *fault(0x41),
    clear=P,
)
_edited(
    "scalable.context.unreadable",
    "7.1.3 SCT.1",
    "The context table lies outside memory, and cannot be read.",
    root,
    BLOCKED,
    *fault(0x40),
    clear=ADDRESS_BITS,
    set_=NOWHERE,
)

# PASID directory (7.1.3 SPD).

_edited(
    "scalable.directory.not-present",
    "7.1.3 SPD.2",
    "The PASID directory entry is not present.",
    directory,
    BLOCKED,
    *fault(0x51),
    clear=P,
)
_edited(
    "scalable.directory.unreadable",
    "7.1.3 SPD.1",
    "The PASID directory lies outside memory, and cannot be read.",
    context,
    BLOCKED,
    *fault(0x50),
    clear=ADDRESS_BITS,
    set_=NOWHERE,
)

# PASID table (7.1.3 SPT).

_edited(
    "scalable.entry.not-present",
    "7.1.3 SPT.2",
    "The PASID-table entry is not present.",
    entry,
    BLOCKED,
    *fault(0x59),
    clear=P,
)
_edited(
    "scalable.entry.unreadable",
    "7.1.3 SPT.1",
    "The PASID table lies outside memory, and cannot be read.",
    directory,
    BLOCKED,
    *fault(0x58),
    clear=ADDRESS_BITS,
    set_=NOWHERE,
)
_edited(
    "scalable.entry.zero",
    "7.1.3 SPT.2",
    "A PASID-table entry of zeros is not present, whatever its type.",
    entry,
    BLOCKED,
    *fault(0x59),
    clear=(1 << 64) - 1,
)
PGTT = 7 << 6
for _type in (0, FIRST, NESTED, 5, 6, 7):
    _edited(
        f"scalable.entry.type-{int(_type)}",
        "7.1.3 SPT.4",
        f"Translation type {int(_type)} on a unit with a second stage alone.",
        entry,
        BLOCKED,
        *fault(0x5B),
        clear=PGTT,
        set_=int(_type) << 6,
    )
AW = 7 << 2
for _width in (0, 3, 4, 5, 6, 7):
    _edited(
        f"scalable.entry.width-{_width}",
        "7.1.3 SPT.4",
        f"Address width {_width} for a second stage of a unit that walks 3 and 4 levels.",
        entry,
        BLOCKED,
        *fault(0x5B),
        clear=AW,
        set_=_width << 2,
    )
_edited(
    "scalable.entry.width-2-on-39",
    "7.1.3 SPT.4",
    "4 levels on a unit that walks 3.",
    entry,
    BLOCKED,
    *fault(0x5B),
    setup=SECOND_STAGE_39,
)
