"""Chapter 11.4: a reset in the middle of work. For a virtual machine a system reset is a power cycle."""

from iommu.registers import (
    FEADDR,
    FECTL,
    FEDATA,
    FRCD,
    FSTS,
    GSTS,
    ICS,
    IEADDR,
    IECTL,
    IEDATA,
    IQA,
    IQH,
    IQT,
    IRTA,
    RTADDR,
)
from iommu.structures import TranslationType
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import interrupts, messages
from qemu.vtd.conformance.scenario import scenario

REGISTERS = (GSTS, RTADDR, FSTS, FECTL, FEDATA, FEADDR, IQH, IQT, IQA, IECTL, IEDATA, IEADDR, ICS, IRTA)
"""What holds state that software has set or hardware has reported, besides the fault record."""


def note_registers(bench: Bench) -> None:
    """Log what all of them read as."""
    for layout in REGISTERS:
        bench.note_register(layout)


def everything(bench: Bench) -> None:
    """Translation, queue and interrupt remapping on, both events masked and pending, a fault recorded."""
    bench.start(P0)
    messages.program_event(bench, masked=True)
    queue.start(bench)
    queue.program_completion(bench, masked=True)
    interrupts.start(bench)
    interrupts.put(bench, 1, interrupts.entry())
    bench.driver.submit(queue.iotlb(queue.GLOBAL), queue.wait(IF=1))
    bench.write("A", 0x6000)


ON = (
    "GSTS 0xc7000000",
    "RTADDR 0x100000",
    "FSTS 0x2",
    "FECTL 0xc0000000",
    "FEDATA 0x31",
    "FEADDR 0xfee01000",
    "IQH 0x20",
    "IQT 0x20",
    "IQA 0x200000",
    "IECTL 0xc0000000",
    "IEDATA 0x42",
    "IEADDR 0xfee02000",
    "ICS 0x1",
    "IRTA 0x210007",
)
OFF = (
    "GSTS 0x0",
    "RTADDR 0x0",
    "FSTS 0x0",
    "FECTL 0x80000000",
    "FEDATA 0x0",
    "FEADDR 0x0",
    "IQH 0x0",
    "IQT 0x0",
    "IQA 0x0",
    "IECTL 0x80000000",
    "IEDATA 0x0",
    "IEADDR 0x0",
    "ICS 0x0",
    "IRTA 0x0",
)
BLOCKED = "A write 0x6000 -> blocked"
RECORDED = "fault 0x05 A 0x6000 write"


@scenario("reset.registers", "11.4", BLOCKED, *ON, *OFF, "FSTS 0")
def reset_registers(bench: Bench) -> None:
    """A reset returns every register to its reset value."""
    everything(bench)
    note_registers(bench)
    bench.platform.restart()
    note_registers(bench)


@scenario("reset.record", "11.4.7.6", BLOCKED, "F 1", "F 0", "FSTS 0")
def reset_record(bench: Bench) -> None:
    """A reset clears the fault record's F."""
    everything(bench)
    bench.note(f"F {FRCD.F.get(bench.driver.record(0))}")
    bench.platform.restart()
    bench.note(f"F {FRCD.F.get(bench.driver.record(0))}")


@scenario("reset.dma", "11.4.4", "A write 0x5000 -> 0x800000", "A write 0x801000 -> 0x801000", "FSTS 0")
def reset_dma(bench: Bench) -> None:
    """After a reset DMA is not translated."""
    bench.start(P0)
    bench.write("A", 0x5000)
    bench.platform.restart()
    bench.write("A", P1)


@scenario(
    "reset.pass-through",
    "11.4.4",
    "B write 0x800000 -> 0x800000",
    "B write 0x800000 -> blocked",
    "fault 0x01 B 0x800000 write",
    "FSTS PPF",
)
def reset_pass_through(bench: Bench) -> None:
    """A device that was passed through is not, once translation is on again with an empty root table."""
    bench.context("B", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("B", P0)
    bench.platform.restart()
    bench.root = bench.new_table()
    bench.turn_on()
    bench.write("B", P0)


@scenario(
    "reset.caches",
    "6.2",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x801000",
    "FSTS 0",
)
def reset_caches(bench: Bench) -> None:
    """A reset empties the caches: tables that changed meanwhile need no invalidation."""
    where = bench.start(P0)
    bench.write("A", 0x5000)
    bench.platform.restart()
    bench.change(where, set_=P1, clear=P0)
    bench.driver.set_root_table(bench.root)
    bench.driver.enable()
    bench.write("A", 0x5000)


@scenario(
    "reset.queue", "11.4.9", f"status {queue.DATA:#x}", "status 0x0", f"status {queue.DATA:#x}", "IQH 0x10", "FSTS 0"
)
def reset_queue(bench: Bench) -> None:
    """After a reset the queue is off and at its start; it can be turned on again."""
    queue.start(bench)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)
    bench.platform.restart()
    bench.memory.write_u64(queue.STATUS, 0)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)
    queue.start(bench)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)
    bench.note_register(IQH)


@scenario(
    "reset.queue-error",
    "11.4.9",
    "FSTS IQE",
    "FSTS 0",
    f"status {queue.DATA:#x}",
    "FSTS 0",
)
def reset_queue_error(bench: Bench) -> None:
    """A reset clears a queue error."""
    queue.start(bench)
    bench.driver.submit(0)
    bench.note_faults()
    bench.platform.restart()
    bench.note_faults()
    queue.start(bench)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)


@scenario(
    "reset.interrupts",
    "11.4.4",
    interrupts.sent(1, interrupts.GOOD),
    interrupts.sent(1, f"{interrupts.address(1):#x} 0x0"),
    interrupts.sent(1, "0xfee03000 0x4066"),
    "FSTS 0",
)
def reset_interrupts(bench: Bench) -> None:
    """After a reset interrupts are not remapped; on again, the entry is read anew."""
    interrupts.start(bench)
    interrupts.put(bench, 1, interrupts.entry())
    bench.interrupt("A", interrupts.address(1))
    bench.platform.restart()
    bench.interrupt("A", interrupts.address(1))
    interrupts.start(bench)
    interrupts.put(bench, 1, interrupts.entry(0x66))
    bench.interrupt("A", interrupts.address(1))


@scenario("reset.pending-event", "7.3", BLOCKED, "FECTL 0x0", "FSTS 0")
def reset_pending_event(bench: Bench) -> None:
    """A reset withdraws an event that was held back: unmasking sends nothing."""
    messages.start(bench, masked=True)
    bench.write("A", 0x6000)
    bench.platform.restart()
    messages.program_event(bench)
    bench.note_messages()
    bench.note_register(FECTL)


@scenario(
    "reset.overflow",
    "7.2.1",
    BLOCKED,
    "B write 0x7000 -> blocked",
    "FSTS PPF PFO",
    "FSTS 0",
    BLOCKED,
    RECORDED,
    "FSTS PPF",
)
def reset_overflow(bench: Bench) -> None:
    """A reset clears an overflow: the next fault is recorded."""
    bench.start(P0)
    bench.write("A", 0x6000)
    bench.write("B", 0x7000)
    bench.note_bits(FSTS)
    bench.platform.restart()
    bench.note_bits(FSTS)
    bench.turn_on()
    bench.write("A", 0x6000)
