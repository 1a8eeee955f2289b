"""Chapter 11.4: a reset in the middle of work, and a migration to another machine, which the work must not notice.

VT-d does not know migration. What is demanded of it is what a driver relies on: registers and memory are the same
afterwards. Caches may be lost, as they may at any time (6.2).
"""

from collections.abc import Callable
from dataclasses import replace

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
from iommu.structures import ContextEntry, TranslationType
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import interrupts, messages, queue
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import WIDE
from qemu.vtd.conformance.topologies import READER

MIGRATABLE = replace(WIDE, name="48-bit, one device", topology=READER)

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
    bench.platform.write_register(IEADDR.offset, queue.ADDRESS, 4)
    bench.platform.write_register(IEDATA.offset, queue.VECTOR, 4)
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


# Reset (11.4: the column of reset values; a system reset of a virtual machine is a power cycle).


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
    offset = bench.driver.capabilities.fault_record_offset
    bench.note(f"F {FRCD.F.get(bench.platform.read_register(offset + 8, 8) << 64)}")
    bench.platform.restart()
    bench.note(f"F {FRCD.F.get(bench.platform.read_register(offset + 8, 8) << 64)}")


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
    bench.note(_status(bench))
    bench.platform.restart()
    bench.note(_status(bench))
    bench.turn_on()
    bench.write("A", 0x6000)


def _status(bench: Bench) -> str:
    names = [name for name in ("PPF", "PFO") if FSTS.fields[name].get(bench.driver.status())]
    return f"FSTS {' '.join(names) or '0'}"


# Migration.


def _migrated(id_: str, title: str, *expect: str) -> Callable[[Callable[[Bench], None]], None]:
    """A scenario with one migration."""

    def add(stimulus: Callable[[Bench], None]) -> None:
        stimulus.__doc__ = title
        scenario(f"migration.{id_}", "11.4", *expect, setup=MIGRATABLE)(stimulus)

    return add


@_migrated("registers", "Every register is the same afterwards.", BLOCKED, *ON, *ON, RECORDED, "FSTS PPF")
def _registers(bench: Bench) -> None:
    everything(bench)
    note_registers(bench)
    bench.platform.migrate()
    note_registers(bench)


@_migrated(
    "dma",
    "DMA is translated by the same tables.",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x800000",
    BLOCKED,
    RECORDED,
    "FSTS PPF",
)
def _dma(bench: Bench) -> None:
    bench.start(P0)
    bench.write("A", 0x5000)
    bench.platform.migrate()
    bench.write("A", 0x5000)
    bench.write("A", 0x6000)


@_migrated("read", "A device reads by the same tables.", "A read 0x5000 -> 0x800000", "FSTS 0")
def _read(bench: Bench) -> None:
    bench.start(P0)
    bench.platform.migrate()
    bench.read("A", 0x5000)


@_migrated("off", "Without translation DMA stays untranslated.", "A write 0x800000 -> 0x800000", "GSTS 0x0", "FSTS 0")
def _off(bench: Bench) -> None:
    bench.platform.migrate()
    bench.write("A", P0)
    bench.note_register(GSTS)


@_migrated(
    "pass-through",
    "A device in pass-through stays so, and its tables are not used.",
    "A write 0x801000 -> 0x801000",
    "A write 0x801000 -> 0x801000",
    "FSTS 0",
)
def _pass_through(bench: Bench) -> None:
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("A", P1)
    bench.platform.migrate()
    bench.write("A", P1)


@_migrated(
    "caches",
    "A page that was cached, then changed: caches do not travel.",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x801000",
    "FSTS 0",
)
def _caches(bench: Bench) -> None:
    where = bench.start(P0)
    bench.write("A", 0x5000)
    bench.change(where, set_=P1, clear=P0)
    bench.platform.migrate()
    bench.write("A", 0x5000)


@_migrated(
    "contexts",
    "A context entry that was cached, then cleared: caches do not travel.",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> blocked",
    "fault 0x02 A 0x5000 write",
    "FSTS PPF",
)
def _contexts(bench: Bench) -> None:
    bench.start(P0)
    bench.write("A", 0x5000)
    bench.write_context("A", ContextEntry.make(P=0))
    bench.platform.migrate()
    bench.write("A", 0x5000)


@_migrated(
    "record",
    "A pending fault keeps the record; cleared, the next one is recorded.",
    BLOCKED,
    RECORDED,
    "A write 0x7000 -> blocked",
    "fault 0x05 A 0x7000 write",
    "FSTS PPF",
)
def _record(bench: Bench) -> None:
    bench.start(P0)
    bench.write("A", 0x6000)
    bench.platform.migrate()
    bench.take_faults()
    bench.write("A", 0x7000)


@_migrated(
    "event",
    "A fault event that is held back is sent when it is unmasked.",
    BLOCKED,
    messages.MESSAGE,
    "FECTL 0x0",
    RECORDED,
    "FSTS PPF",
)
def _event(bench: Bench) -> None:
    messages.start(bench, masked=True)
    bench.write("A", 0x6000)
    bench.platform.migrate()
    messages.mask_event(bench, False)
    bench.note_messages()
    bench.note_register(FECTL)


@_migrated("unmasked-event", "A fault afterwards sends the message.", BLOCKED, messages.MESSAGE, RECORDED, "FSTS PPF")
def _unmasked_event(bench: Bench) -> None:
    messages.start(bench, masked=False)
    bench.platform.migrate()
    bench.write("A", 0x6000)
    bench.note_messages()


@_migrated(
    "queue",
    "The queue goes on where it was.",
    f"status {queue.DATA:#x}",
    "IQH 0x10",
    f"status {queue.DATA:#x}",
    "IQH 0x20",
    "IQT 0x20",
    "FSTS 0",
)
def _queue(bench: Bench) -> None:
    queue.start(bench)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)
    bench.note_register(IQH)
    bench.platform.migrate()
    bench.memory.write_u64(queue.STATUS, 0)
    bench.driver.submit(queue.wait(SW=1))
    queue.status(bench)
    bench.note_register(IQH)
    bench.note_register(IQT)


@_migrated(
    "queue-invalidates",
    "An invalidation by the queue takes effect afterwards.",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x801000",
    "FSTS 0",
)
def _queue_invalidates(bench: Bench) -> None:
    where = bench.start(P0)
    queue.start(bench)
    bench.platform.migrate()
    bench.write("A", 0x5000)
    bench.change(where, set_=P1, clear=P0)
    bench.driver.submit(queue.iotlb(queue.GLOBAL), queue.wait(SW=1))
    bench.write("A", 0x5000)


@_migrated("queue-stopped", "The queue can be turned off afterwards.", "GSTS 0x4000000", "GSTS 0x0", "FSTS 0")
def _queue_stopped(bench: Bench) -> None:
    queue.start(bench)
    bench.driver.submit(queue.wait(SW=1))
    bench.platform.migrate()
    bench.note_register(GSTS)
    bench.driver.stop_queue()
    bench.note_register(GSTS)


@_migrated(
    "queue-error",
    "A queue error stays; cleared and mended, the queue goes on.",
    "FSTS 0x10",
    "IQH 0x0",
    f"status {queue.DATA:#x}",
    "FSTS 0",
)
def _queue_error(bench: Bench) -> None:
    queue.start(bench)
    bench.driver.submit(0)
    bench.platform.migrate()
    bench.note_register(FSTS)
    bench.note_register(IQH)
    bench.memory.write(queue.QUEUE, queue.wait(SW=1).to_bytes(16, "little"))
    bench.platform.write_register(FSTS.offset, FSTS.IQE.mask, 4)
    bench.platform.write_register(IQT.offset, 0x10, 8)
    queue.status(bench)


@_migrated(
    "completion-event",
    "A completion event that is held back is sent when it is unmasked.",
    queue.MESSAGE,
    "IECTL 0x0",
    "ICS 0x1",
    "FSTS 0",
)
def _completion_event(bench: Bench) -> None:
    queue.start(bench)
    bench.platform.write_register(IEADDR.offset, queue.ADDRESS, 4)
    bench.platform.write_register(IEDATA.offset, queue.VECTOR, 4)
    bench.driver.submit(queue.wait(IF=1))
    bench.platform.migrate()
    bench.platform.write_register(IECTL.offset, 0, 4)
    bench.note_messages()
    bench.note_register(IECTL)
    bench.note_register(ICS)


@_migrated(
    "interrupts",
    "Interrupts are remapped by the same table, of the same size.",
    interrupts.sent(1, interrupts.GOOD),
    interrupts.sent(1, interrupts.GOOD),
    interrupts.sent(256, "blocked"),
    "fault 0x21 A index 256",
    "FSTS PPF",
)
def _interrupts(bench: Bench) -> None:
    interrupts.start(bench)
    interrupts.put(bench, 1, interrupts.entry())
    bench.interrupt("A", interrupts.address(1))
    bench.platform.migrate()
    bench.interrupt("A", interrupts.address(1))
    bench.interrupt("A", interrupts.address(256))


@_migrated(
    "twice",
    "Two migrations in a row.",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x800000",
    "FSTS 0",
)
def _twice(bench: Bench) -> None:
    bench.start(P0)
    for _ in range(2):
        bench.write("A", 0x5000)
        bench.platform.migrate()
    bench.write("A", 0x5000)


@_migrated(
    "then-reset",
    "A reset after a migration.",
    "GSTS 0x0",
    "A write 0x800000 -> 0x800000",
    "FSTS 0",
)
def _then_reset(bench: Bench) -> None:
    bench.start(P0)
    bench.platform.migrate()
    bench.platform.restart()
    bench.note_register(GSTS)
    bench.write("A", P0)
