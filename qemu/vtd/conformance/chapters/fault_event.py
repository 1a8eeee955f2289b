"""Spec 7.3: the fault event while several conditions are pending, and what its message holds."""

from __future__ import annotations

from iommu.registers import FEADDR, FECTL, FEDATA
from iommu.structures import RemappedInterruptEntry
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters import messages
from qemu.vtd.conformance.chapters.fault_status import BY_A, BY_B, RECORD_A, Step, clear_f, clear_iqe, start
from qemu.vtd.conformance.scenario import Allowed, scenario


def stop_queue(bench: Bench) -> None:
    """Stop the queue by a descriptor of type 0, and log the messages that follow."""
    queue.start(bench)
    bench.driver.submit(0)
    bench.note_messages()


def fault(bench: Bench) -> None:
    """A's fault, and the messages that follow."""
    bench.write("A", 0x5010)
    bench.note_messages()


@scenario("fault.event.queue-error-while-fault", "7.3", BY_A, messages.MESSAGE, RECORD_A, "FSTS IQE PPF")
def queue_error_while_fault(bench: Bench) -> None:
    """An error of the queue while a fault is pending sends no second message."""
    start(bench)
    messages.program_event(bench)
    fault(bench)
    stop_queue(bench)


@scenario("fault.event.fault-while-queue-error", "7.3", messages.MESSAGE, BY_A, RECORD_A, "FSTS IQE PPF")
def fault_while_queue_error(bench: Bench) -> None:
    """A fault while the queue has stopped is recorded and sends no second message."""
    start(bench)
    messages.program_event(bench)
    stop_queue(bench)
    fault(bench)


@scenario("fault.event.queue-error-after-fault", "7.3", BY_A, messages.MESSAGE, messages.MESSAGE, "FSTS IQE")
def queue_error_after_fault(bench: Bench) -> None:
    """Once the fault is cleared, an error of the queue sends a message of its own."""
    start(bench)
    messages.program_event(bench)
    fault(bench)
    clear_f(bench)
    stop_queue(bench)


@scenario(
    "fault.event.queue-error-while-overflow",
    "7.3",
    BY_A,
    messages.MESSAGE,
    BY_B,
    "FSTS IQE PFO",
    allowed=(
        Allowed(
            "public descriptions differ on whether PFO alone holds back the next event (7.3)",
            (BY_A, messages.MESSAGE, BY_B, messages.MESSAGE, "FSTS IQE PFO"),
        ),
    ),
)
def queue_error_while_overflow(bench: Bench) -> None:
    """With PFO alone pending, an error of the queue sends no message."""
    start(bench)
    messages.program_event(bench)
    fault(bench)
    bench.write("B", 0x6010)
    clear_f(bench)
    stop_queue(bench)


@scenario("fault.event.overflow-alone", "7.3", BY_A, messages.MESSAGE, BY_B, RECORD_A, "FSTS PPF PFO")
def overflow_alone(bench: Bench) -> None:
    """PFO itself raises no event."""
    start(bench)
    messages.program_event(bench)
    fault(bench)
    bench.write("B", 0x6010)
    bench.note_messages()


def _held_back(name: str, title: str, steps: tuple[Step, ...], *expect: str) -> None:
    """With IM set, a fault and an error of the queue; steps of clearing, FECTL logged after each; then unmasked."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        messages.program_event(bench, masked=True)
        bench.write("A", 0x5010)
        stop_queue(bench)
        bench.note_register(FECTL)
        for step in steps:
            step(bench)
            bench.note_register(FECTL)
        messages.mask_event(bench, masked=False)
        bench.note_messages()

    stimulus.__doc__ = title
    scenario(f"fault.event.{name}", "7.3", BY_A, "FECTL 0xc0000000", *expect)(stimulus)


_held_back(
    "withdrawn-at-last-condition",
    "A message for two conditions is withdrawn when the second one is cleared: first F, then IQE.",
    (clear_f, clear_iqe),
    *("FECTL 0xc0000000", "FECTL 0x80000000", "FSTS 0"),
)
_held_back(
    "withdrawn-at-last-record",
    "A message for two conditions is withdrawn when the second one is cleared: first IQE, then F.",
    (clear_iqe, clear_f),
    *("FECTL 0xc0000000", "FECTL 0x80000000", "FSTS 0"),
)
_held_back(
    "kept-for-queue-error",
    "A message that is held back stays while IQE is pending, though F is cleared; it is sent when IM is cleared.",
    (clear_f,),
    *("FECTL 0xc0000000", messages.MESSAGE, "FSTS IQE"),
)
_held_back(
    "kept-for-fault",
    "A message that is held back stays while F is pending, though IQE is cleared; it is sent when IM is cleared.",
    (clear_iqe,),
    *("FECTL 0xc0000000", messages.MESSAGE, RECORD_A, "FSTS PPF"),
)


@scenario("fault.event.message-as-it-is-now", "7.3", BY_A, "message 0xfee03000 0x55", RECORD_A, "FSTS PPF")
def message_as_it_is_now(bench: Bench) -> None:
    """A message that was held back has the address and data of the moment it is sent."""
    start(bench)
    messages.program_event(bench, masked=True)
    fault(bench)
    bench.platform.write_register(FEADDR.offset, 0xFEE0_3000, 4)
    bench.platform.write_register(FEDATA.offset, 0x55, 4)
    messages.mask_event(bench, masked=False)
    bench.note_messages()


@scenario("fault.event.low-address-bits", "11.4.7.4", BY_A, "message 0xfee0100c 0x7e", RECORD_A, "FSTS PPF")
def low_address_bits(bench: Bench) -> None:
    """Bits 1:0 of FEADDR and bits 31:16 of FEDATA have no place in the message; bits 3:2 have."""
    start(bench)
    bench.platform.write_register(FEADDR.offset, 0xFEE0_100F, 4)
    bench.platform.write_register(FEDATA.offset, 0xABCD_007E, 4)
    messages.mask_event(bench, masked=False)
    fault(bench)


@scenario("fault.event.unmasked-twice", "7.3", BY_A, messages.MESSAGE, RECORD_A, "FSTS PPF")
def unmasked_twice(bench: Bench) -> None:
    """A message that was held back is sent once: masking and unmasking again sends nothing."""
    start(bench)
    messages.program_event(bench, masked=True)
    fault(bench)
    for masked in (False, True, False):
        messages.mask_event(bench, masked)
        bench.note_messages()


@scenario("fault.event.nothing-pending", "7.3", "FECTL 0x0", "FECTL 0x80000000", "FECTL 0x0", "FSTS 0")
def nothing_pending(bench: Bench) -> None:
    """Masking and unmasking with nothing pending sends nothing; ones in the other bits of FECTL are not kept."""
    start(bench)
    messages.program_event(bench)
    for value in (0x7FFF_FFFF, 0xFFFF_FFFF, 0):
        bench.platform.write_register(FECTL.offset, value, 4)
        bench.note_register(FECTL)
    bench.note_messages()


@scenario("fault.event.silenced-while-masked", "7.3", BY_A, "FECTL 0x80000000", "FSTS 0")
def silenced_while_masked(bench: Bench) -> None:
    """A fault that FPD keeps from being recorded leaves no event pending."""
    bench.context("A", bench.new_table(), fpd=1)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.note_register(FECTL)


@scenario("fault.event.not-remapped", "7.3", BY_A, "message 0xfee00010 0x31", RECORD_A, "FSTS PPF")
def not_remapped(bench: Bench) -> None:
    """The unit's own message is not remapped, though its address has remappable form and an entry."""
    table = bench.new_table()
    entry = RemappedInterruptEntry.make(P=1, V=0x77, DST=0x100)
    bench.memory.write(table, entry.to_bytes(16, "little"))
    bench.driver.set_interrupt_table(table)
    bench.driver.enable_interrupts()
    start(bench)
    bench.platform.write_register(FEADDR.offset, 0xFEE0_0010, 4)
    bench.platform.write_register(FEDATA.offset, 0x31, 4)
    messages.mask_event(bench, masked=False)
    fault(bench)
