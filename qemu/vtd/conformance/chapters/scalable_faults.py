"""Spec 7.1.3, 3.9, 11.4.6: what FPD suppresses in scalable mode, records, pass-through, and table modes."""

from collections.abc import Callable

from iommu.registers import Granularity, TableMode
from iommu.structures import ContextDescriptor, DescriptorType, IotlbDescriptor, ScalableContextEntry
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, Bench
from qemu.vtd.conformance.chapters.scalable_tables import ADDRESS_BITS, BLOCKED, TO_P0, fault, start
from qemu.vtd.conformance.scalable_bench import FIRST, PASS_THROUGH, SECOND
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import (
    EVERYTHING,
    FIRST_STAGE,
    SECOND_STAGE,
    SECOND_STAGE_39,
    SECOND_STAGE_NO_PASS_THROUGH,
    WIDE,
    Setup,
)

P, FPD = 1 << 0, 1 << 1
CONTEXT, DIRECTORY, ENTRY = "context", "directory", "entry"

Damage = Callable[[Bench, int], None]
"""Changes A's tables so that a request is blocked. The address is that of the second stage's page entry."""


def _places(bench: Bench) -> dict[str, int]:
    tables = bench.scalable
    return {CONTEXT: tables.context_at("A"), DIRECTORY: tables.directory_at("A"), ENTRY: tables.entry_at("A")}


def _change(place: str, *, clear: int = 0, set_: int = 0, quadword: int = 0) -> Damage:
    def damage(bench: Bench, _leaf: int) -> None:
        bench.change(_places(bench)[place] + 8 * quadword, clear=clear, set_=set_)

    return damage


def _leaf(entry: int) -> Damage:
    def damage(bench: Bench, leaf: int) -> None:
        bench.memory.write_u64(leaf, entry)

    return damage


# Each qualified fault by its code: what causes it, and the structures whose FPD has been read by then (2.3).
QUALIFIED: dict[int, tuple[str, Damage, tuple[str, ...]]] = {
    0x41: ("context entry not present", _change(CONTEXT, clear=P), (CONTEXT,)),
    0x42: ("reserved bit in the context entry", _change(CONTEXT, set_=1, quadword=3), (CONTEXT,)),
    0x51: ("directory entry not present", _change(DIRECTORY, clear=P), (CONTEXT, DIRECTORY)),
    0x52: ("reserved bit in the directory entry", _change(DIRECTORY, set_=1 << 8), (CONTEXT, DIRECTORY)),
    0x59: ("PASID-table entry not present", _change(ENTRY, clear=P), (CONTEXT, DIRECTORY, ENTRY)),
    0x5A: (
        "reserved bit in the PASID-table entry",
        _change(ENTRY, set_=1, quadword=7),
        (CONTEXT, DIRECTORY, ENTRY),
    ),
    0x5B: ("type not supported", _change(ENTRY, set_=7 << 6), (CONTEXT, DIRECTORY, ENTRY)),
    0x79: ("page entry not present", _leaf(0), (CONTEXT, DIRECTORY, ENTRY)),
    0x7A: ("reserved bit in the page entry", _leaf(P0 | 3 | 1 << 50), (CONTEXT, DIRECTORY, ENTRY)),
    0x7B: (
        "top table unreadable",
        _change(ENTRY, clear=ADDRESS_BITS, set_=NOWHERE),
        (CONTEXT, DIRECTORY, ENTRY),
    ),
    0x85: ("no write permission", _leaf(P0 | 1), (CONTEXT, DIRECTORY, ENTRY)),
    0x87: ("page in the interrupt address range", _leaf(0xFEE01000 | 3), (CONTEXT, DIRECTORY, ENTRY)),
}


def _suppressed(code: int, what: str, damage: Damage, place: str) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        leaf = bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", SECOND, table)
        bench.change(_places(bench)[place], set_=FPD)
        damage(bench, leaf)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"FPD of the {place} suppresses the fault: {what}."
    scenario(f"scalable.fpd.{place}.{code:02x}", "7.1.3", BLOCKED, "FSTS 0", setup=SECOND_STAGE)(stimulus)


for _code, (_what, _damage, _deciding) in QUALIFIED.items():
    for _place in _deciding:
        _suppressed(_code, _what, _damage, _place)


def _always_recorded(code: int, what: str, damage: Damage, place: str) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.change(_places(bench)[place], set_=FPD)
        damage(bench, 0)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"FPD of the {place} does not suppress a fault that is not qualified: {what}."
    id_ = f"scalable.fpd.{place}.not-{code:02x}"
    scenario(id_, "7.1.3", BLOCKED, *fault(code), setup=SECOND_STAGE)(stimulus)


_always_recorded(0x50, "directory unreadable", _change(CONTEXT, clear=ADDRESS_BITS, set_=NOWHERE), CONTEXT)
_always_recorded(0x58, "PASID table unreadable", _change(DIRECTORY, clear=ADDRESS_BITS, set_=NOWHERE), CONTEXT)
_always_recorded(0x58, "PASID table unreadable", _change(DIRECTORY, clear=ADDRESS_BITS, set_=NOWHERE), DIRECTORY)

# The same for the first stage: FPD of the PASID-table entry, which is read last.

P1_, RW, US, A, D = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6
_FIRST_LEAF = P0 | P1_ | RW | US | A | D
_FIRST: dict[int, tuple[str, int]] = {
    0x71: ("page entry not present", 0),
    0x72: ("reserved bit in the page entry", _FIRST_LEAF | 1 << 50),
    0x81: ("supervisor page", _FIRST_LEAF & ~US),
    0x85: ("no write permission", _FIRST_LEAF & ~RW),
    0x87: ("page in the interrupt address range", 0xFEE01000 | _FIRST_LEAF & 0xFFF),
}


def _suppressed_first(code: int, what: str, leaf: int) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.scalable.map_first(table, 0x5000, P0)
        bench.scalable.entry("A", FIRST, table, fpd=1)
        bench.memory.write_u64(where, leaf)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"FPD suppresses the fault of a first stage: {what}."
    scenario(f"scalable.fpd.first-stage.{code:02x}", "7.1.3", BLOCKED, "FSTS 0", setup=FIRST_STAGE)(stimulus)


for _code, (_what, _entry_) in _FIRST.items():
    _suppressed_first(_code, _what, _entry_)


# The record (11.4.7.6).


@scenario(
    "scalable.record.tables",
    "11.4.7.6",
    "C write 0x5010 -> blocked",
    "FRCD 0x80000059000000290000000000005000",
    "fault 0x59 C 0x5000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def record_bit_by_bit(bench: Bench) -> None:
    """All 128 bits of a record: F, reason 0x59, source-id 0x29, the page, and 0 everywhere else."""
    bench.change(bench.scalable.entry("C", SECOND), clear=P)
    bench.scalable.turn_on()
    bench.write("C", 0x5010)
    for recorded in bench.driver.faults():
        bench.note(f"FRCD {recorded.raw:#034x}")


@scenario(
    "scalable.record.walk",
    "11.4.7.6",
    "C write 0x5010 -> blocked",
    "FRCD 0x80000071000000290000000000005000",
    "fault 0x71 C 0x5000 write",
    "FSTS PPF",
    setup=FIRST_STAGE,
)
def walk_record_bit_by_bit(bench: Bench) -> None:
    """All 128 bits of the record of a walk: PP is 0, although the request was translated by RID_PASID."""
    bench.scalable.entry("C", FIRST, bench.new_table())
    bench.scalable.turn_on()
    bench.write("C", 0x5010)
    for recorded in bench.driver.faults():
        bench.note(f"FRCD {recorded.raw:#034x}")


# RID_PASID (2.3).

_WIDE_DIRECTORY = 0x180000


def _rid_pasid(bench: Bench, rid_pasid: int) -> None:
    """PASID 0 maps 0x5000 to P0, and PASID `rid_pasid` to P1; RID_PASID is the latter."""
    tables = bench.scalable
    for pasid, page in ((0, P0), (rid_pasid, P1)):
        table = bench.new_table()
        bench.map(table, 0x5000, page)
        tables.entry("A", SECOND, table, pasid=pasid, domain=1 + (pasid > 0))
    tables.context("A", rid_pasid=rid_pasid)
    tables.turn_on()
    bench.write("A", 0x5010)


@scenario(
    "scalable.rid-pasid.not-offered",
    "9.4",
    BLOCKED,
    *fault(0x42),
    setup=SECOND_STAGE,
)
def rid_pasid_not_offered(bench: Bench) -> None:
    """Without ECAP.RPS, RID_PASID is reserved."""
    _rid_pasid(bench, 5)


@scenario(
    "scalable.rid-pasid.record",
    "9.4",
    "C write 0x5010 -> blocked",
    "FRCD 0x80000042000000290000000000005000",
    "fault 0x42 C 0x5000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def rid_pasid_record(bench: Bench) -> None:
    """Without ECAP.RPS, RID_PASID is reserved: here one of 17 bits, whose tables lead to nothing mapped."""
    tables, pasid = bench.scalable, 0x10001
    where = tables.context("C")
    # A directory of 2048 entries, of which the entry in use is beyond the first page.
    tables.memory.write_u64(where, ScalableContextEntry.make(P=1, PDTS=4, PASIDDIRPTR=_WIDE_DIRECTORY))
    tables.memory.write_u64(where + 8, ScalableContextEntry.make(RID_PASID=pasid) >> 64)
    for each in (0, pasid):
        tables.entry("C", SECOND, bench.new_table(), pasid=each)
    tables.turn_on()
    bench.write("C", 0x5010)
    for recorded in bench.driver.faults():
        bench.note(f"FRCD {recorded.raw:#034x}")


@scenario("scalable.rid-pasid.used", "9.4", "A write 0x5010 -> 0x801010", "FSTS 0", setup=EVERYTHING)
def rid_pasid_used(bench: Bench) -> None:
    """With ECAP.RPS, requests without PASID use RID_PASID, here in another table of the directory."""
    _rid_pasid(bench, 0x45)


@scenario(
    "scalable.rid-pasid.beyond-directory",
    "7.1.3 SCT.4",
    BLOCKED,
    *fault(0x43),
    setup=EVERYTHING,
)
def rid_pasid_beyond_directory(bench: Bench) -> None:
    """RID_PASID is the first PASID beyond a directory of 512 entries."""
    start(bench)
    bench.scalable.context("A", rid_pasid=512 * 64)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)


# Pass-through (3.9).


def _pass_through(
    name: str,
    title: str,
    address: int,
    *expect: str,
    also: int = 0,
    clear: int = 0,
    read: bool = False,
    setup: Setup = SECOND_STAGE,
) -> None:
    def stimulus(bench: Bench) -> None:
        where = bench.scalable.entry("A", PASS_THROUGH)
        bench.change(where, clear=clear, set_=also)
        bench.scalable.turn_on()
        (bench.read if read else bench.write)("A", address)

    stimulus.__doc__ = title
    scenario(f"scalable.pass-through.{name}", "3.9", *expect, setup=setup)(stimulus)


_pass_through("write", "A write in pass-through.", P0 + 0x10, "A write 0x800010 -> 0x800010", "FSTS 0")
_pass_through("read", "A read in pass-through.", P0 + 0x10, "A read 0x800010 -> 0x800010", "FSTS 0", read=True)
_pass_through(
    "width-ignored",
    "AW is not used in pass-through: 0 selects no levels of a second stage.",
    P0 + 0x10,
    *("A write 0x800010 -> 0x800010", "FSTS 0"),
    clear=7 << 2,
)
_pass_through(
    "table-ignored",
    "The second-stage pointer is not used in pass-through.",
    P0 + 0x10,
    *("A write 0x800010 -> 0x800010", "FSTS 0"),
    also=NOWHERE,
)
_pass_through(
    "first-stage-unit",
    "Pass-through on a unit with a first stage alone.",
    P0 + 0x10,
    *("A write 0x800010 -> 0x800010", "FSTS 0"),
    setup=FIRST_STAGE,
)
_pass_through(
    "beyond-host-width",
    "An address beyond the host address width.",
    1 << 48 | P0,
    *("A write 0x1000000800000 -> blocked", "fault 0x83 A 0x800000 write", "FSTS PPF"),
)
_pass_through(
    "beyond-39-bits",
    "An address beyond a host address width of 39 bits.",
    1 << 39 | P0,
    *("A write 0x8000800000 -> blocked", "fault 0x83 A 0x800000 write", "FSTS PPF"),
    setup=SECOND_STAGE_39,
)
_pass_through(
    "not-offered",
    "Pass-through on a unit without ECAP.PT.",
    P0 + 0x10,
    *("A write 0x800010 -> blocked", "fault 0x5b A 0x800000 write", "FSTS PPF"),
    setup=SECOND_STAGE_NO_PASS_THROUGH,
)


# Table modes (7.1.3 RTA.1).


def _mode(name: str, title: str, mode: int, *expect: str, setup: Setup = SECOND_STAGE) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.driver.set_root_table(bench.root, mode)
        bench.driver.enable()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    scenario(f"scalable.mode.{name}", "7.1.3 RTA.1", *expect, setup=setup)(stimulus)


_mode("scalable", "Mode 1 on a unit with scalable mode.", TableMode.SCALABLE, TO_P0, "FSTS 0")
_mode("reserved", "Mode 2, which is reserved.", 2, BLOCKED, *fault(0x30))
_mode("abort-not-offered", "Abort-DMA mode without ECAP.ADMS.", TableMode.ABORT_DMA, BLOCKED, *fault(0x30))
_mode("not-offered", "Mode 1 on a unit without scalable mode.", TableMode.SCALABLE, BLOCKED, *fault(0x30), setup=WIDE)


@scenario("scalable.mode.not-latched", "11.4.6", TO_P0, "FSTS 0", setup=SECOND_STAGE)
def mode_not_latched(bench: Bench) -> None:
    """A write of RTADDR changes nothing until SRTP."""
    start(bench)
    bench.scalable.turn_on()
    bench.driver.write_root_table(bench.root, TableMode.LEGACY)
    bench.write("A", 0x5010)


@scenario(
    "scalable.mode.to-legacy",
    "6.6",
    TO_P0,
    "A write 0x5010 -> 0x801010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def mode_to_legacy(bench: Bench) -> None:
    """From scalable to legacy mode by SRTP with another root table, and global invalidations."""
    start(bench)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.root = bench.new_table()
    table = bench.new_table()
    bench.map(table, 0x5000, P1)
    bench.context("A", table)
    bench.driver.set_root_table(bench.root, TableMode.LEGACY)
    # The descriptors of scalable mode do not exist in legacy mode.
    bench.driver.submit(
        ContextDescriptor.make(TYPE=DescriptorType.CONTEXT, G=Granularity.GLOBAL),
        IotlbDescriptor.make(TYPE=DescriptorType.IOTLB, G=Granularity.GLOBAL),
    )
    bench.write("A", 0x5010)


@scenario(
    "scalable.mode.from-legacy",
    "6.6",
    "A write 0x5010 -> 0x801010",
    TO_P0,
    "FSTS 0",
    setup=SECOND_STAGE,
)
def mode_from_legacy(bench: Bench) -> None:
    """From legacy to scalable mode by SRTP with another root table, and global invalidations."""
    table = bench.new_table()
    bench.map(table, 0x5000, P1)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.scalable.root = bench.new_table()
    start(bench)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
