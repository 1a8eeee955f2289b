"""Spec 11: the registers, and enabling and disabling translation."""

from iommu.registers import CAP, CCMD, ECAP, GCMD, GSTS, IOTLB, RTADDR, VER, Granularity
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.scenario import scenario


@scenario("registers.translation.never-on", "11.4.4.1", "A write 0x800010 -> 0x800010", "FSTS 0")
def never_on(bench: Bench) -> None:
    """Before translation is enabled, DMA addresses are host addresses."""
    bench.write("A", P0 + 0x10)


@scenario(
    "registers.translation.off-again",
    "11.4.4.1",
    "A write 0x800010 -> blocked",
    "fault 0x01 A 0x800000 write",
    "FSTS PPF",
    "A write 0x800010 -> 0x800010",
    "FSTS 0",
)
def off_again(bench: Bench) -> None:
    """After translation is disabled, a request that was blocked goes through."""
    bench.turn_on()
    bench.write("A", P0 + 0x10)
    bench.note_faults()
    bench.driver.clear_faults()
    bench.driver.disable()
    bench.write("A", P0 + 0x10)


@scenario(
    "registers.gsts.follows-gcmd",
    "11.4.4.2",
    "GSTS 0",
    "GSTS RTPS",
    "GSTS TES RTPS",
    "GSTS RTPS",
    "FSTS 0",
)
def gsts_follows_gcmd(bench: Bench) -> None:
    """RTPS is set once the root table is latched, and stays; TES follows GCMD.TE."""
    bench.note_bits(GSTS)
    bench.driver.set_root_table(bench.root)
    bench.note_bits(GSTS)
    bench.driver.enable()
    bench.note_bits(GSTS)
    bench.driver.disable()
    bench.note_bits(GSTS)


@scenario("registers.gcmd.reads-zero", "11.4.4.1", "GCMD 0x0", "FSTS 0")
def gcmd_reads_zero(bench: Bench) -> None:
    """GCMD is write-only and reads as 0; the state is in GSTS."""
    bench.turn_on()
    bench.note_register(GCMD)


@scenario(
    "registers.read-only",
    "11.4.1",
    "VER unchanged",
    "CAP unchanged",
    "ECAP unchanged",
    "GSTS unchanged",
    "FSTS 0",
)
def read_only(bench: Bench) -> None:
    """Writing a read-only register changes nothing."""
    for layout in (VER, CAP, ECAP, GSTS):
        size = layout.bits // 8
        before = bench.platform.read_register(layout.offset, size)
        bench.platform.write_register(layout.offset, ~before & (1 << layout.bits) - 1, size)
        same = bench.platform.read_register(layout.offset, size) == before
        bench.note(f"{layout.__name__} {'unchanged' if same else 'changed'}")


@scenario("registers.rtaddr.halves", "11.2", "A write 0x5010 -> 0x800010", "FSTS 0")
def rtaddr_in_halves(bench: Bench) -> None:
    """A 64-bit register can be written as two 32-bit halves."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table)
    bench.driver.set_root_table(0x55555000)
    bench.platform.write_register(RTADDR.offset + 4, 0, 4)
    bench.platform.write_register(RTADDR.offset, bench.root, 4)
    bench.platform.write_register(GCMD.offset, GCMD.make(SRTP=1), 4)
    bench.driver.invalidate_everything()
    bench.driver.enable()
    bench.write("A", 0x5010)


@scenario(
    "registers.rtaddr.waits-for-srtp",
    "11.4.5",
    "A write 0x5010 -> 0x800010",
    "FSTS 0",
)
def rtaddr_waits_for_srtp(bench: Bench) -> None:
    """A new RTADDR has no effect until GCMD.SRTP latches it."""
    bench.start()
    bench.platform.write_register(RTADDR.offset, bench.new_table(), 8)
    bench.driver.invalidate_everything()
    bench.write("A", 0x5010)


@scenario(
    "registers.rtaddr.replaced-while-on",
    "6.6",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> 0x801010",
    "FSTS 0",
)
def rtaddr_replaced_while_on(bench: Bench) -> None:
    """A new root table is used once it is latched and both caches are invalidated globally."""
    first, second = bench.new_table(), bench.new_table()
    bench.map(first, 0x5000, P0)
    bench.map(second, 0x5000, P1)
    bench.context("A", first)
    bench.turn_on()
    bench.write("A", 0x5010)
    old_root, bench.root = bench.root, bench.new_table()
    bench.memory.write(bench.root, bench.memory.read(old_root, 16))
    bench.context("A", second)
    bench.driver.set_root_table(bench.root)
    bench.driver.invalidate_everything()
    bench.write("A", 0x5010)


@scenario(
    "registers.iotlb.halves",
    "11.2",
    "A write 0x5010 -> 0x800010",
    "IAIG GLOBAL",
    "A write 0x5010 -> 0x801010",
    "FSTS 0",
)
def iotlb_in_halves(bench: Bench) -> None:
    """An invalidation starts when the half that holds IVT is written."""
    where = bench.start()
    bench.write("A", 0x5010)
    bench.change(where, clear=P0, set_=P1)
    offset = bench.driver.capabilities.iotlb_offset + 8
    command = IOTLB.make(IVT=1, IIRG=Granularity.GLOBAL)
    bench.platform.write_register(offset, command & 0xFFFFFFFF, 4)
    bench.platform.write_register(offset + 4, command >> 32, 4)
    performed = IOTLB.IAIG.get(bench.platform.read_register(offset, 8))
    bench.note(f"IAIG {Granularity(performed).name}")
    bench.write("A", 0x5010)


@scenario("registers.ccmd.reserved-granularity", "11.4.6.1", "performed NONE", "FSTS 0")
def ccmd_reserved_granularity(bench: Bench) -> None:
    """CIRG 00 is reserved: the command completes, and CAIG reports that nothing was invalidated."""
    bench.note_granularity(bench.driver.invalidate_contexts(Granularity.NONE))


@scenario("registers.iotlb.reserved-granularity", "11.4.6.3", "performed NONE", "FSTS 0")
def iotlb_reserved_granularity(bench: Bench) -> None:
    """IIRG 00 is reserved: the command completes, and IAIG reports that nothing was invalidated."""
    bench.note_granularity(bench.driver.invalidate_translations(Granularity.NONE))


@scenario("registers.ccmd.completes", "11.4.6.1", "ICC 0", "CAIG GLOBAL", "FSTS 0")
def ccmd_completes(bench: Bench) -> None:
    """When the invalidation is complete, ICC reads as 0 and CAIG reports the granularity performed."""
    bench.driver.invalidate_contexts()
    value = CCMD(bench.platform.read_register(CCMD.offset, 8))
    bench.note(f"ICC {value.ICC}")
    bench.note(f"CAIG {Granularity(value.CAIG).name}")
