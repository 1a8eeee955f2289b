"""Spec 3.4.2: legacy mode on a unit that offers scalable mode too. Nothing may differ from a unit that does not."""

from iommu.registers import RTADDR, TableMode
from iommu.structures import RootEntry, TranslationType
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE

WRITE_BLOCKED = "A write 0x5010 -> blocked"


def fault(code: int, kind: str = "write") -> tuple[str, str]:
    """The lines for a single fault of A at 0x5000: the record and FSTS."""
    return f"fault {code:#04x} A 0x5000 {kind}", "FSTS PPF"


@scenario(
    "legacy-on-scalable.mapped",
    "3.4.2",
    "A read 0x5010 -> 0x800010",
    "B write 0x5020 -> 0x801020",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def mapped(bench: Bench) -> None:
    """Two devices are translated through context entries of 128 bits."""
    for device, page, domain in (("A", P0, 1), ("B", P1, 2)):
        table = bench.new_table()
        bench.map(table, 0x5000, page)
        bench.context(device, table, domain=domain)
    bench.turn_on()
    bench.read("A", 0x5010)
    bench.write("B", 0x5020)


@scenario("legacy-on-scalable.pass-through", "3.9", "A write 0x801010 -> 0x801010", "FSTS 0", setup=SECOND_STAGE)
def pass_through(bench: Bench) -> None:
    """A device in pass-through."""
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("A", 0x801010)


@scenario("legacy-on-scalable.root-not-present", "7.1.3 LRT.2", WRITE_BLOCKED, *fault(0x01), setup=SECOND_STAGE)
def root_not_present(bench: Bench) -> None:
    """A root entry that is not present."""
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy-on-scalable.root-upper-half", "7.1.3 LRT.3", WRITE_BLOCKED, *fault(0x0A), setup=SECOND_STAGE)
def root_upper_half(bench: Bench) -> None:
    """The upper half of a root entry is reserved, although it is a pointer in scalable mode."""
    table = bench.new_table()
    bench.write_root(0, RootEntry.make(P=1, CTP=table) | (table | 1) << 64)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy-on-scalable.context-not-present", "7.1.3 LCT.2", WRITE_BLOCKED, *fault(0x02), setup=SECOND_STAGE)
def context_not_present(bench: Bench) -> None:
    """A context entry that is not present."""
    bench.write_context("A", 0)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy-on-scalable.write-permission", "7.1.3 LGN.2", WRITE_BLOCKED, *fault(0x05), setup=SECOND_STAGE)
def write_permission(bench: Bench) -> None:
    """A write to a page without W."""
    bench.start(w=0)
    bench.write("A", 0x5010)


@scenario("legacy-on-scalable.reserved-entry", "7.1.3 LSL.2", WRITE_BLOCKED, *fault(0x0C), setup=SECOND_STAGE)
def reserved_entry(bench: Bench) -> None:
    """A page entry with an address beyond the host address width."""
    where = bench.start()
    bench.change(where, set_=1 << 50)
    bench.driver.invalidate_translations()
    bench.write("A", 0x5010)


@scenario("legacy-on-scalable.interrupt-range", "7.1.3 LGN.4", WRITE_BLOCKED, *fault(0x0E), setup=SECOND_STAGE)
def interrupt_range(bench: Bench) -> None:
    """A page mapped into the interrupt range is blocked with the code of legacy mode."""
    bench.start(0xFEE01000)
    bench.write("A", 0x5010)


@scenario(
    "legacy-on-scalable.interrupt-range-read",
    "7.1.3 LGN.4",
    "A read 0x5010 -> blocked",
    *fault(0x0E, "read"),
    setup=SECOND_STAGE,
)
def interrupt_range_read(bench: Bench) -> None:
    """A read of a page mapped into the interrupt range likewise."""
    bench.start(0xFEE01000)
    bench.read("A", 0x5010)


@scenario(
    "legacy-on-scalable.interrupt-range-record",
    "11.4.7.6",
    "A write 0x5010 -> blocked",
    "FRCD 0x8000000e000000200000000000005000",
    *fault(0x0E),
    setup=SECOND_STAGE,
)
def interrupt_range_record(bench: Bench) -> None:
    """All 128 bits of the record of such a fault: 0 in PASID, as in any record without PP."""
    bench.start(0xFEE01000)
    bench.write("A", 0x5010)
    for recorded in bench.driver.faults():
        bench.note(f"FRCD {recorded.raw:#034x}")


@scenario(
    "legacy-on-scalable.mode-is-latched",
    "11.4.5",
    "A write 0x5010 -> 0x800010",
    "A write 0x6010 -> 0x801010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def mode_is_latched(bench: Bench) -> None:
    """Writing another mode to RTADDR has no effect until SRTP."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.map(table, 0x6000, P1)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.platform.write_register(RTADDR.offset, RTADDR.make(RTA=bench.root, TTM=TableMode.SCALABLE), 8)
    bench.driver.invalidate_everything()
    bench.write("A", 0x6010)
