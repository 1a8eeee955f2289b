"""Chapters 4 and 6.5.2.5: invalidations for device-TLBs, on units with and without them.

No device of the platform has a device-TLB: an invalidation for one of them is never answered.
"""

from iommu.registers import IQERCD, IQH
from iommu.structures import DescriptorType, DeviceTlbDescriptor, TranslationType
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.queue import DATA, start, status, wait
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import DEVICE_TLB
from qemu.vtd.platform import DEVICES

EVERYTHING = 0x7FFF_FFFF_FFFF_F000


def device_tlb(**fields: int) -> int:
    """A device-TLB invalidation descriptor."""
    return DeviceTlbDescriptor.make(TYPE=DescriptorType.DEVICE_TLB, **fields)


@scenario("device-tlb.unsupported", "6.5.2.5", "IQH 0x0", "FSTS IQE")
def unsupported(bench: Bench) -> None:
    """A unit without device-TLB support refuses a device-TLB invalidation."""
    start(bench)
    bench.driver.submit(device_tlb(SID=DEVICES["A"]), wait(SW=1))
    bench.note_register(IQH)


@scenario("device-tlb.no-answer", "6.5.2.10", "status 0x0", "FSTS ITE", setup=DEVICE_TLB)
def no_answer(bench: Bench) -> None:
    """A device that does not answer an invalidation sets ITE, and the wait for it is dropped."""
    start(bench)
    bench.driver.submit(device_tlb(SID=DEVICES["A"]), wait(SW=1))
    status(bench)


@scenario("device-tlb.no-answer.everything", "6.5.2.10", "status 0x0", "FSTS ITE", setup=DEVICE_TLB)
def no_answer_everything(bench: Bench) -> None:
    """An invalidation of a whole device-TLB that is not answered sets ITE too."""
    start(bench)
    bench.driver.submit(device_tlb(SID=DEVICES["A"], ADDR=EVERYTHING, S=1), wait(SW=1))
    status(bench)


@scenario("device-tlb.no-answer.source", "11.4.9.9", "IQERCD 0x2000000000", "FSTS ITE", setup=DEVICE_TLB)
def no_answer_source(bench: Bench) -> None:
    """IQERCD.ITESID names the device that does not answer."""
    start(bench)
    bench.driver.submit(device_tlb(SID=DEVICES["A"]), wait(SW=1))
    bench.note_register(IQERCD)


@scenario("device-tlb.no-answer.after-a-wait", "6.5.2.10", f"status {DATA:#x}", "FSTS ITE", setup=DEVICE_TLB)
def no_answer_after_a_wait(bench: Bench) -> None:
    """A wait before the invalidation that is not answered completes."""
    start(bench)
    bench.driver.submit(wait(SW=1), device_tlb(SID=DEVICES["A"]))
    status(bench)


@scenario("device-tlb.no-answer.and-an-error", "6.5.2.10", "FSTS ITE IQE", setup=DEVICE_TLB)
def no_answer_and_an_error(bench: Bench) -> None:
    """An error in a later descriptor sets IQE as well."""
    start(bench)
    bench.driver.submit(device_tlb(SID=DEVICES["A"]), 0)


def _reserved(bit: int) -> None:
    """A descriptor with one reserved bit set."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.driver.submit(wait(SW=1), device_tlb(SID=DEVICES["A"]) | 1 << bit)
        bench.note_register(IQH)

    stimulus.__doc__ = f"A device-TLB invalidation with reserved bit {bit} is refused."
    scenario(f"device-tlb.reserved.bit-{bit}", "6.5.2.5", "IQH 0x10", "FSTS IQE", setup=DEVICE_TLB)(stimulus)


# MIP is at 20:16 and SID at 47:32; PFSID is reserved on a unit without ECAP.DIT.
for _bit in (*range(4, 9), *range(12, 16), *range(21, 32), *range(48, 64), *range(65, 76)):
    _reserved(_bit)


@scenario("device-tlb.context-entry", "9.3 TT", "A write 0x5010 -> 0x800010", "FSTS 0", setup=DEVICE_TLB)
def context_entry(bench: Bench) -> None:
    """With device-TLB support, translation type 01 translates requests without a device-TLB as type 00 does."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table, type_=TranslationType.WITH_DEVICE_TLB)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario(
    "device-tlb.context-entry.not-mapped",
    "7.1.3 LGN.2",
    "A write 0x6010 -> blocked",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
    setup=DEVICE_TLB,
)
def context_entry_not_mapped(bench: Bench) -> None:
    """With translation type 01 an address that is not mapped faults."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table, type_=TranslationType.WITH_DEVICE_TLB)
    bench.turn_on()
    bench.write("A", 0x6010)
