"""A migration to another machine in the middle of work, which the work must not notice.

VT-d does not know migration. What is demanded of it is what a driver relies on: registers and memory are the same
afterwards. Caches may be lost, as they may at any time (6.2).
"""

from collections.abc import Callable
from dataclasses import replace

from iommu.registers import FECTL, FSTS, GSTS, ICS, IECTL, IQH, IQT, RTADDR
from iommu.structures import ContextEntry, PasidTranslationType, TranslationType
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import interrupts, messages
from qemu.vtd.conformance.chapters.reset import BLOCKED, ON, RECORDED, everything, note_registers
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE, WIDE
from qemu.vtd.conformance.topologies import READER

MIGRATABLE = replace(WIDE, name="48-bit, one device", topology=READER)


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
    queue.note(bench)
    bench.platform.migrate()
    bench.memory.write_u64(queue.STATUS, 0)
    bench.driver.submit(queue.wait(SW=1))
    queue.note(bench)
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
    "A queue error stays; cleared and corrected, the queue goes on.",
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
    queue.put(bench, 0, queue.wait(SW=1))
    queue.clear_error(bench)
    queue.tail(bench, 1)
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
    queue.program_completion(bench, masked=True)
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


# Scalable mode: whether the root table has that mode, and whether descriptors have 256 bits, is not part of the state
# that QEMU sends; it follows from the registers.

SCALABLE = replace(SECOND_STAGE, name="scalable, second stage, one device", topology=READER)


@scenario(
    "migration.scalable-dma",
    "11.4",
    "A write 0x5000 -> 0x800000",
    "A write 0x5000 -> 0x800000",
    "RTADDR 0x100400",
    "FSTS 0",
    setup=SCALABLE,
)
def _scalable_dma(bench: Bench) -> None:
    """In scalable mode DMA is translated by the same tables."""
    _start_scalable(bench)
    bench.write("A", 0x5000)
    bench.platform.migrate()
    bench.write("A", 0x5000)
    bench.note_register(RTADDR)


@scenario(
    "migration.scalable-queue",
    "11.4",
    f"status {queue.DATA:#x}",
    f"status {queue.DATA:#x}",
    "IQH 0xa0",
    "FSTS 0",
    setup=SCALABLE,
)
def _scalable_queue(bench: Bench) -> None:
    """A queue of 256-bit descriptors goes on where it was: the bench has used three of them."""
    _start_scalable(bench)
    for _ in range(2):
        bench.memory.write_u64(queue.STATUS, 0)
        bench.driver.submit(queue.wait(SW=1))
        queue.status(bench)
        bench.platform.migrate()
    bench.note_register(IQH)


def _start_scalable(bench: Bench) -> None:
    """A has 0x5000 mapped in the second stage of its PASID-table entry."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", PasidTranslationType.SECOND_STAGE, table)
    bench.scalable.turn_on()
