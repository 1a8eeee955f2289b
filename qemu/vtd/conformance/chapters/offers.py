"""Spec 11.4.2, 11.4.3: units that offer more or less than usual: caching mode, device-TLBs, interrupt remapping."""

from __future__ import annotations

from collections.abc import Callable

from iommu import Policy
from iommu.registers import CAP, ECAP, GCMD, GSTS, IRTA, Granularity
from iommu.structures import ContextEntry, DescriptorType, SecondStageEntry, TranslationType
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.chapters.queue_fields import is_refused
from qemu.vtd.conformance.chapters.reserved import try_each
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import CACHING, DEVICE_TLB, NO_REMAPPING, SNOOPING, WIDE, Setup

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
DOMAIN, SELECTIVE = Granularity.DOMAIN, Granularity.SELECTIVE
TO_P0, BLOCKED = "A write 0x5010 -> 0x800010", "A write 0x5010 -> blocked"


# The capability registers say what is offered.


def _says(name: str, title: str, setup: Setup, *expect: str) -> None:
    def stimulus(bench: Bench) -> None:
        cap = CAP(bench.platform.read_register(CAP.offset, 8))
        ecap = ECAP(bench.platform.read_register(ECAP.offset, 8))
        bench.note(f"CAP CM {cap.CM}")
        bench.note(f"ECAP QI {ecap.QI} DT {ecap.DT} IR {ecap.IR} SC {ecap.SC} MHMV {ecap.MHMV}")

    stimulus.__doc__ = title
    scenario(f"setup.says.{name}", "11.4.2, 11.4.3", *expect, "FSTS 0", setup=setup)(stimulus)


_says("usual", "A unit without extras.", WIDE, "CAP CM 0", "ECAP QI 1 DT 0 IR 1 SC 0 MHMV 15")
_says("caching", "Caching mode is offered.", CACHING, "CAP CM 1", "ECAP QI 1 DT 0 IR 1 SC 0 MHMV 15")
_says("device-tlb", "Device-TLBs are offered.", DEVICE_TLB, "CAP CM 0", "ECAP QI 1 DT 1 IR 1 SC 0 MHMV 15")
_says("snooping", "Snoop control is offered.", SNOOPING, "CAP CM 0", "ECAP QI 1 DT 0 IR 1 SC 1 MHMV 15")
_says(
    "no-remapping", "Interrupt remapping is not offered.", NO_REMAPPING, "CAP CM 0", "ECAP QI 1 DT 0 IR 0 SC 0 MHMV 0"
)


@scenario("setup.says.no-protected-memory", "11.4.2", "PLMR 0 PHMR 0 AFL 0 RWBF 0", "FSTS 0")
def no_protected_memory(bench: Bench) -> None:
    """No unit here has protected memory regions, the advanced fault log or a write buffer."""
    cap = CAP(bench.platform.read_register(CAP.offset, 8))
    bench.note(f"PLMR {cap.PLMR} PHMR {cap.PHMR} AFL {cap.AFL} RWBF {cap.RWBF}")


# Caching mode (6.1): what is not present or faulty may be cached, until it is invalidated.

UNCACHED = "a unit with caching mode may cache what is not present, and need not (6.1)"
Fix = Callable[[Bench], None]


def _caching(name: str, title: str, reason: int, broken: Callable[[Bench, int], Fix], invalidate: Fix) -> None:
    """A faults; the entry is repaired; A tries again without an invalidation, and once more after it."""
    before = (BLOCKED, f"fault {reason:#04x} A 0x5000 write", "FSTS PPF")

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.context("A", table)
        repair = broken(bench, table)
        bench.turn_on()
        bench.write("A", 0x5010)
        bench.note_faults()
        bench.driver.clear_faults()
        repair(bench)
        bench.write("A", 0x5010)
        bench.note_faults()
        bench.driver.clear_faults()
        invalidate(bench)
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    allowed = Allowed(UNCACHED, (*before, TO_P0, "FSTS 0", TO_P0, "FSTS 0"), Policy(cache_faulting=False))
    expect = (*before, *before, TO_P0, "FSTS 0")
    scenario(f"setup.caching.{name}", "6.1", *expect, allowed=(allowed,), setup=CACHING)(stimulus)


def _page(bench: Bench) -> None:
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=0x5000)


def _device(bench: Bench) -> None:
    bench.driver.invalidate_contexts(SELECTIVE, domain_id=0, source_id=0x20)
    bench.driver.invalidate_translations(DOMAIN, domain_id=1)


def _everything(bench: Bench) -> None:
    bench.driver.invalidate_everything()


def _paging(level: int, edit: Callable[[int], int]) -> Callable[[Bench, int], Fix]:
    """An entry of one level is changed; the repair restores it."""

    def broken(bench: Bench, table: int) -> Fix:
        where = bench.entry(table, 0x5000, level)
        good = bench.memory.read_u64(where)
        bench.memory.write_u64(where, edit(good))
        return lambda bench: bench.memory.write_u64(where, good)

    return broken


def _absent_context(bench: Bench, table: int) -> Fix:
    bench.write_context("A", 0)
    return lambda bench: bench.context("A", table)


def _faulty_context(bench: Bench, table: int) -> Fix:
    bench.context("A", table, also=1 << 4)
    return lambda bench: bench.context("A", table)


def _absent_root(bench: Bench, table: int) -> Fix:
    entry = int.from_bytes(bench.memory.read(bench.root, 16), "little")
    bench.write_root(0, 0)
    return lambda bench: bench.write_root(0, entry)


for _level in (4, 3, 2, 1):
    _caching(
        f"absent-level-{_level}",
        f"An entry of level {_level} becomes present: seen at the latest after an invalidation of the page.",
        0x05,
        _paging(_level, lambda entry: 0),
        _page,
    )
_caching(
    "reserved-bit",
    "A reserved bit of a page entry is cleared: seen at the latest after an invalidation of the page.",
    0x0C,
    _paging(1, lambda entry: entry | 1 << 51),
    _page,
)
_caching(
    "absent-context",
    "A context entry becomes present: seen after an invalidation of the device with domain-id 0.",
    0x02,
    _absent_context,
    _device,
)
_caching(
    "faulty-context",
    "A reserved bit of a context entry is cleared: seen at the latest after a global invalidation.",
    0x0B,
    _faulty_context,
    _everything,
)
_caching(
    "absent-root",
    "A root entry becomes present: seen at the latest after a global invalidation.",
    0x01,
    _absent_root,
    _everything,
)


@scenario("setup.caching.present-as-usual", "6.1", TO_P0, "A write 0x5010 -> 0x801010", "FSTS 0", setup=CACHING)
def present_as_usual(bench: Bench) -> None:
    """With caching mode, a page that is moved is seen after an invalidation of it, as without."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.change(entry, set_=0x1000)
    _page(bench)
    bench.write("A", 0x5010)


# Device-TLBs (4.2): translation type 01, and descriptors for devices.


@scenario(
    "setup.device-tlb.type-11", "7.1.3 LCT.4", BLOCKED, "fault 0x03 A 0x5000 write", "FSTS PPF", setup=DEVICE_TLB
)
def type_11(bench: Bench) -> None:
    """Translation type 11 stays reserved."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.write_context("A", ContextEntry.make(P=1, TT=3, AW=2, DID=1, SSPTPTR=table))
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario(
    "setup.device-tlb.type-01-pointer",
    "7.1.3 LCT.3",
    BLOCKED,
    "fault 0x0b A 0x5000 write",
    "FSTS PPF",
    setup=DEVICE_TLB,
)
def type_01_pointer(bench: Bench) -> None:
    """With translation type 01 a table pointer beyond the host address width is reserved."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table, type_=TranslationType.WITH_DEVICE_TLB, also=1 << 48)
    bench.turn_on()
    bench.write("A", 0x5010)


def _transient(level: int, page: int, host: str) -> None:
    withdrawn = "TM was withdrawn: from revision 3.2 on bit 62 is reserved (9.8)"
    lines = "no bit -> {0}", "bits {1:#x} -> {2}", "FSTS 0"

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.map(table, 0xC080_1010, page, size=level)
        bench.context("A", table)
        bench.turn_on()
        entry = bench.memory.read_u64(where)
        try_each(bench, 1 << 62, lambda bits: bench.memory.write_u64(where, entry | bits))

    stimulus.__doc__ = f"TM, bit 62, of a page entry of level {level} on a unit with device-TLBs."
    expect = [line.format(host, 1 << 62, host) for line in lines]
    reserved = tuple(line.format(host, 1 << 62, "fault 0x0c") for line in lines)
    id_ = f"setup.device-tlb.transient-level-{level}"
    scenario(id_, "9.8", *expect, allowed=(Allowed(withdrawn, reserved),), setup=DEVICE_TLB)(stimulus)


_transient(1, P0, "0x800010")
_transient(2, 0x80_0000, "0x801010")
_transient(3, 0, "0x801010")


@scenario(
    "setup.device-tlb.transient-in-table",
    "7.1.3 LSL.2",
    "no bit -> 0x800010",
    f"bits {1 << 62:#x} -> fault 0x0c",
    "FSTS 0",
    setup=DEVICE_TLB,
)
def transient_in_table(bench: Bench) -> None:
    """Bit 62 of an entry that points to a table is reserved with device-TLBs too."""
    table = bench.new_table()
    bench.map(table, 0xC080_1010, P0)
    bench.context("A", table)
    bench.turn_on()
    where = bench.entry(table, 0xC080_1010, 2)
    entry = bench.memory.read_u64(where)
    try_each(bench, 1 << 62, lambda bits: bench.memory.write_u64(where, entry | bits))


# Without interrupt remapping.


@scenario("setup.no-remapping.commands", "11.4.4.1", "GSTS 0x0", "GSTS 0x0", "FSTS 0", setup=NO_REMAPPING)
def no_remapping_commands(bench: Bench) -> None:
    """Without interrupt remapping, SIRTP and IRE are reserved and have no effect."""
    for command in (GCMD.SIRTP.mask, GCMD.IRE.mask):
        bench.platform.write_register(GCMD.offset, command, 4)
        bench.note(f"GSTS {bench.platform.read_register(GSTS.offset, 4):#x}")


@scenario("setup.no-remapping.table", "11.4.10", "IRTA 0x0", "FSTS 0", setup=NO_REMAPPING)
def no_remapping_table(bench: Bench) -> None:
    """Without interrupt remapping, there is no IRTA."""
    bench.platform.write_register(IRTA.offset, 0x10_000F, 8)
    bench.note_register(IRTA)


@scenario("setup.no-remapping.descriptor", "6.5.2.7", "refused: yes", "FSTS 0", setup=NO_REMAPPING)
def no_remapping_descriptor(bench: Bench) -> None:
    """Without interrupt remapping, an interrupt-entry invalidation descriptor is refused."""
    queue.start(bench)
    bench.note(f"refused: {'yes' if is_refused(bench, DescriptorType.INTERRUPT) else 'no'}")


@scenario(
    "setup.no-remapping.interrupt",
    "5.1.2",
    "A interrupt 0xfee01000 0x41 -> 0xfee01000 0x41",
    "FSTS 0",
    setup=NO_REMAPPING,
)
def no_remapping_interrupt(bench: Bench) -> None:
    """Without interrupt remapping, an interrupt request passes unchanged."""
    bench.interrupt("A", 0xFEE0_1000, 0x41)


@scenario("setup.no-remapping.translation", "3.4", TO_P0, "FSTS 0", setup=NO_REMAPPING)
def no_remapping_translation(bench: Bench) -> None:
    """Without interrupt remapping, translation works as ever."""
    bench.start()
    bench.write("A", 0x5010)


# Snoop control.


@scenario(
    "setup.snooping.all-levels",
    "9.8",
    *(
        f"A write {address:#x} -> {host}"
        for address, host in ((0x4080_1000, "0x801000"), (0x8020_1000, "0x801000"), (0x5000, "0x800000"))
    ),
    "FSTS 0",
    setup=SNOOPING,
)
def snooping_all_levels(bench: Bench) -> None:
    """With snoop control, SNP may be set in pages of 4 KiB, 2 MiB and 1 GiB of one table."""
    table = bench.new_table()
    for address, page, size in ((0x5000, P0, 1), (0x8020_0000, 0x80_0000, 2)):
        bench.change(bench.map(table, address, page, size=size), set_=1 << 11)
    bench.change(bench.map(table, 0x4000_0000, 0, size=3), set_=1 << 11)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x4080_1000)
    bench.write("A", 0x8020_1000)
    bench.write("A", 0x5000)
