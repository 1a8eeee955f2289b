"""Spec 3.7, 9.8: second-stage translation in legacy mode."""

from collections.abc import Callable

from iommu import Policy
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench, R, W
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import NARROW, NO_1G_PAGES, SNOOPING, WIDE, Setup

SNP = 1 << 11
ALL_ONES = (1 << 64) - 1

# 0x200c0401000: the index into the table of level N is N.
ADDRESS = 4 << 39 | 3 << 30 | 2 << 21 | 1 << 12
NARROW_ADDRESS = 0xC0401000

READ_BLOCKED = "A read 0x200c0401010 -> blocked"
WRITE_BLOCKED = "A write 0x200c0401010 -> blocked"


def fault(code: int, kind: str = "write", address: str = "0x200c0401000") -> tuple[str, str]:
    """The lines for a single fault of A: the record and FSTS."""
    return f"fault {code:#04x} A {address} {kind}", "FSTS PPF"


def start(bench: Bench, *, size: int = 1, page: int = P0, r: int = 1, w: int = 1) -> int:
    """Map ADDRESS to a page for A through 4 levels and enable translation; returns the top table."""
    table = bench.new_table()
    bench.context("A", table)
    bench.map(table, ADDRESS, page, size=size, r=r, w=w)
    bench.turn_on()
    return table


# Page sizes and levels.


@scenario(
    "legacy.pages.4k-4-levels",
    "3.7",
    "A read 0x200c0401abc -> 0x800abc",
    "A write 0x200c0401abc -> 0x800abc",
    "FSTS 0",
)
def page_4k(bench: Bench) -> None:
    """A 4 KiB page through 4 levels: 12 bits of offset are kept."""
    start(bench)
    bench.read("A", ADDRESS + 0xABC)
    bench.write("A", ADDRESS + 0xABC)


@scenario("legacy.pages.2m-4-levels", "3.7", "A write 0x200c0407010 -> 0x807010", "FSTS 0")
def page_2m(bench: Bench) -> None:
    """A 2 MiB page: 21 bits of offset are kept."""
    start(bench, size=2, page=0x800000)
    bench.write("A", ADDRESS + 0x6010)


@scenario("legacy.pages.1g-4-levels", "3.7", "A write 0x200c0807010 -> 0x807010", "FSTS 0")
def page_1g(bench: Bench) -> None:
    """A 1 GiB page: 30 bits of offset are kept."""
    start(bench, size=3, page=0)
    bench.write("A", ADDRESS - 0x401000 + 0x807010)


def _narrow_page(name: str, size: int, address: int, host: str, setup: Setup) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.context("A", table, levels=3)
        bench.map(table, address, P0 if size < 3 else 0, levels=3, size=size)
        bench.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = f"A level-{size} page through 3 levels, on a {setup.name} unit."
    id_ = f"legacy.pages.{name}-3-levels{'' if setup is WIDE else '-narrow'}"
    scenario(id_, "3.7", f"A write {address:#x} -> {host}", "FSTS 0", setup=setup)(stimulus)


for _setup in (WIDE, NARROW):
    _narrow_page("4k", 1, 0x7F_C040_1010, "0x800010", _setup)
    _narrow_page("2m", 2, 0x7F_C040_1010, "0x801010", _setup)
    _narrow_page("1g", 3, 0x7F_C080_1010, "0x801010", _setup)


@scenario("legacy.pages.last-address", "3.7", "A write 0xfffffffffff8 -> 0x800ff8", "FSTS 0")
def last_address(bench: Bench) -> None:
    """The last page of the 48-bit address space."""
    table = bench.new_table()
    bench.context("A", table)
    bench.map(table, (1 << 48) - 0x1000, P0)
    bench.turn_on()
    bench.write("A", (1 << 48) - 8)


# Address width.


@scenario(
    "legacy.width.beyond-levels",
    "7.1.3 LGN.1",
    "A write 0x8000005010 -> blocked",
    *fault(0x04, address="0x8000005000"),
)
def beyond_levels(bench: Bench) -> None:
    """A write with address bit 39 set and 3 levels, on a unit that also supports 4."""
    table = bench.new_table()
    bench.context("A", table, levels=3)
    bench.map(table, 0x5000, P0, levels=3)
    bench.turn_on()
    bench.write("A", 1 << 39 | 0x5010)


@scenario(
    "legacy.width.beyond-levels-read",
    "7.1.3 LGN.1",
    "A read 0x8000005010 -> blocked",
    *fault(0x04, "read", "0x8000005000"),
)
def beyond_levels_read(bench: Bench) -> None:
    """A read with address bit 39 set and 3 levels, on a unit that also supports 4."""
    table = bench.new_table()
    bench.context("A", table, levels=3)
    bench.turn_on()
    bench.read("A", 1 << 39 | 0x5010)


@scenario(
    "legacy.width.beyond-guest-width",
    "11.4.7.6",
    "A write 0x1000000005010 -> blocked",
    *fault(0x04, address="0x5000"),
)
def beyond_guest_width(bench: Bench) -> None:
    """Address bit 48 set with 4 levels; bits beyond the guest address width are recorded as 0."""
    table = bench.new_table()
    bench.context("A", table)
    bench.map(table, 0x5000, P0)
    bench.turn_on()
    bench.write("A", 1 << 48 | 0x5010)


@scenario(
    "legacy.width.beyond-39-bits",
    "11.4.7.6",
    "A write 0x8000005010 -> blocked",
    *fault(0x04, address="0x5000"),
    setup=NARROW,
)
def beyond_narrow_width(bench: Bench) -> None:
    """Address bit 39 set on a 39-bit unit."""
    table = bench.new_table()
    bench.context("A", table, levels=3)
    bench.map(table, 0x5000, P0, levels=3)
    bench.turn_on()
    bench.write("A", 1 << 39 | 0x5010)


# Tables that cannot be read.


@scenario("legacy.table.unreadable-top", "7.1.3 LCT.4", WRITE_BLOCKED, *fault(0x03))
def top_table_unreadable(bench: Bench) -> None:
    """The context entry points to a table where there is no memory: reported as LCT.4, not as LSL.1."""
    bench.context("A", NOWHERE)
    bench.turn_on()
    bench.write("A", ADDRESS + 0x10)


def _unreadable(level: int) -> None:
    @scenario(f"legacy.table.unreadable-level-{level}", "7.1.3 LSL.1", WRITE_BLOCKED, *fault(0x07))
    def _(bench: Bench) -> None:
        """An entry points to a table where there is no memory."""
        above = bench.entry(start(bench), ADDRESS, level + 1)
        bench.memory.write_u64(above, NOWHERE | R | W)
        bench.write("A", ADDRESS + 0x10)


for _level in (3, 2, 1):
    _unreadable(_level)


# Presence and permission.


def _edited(id_: str, section: str, title: str, level: int, edit: Callable[[int], int], *expect: str) -> None:
    """A scenario that changes one entry of a valid walk, then performs the accesses named in `expect`."""

    def stimulus(bench: Bench) -> None:
        where = bench.entry(start(bench), ADDRESS, level)
        bench.memory.write_u64(where, edit(bench.memory.read_u64(where)))
        for line in expect:
            if line.startswith("A "):
                (bench.read if " read " in line else bench.write)("A", int(line.split()[2], 16))

    stimulus.__doc__ = title
    scenario(id_, section, *expect)(stimulus)


for _level in (4, 3, 2, 1):
    _edited(
        f"legacy.permission.not-present-level-{_level}-write",
        "7.1.3 LGN.2",
        f"A level-{_level} entry with neither R nor W is not present: a write faults.",
        _level,
        lambda entry: entry & ~(R | W),
        WRITE_BLOCKED,
        *fault(0x05),
    )
    _edited(
        f"legacy.permission.not-present-level-{_level}-read",
        "7.1.3 LGN.3",
        f"A level-{_level} entry with neither R nor W is not present: a read faults.",
        _level,
        lambda entry: entry & ~(R | W),
        READ_BLOCKED,
        *fault(0x06, "read"),
    )
    _edited(
        f"legacy.permission.read-only-level-{_level}",
        "7.1.3 LGN.2",
        f"A level-{_level} entry without W: a write, with nothing cached, faults.",
        _level,
        lambda entry: entry & ~W,
        WRITE_BLOCKED,
        *fault(0x05),
    )
    _edited(
        f"legacy.permission.write-only-level-{_level}",
        "7.1.3 LGN.3",
        f"A level-{_level} entry without R: a read faults.",
        _level,
        lambda entry: entry & ~R,
        READ_BLOCKED,
        *fault(0x06, "read"),
    )
    _edited(
        f"legacy.permission.read-only-level-{_level}-read",
        "3.7.1",
        f"A level-{_level} entry without W still allows a read.",
        _level,
        lambda entry: entry & ~W,
        "A read 0x200c0401010 -> 0x800010",
        "FSTS 0",
    )
    _edited(
        f"legacy.permission.write-only-level-{_level}-write",
        "3.7.1",
        f"A level-{_level} entry without R still allows a write.",
        _level,
        lambda entry: entry & ~R,
        "A write 0x200c0401010 -> 0x800010",
        "FSTS 0",
    )

_edited(
    "legacy.permission.not-present-rest-ignored",
    "9.8",
    "With R=0 and W=0, all other bits of an entry are ignored, reserved ones included.",
    1,
    lambda _: ALL_ONES & ~(R | W),
    WRITE_BLOCKED,
    *fault(0x05),
)
_edited(
    "legacy.permission.ignored-bits",
    "9.8",
    "A 4 KiB page entry with every ignored bit set: 63, 61:52, 10:2.",
    1,
    lambda entry: entry | 1 << 63 | 0x3FF << 52 | 0x7FC,
    "A write 0x200c0401010 -> 0x800010",
    "FSTS 0",
)
_edited(
    "legacy.permission.ignored-bits-table",
    "9.8",
    "An entry that points to a table, with every ignored bit set: 63, 61:52, 10:8, 6:2.",
    2,
    lambda entry: entry | 1 << 63 | 0x3FF << 52 | 0x77C,
    "A write 0x200c0401010 -> 0x800010",
    "FSTS 0",
)


@scenario("legacy.permission.snoop", "9.8", "A write 0x200c0401010 -> 0x800010", "FSTS 0", setup=SNOOPING)
def snoop(bench: Bench) -> None:
    """SNP in a 4 KiB page entry of a unit with snoop control: where the page is does not change."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 1), set_=SNP)
    bench.write("A", ADDRESS + 0x10)


@scenario("legacy.permission.disjoint-levels", "3.7.1", READ_BLOCKED, *fault(0x06, "read"))
def disjoint_permissions(bench: Bench) -> None:
    """A read-only and a write-only level allow neither: the permissions of all levels are combined by AND."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 3), clear=W)
    bench.change(bench.entry(table, ADDRESS, 1), clear=R)
    bench.read("A", ADDRESS + 0x10)


@scenario(
    "legacy.permission.missing-above-reserved-below",
    "7.1.3",
    WRITE_BLOCKED,
    *fault(0x0C),
    allowed=(
        Allowed(
            "the permission may be reported at the level that lacks it (doubt D-4)",
            (WRITE_BLOCKED, *fault(0x05)),
            Policy(permission_per_level=True),
        ),
    ),
)
def missing_above_reserved_below(bench: Bench) -> None:
    """No W at level 3 and a reserved bit at level 1: two fault conditions in one walk."""
    table = start(bench)
    bench.change(bench.entry(table, ADDRESS, 3), clear=W)
    bench.change(bench.entry(table, ADDRESS, 1), set_=1 << 11)
    bench.write("A", ADDRESS + 0x10)


# Reserved bits.


def _reserved(name: str, level: int, bits: int, title: str) -> None:
    _edited(
        f"legacy.reserved.{name}",
        "7.1.3 LSL.2",
        title,
        level,
        lambda entry: entry | bits,
        WRITE_BLOCKED,
        *fault(0x0C),
    )


_reserved("snoop-without-snoop-control", 1, 1 << 11, "SNP in a 4 KiB page entry, on a unit without snoop control.")
_reserved(
    "transient-without-device-tlb", 1, 1 << 62, "TM in a 4 KiB page entry, on a unit without device-TLB support."
)
_reserved("page-beyond-host-width", 1, 1 << 48, "A page address beyond the host address width.")
_reserved("page-beyond-host-width-top", 1, 1 << 51, "A page address with bit 51, the highest possible one, set.")
_reserved("table-beyond-host-width", 2, 1 << 48, "A table address beyond the host address width.")
_reserved("snoop-in-table-2", 2, 1 << 11, "SNP in a level-2 entry that points to a table.")
_reserved("snoop-in-table-3", 3, 1 << 11, "SNP in a level-3 entry that points to a table.")
_reserved("snoop-in-table-4", 4, 1 << 11, "SNP in a level-4 entry.")
_reserved("transient-in-table", 3, 1 << 62, "TM in an entry that points to a table.")
_reserved("page-size-in-level-4", 4, 1 << 7, "PS in a level-4 entry: 512 GiB pages do not exist.")
_edited(
    "legacy.reserved.2m-low-address",
    "7.1.3 LSL.2",
    "A 2 MiB page entry whose address is not 2 MiB aligned.",
    2,
    lambda _: 0x800000 | 1 << 12 | 1 << 7 | R | W,
    WRITE_BLOCKED,
    *fault(0x0C),
)
_edited(
    "legacy.reserved.1g-low-address",
    "7.1.3 LSL.2",
    "A 1 GiB page entry whose address is not 1 GiB aligned.",
    3,
    lambda _: 1 << 29 | 1 << 7 | R | W,
    WRITE_BLOCKED,
    *fault(0x0C),
)


@scenario(
    "legacy.reserved.1g-not-offered",
    "7.1.3 LSL.2",
    "A write 0x200c0807010 -> blocked",
    *fault(0x0C, address="0x200c0807000"),
    setup=NO_1G_PAGES,
)
def page_1g_not_offered(bench: Bench) -> None:
    """PS in a level-3 entry of a unit that has pages of 4 KiB and 2 MiB only."""
    start(bench, size=3, page=0)
    bench.write("A", ADDRESS - 0x401000 + 0x807010)


_edited(
    "legacy.reserved.all-ones",
    "7.1.3 LSL.2",
    "A page entry of all ones is present, with reserved bits set.",
    1,
    lambda _: ALL_ONES,
    WRITE_BLOCKED,
    *fault(0x0C),
)


# The interrupt address range.


@scenario("legacy.interrupt-range.output", "7.1.3 LGN.4", WRITE_BLOCKED, *fault(0x0E))
def output_in_interrupt_range(bench: Bench) -> None:
    """A write to a page mapped to 0xfee01000, in the interrupt range, is blocked."""
    start(bench, page=0xFEE01000)
    bench.write("A", ADDRESS + 0x10)


@scenario("legacy.interrupt-range.output-read", "7.1.3 LGN.4", READ_BLOCKED, *fault(0x0E, "read"))
def output_in_interrupt_range_read(bench: Bench) -> None:
    """A read from a page mapped to 0xfee01000, in the interrupt range, is blocked."""
    start(bench, page=0xFEE01000)
    bench.read("A", ADDRESS + 0x10)


@scenario("legacy.interrupt-range.same-superpage", "3.14", "A write 0x200c0500010 -> blocked", "FSTS 0")
def beside_interrupt_range(bench: Bench) -> None:
    """A 2 MiB page with the interrupt range in its first half: a write to the second half does not fault."""
    start(bench, size=2, page=0xFEE00000)
    bench.write("A", ADDRESS - 0x1000 + 0x100010)


@scenario("legacy.interrupt-range.input", "3.14", "A write 0xfee01010 -> blocked", "FSTS 0")
def input_in_interrupt_range(bench: Bench) -> None:
    """A write to 0xfee01010 is an interrupt message, not DMA, even where the tables map the address."""
    table = bench.new_table()
    bench.context("A", table)
    bench.map(table, 0xFEE01000, P0)
    bench.turn_on()
    bench.write("A", 0xFEE01010)
