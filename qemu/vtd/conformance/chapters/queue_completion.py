"""Spec 6.5.2.8, 11.4.9.4 to 11.4.9.8: wait descriptors and the completion event."""

from __future__ import annotations

from iommu.registers import FECTL, ICS, IEADDR, IECTL, IEDATA
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters import messages
from qemu.vtd.conformance.queue import MESSAGE, STATUS, note, numbered, program_completion, put, start, tail, wait
from qemu.vtd.conformance.scenario import scenario


def program(bench: Bench, *, masked: bool) -> None:
    """Program the completion event and turn the queue on, with three wait descriptors that have IF in it."""
    program_completion(bench, masked=masked)
    start(bench)
    put(bench, 0, *[wait(IF=1)] * 3)


def mask(bench: Bench, value: int) -> None:
    """Write IECTL; log it, and the messages that follow."""
    bench.platform.write_register(IECTL.offset, value, 4)
    bench.note_register(IECTL)
    bench.note_messages()


@scenario("queue.completion.reset-is-masked", "11.4.9.5", "ICS 0x1", "IECTL 0xc0000000", "FSTS 0")
def reset_is_masked(bench: Bench) -> None:
    """After reset the completion event is masked: it is held back."""
    start(bench)
    put(bench, 0, wait(IF=1))
    tail(bench, 1)
    bench.note_register(ICS)
    bench.note_register(IECTL)
    bench.note_messages()


@scenario(
    "queue.completion.ics-bits",
    "11.4.9.4, 11.4.9.5",
    *("ICS 0x1", "IECTL 0xc0000000"),
    *("ICS 0x1", "IECTL 0xc0000000"),
    *("ICS 0x0", "IECTL 0x80000000"),
    "FSTS 0",
)
def ics_bits(bench: Bench) -> None:
    """IWC is cleared by a one in bit 0, and by nothing else; a message is held back until then."""
    program(bench, masked=True)
    tail(bench, 1)
    for value in (0, 0xFFFF_FFFE, 0xFFFF_FFFF):
        bench.platform.write_register(ICS.offset, value, 4)
        bench.note_register(ICS)
        bench.note_register(IECTL)


@scenario("queue.completion.masked-twice", "6.5.2.8", "IECTL 0xc0000000", "IECTL 0x0", MESSAGE, "FSTS 0")
def masked_twice(bench: Bench) -> None:
    """Two completions while the event is masked: one message when it is unmasked."""
    program(bench, masked=True)
    tail(bench, 2)
    bench.note_register(IECTL)
    mask(bench, 0)


@scenario("queue.completion.sent-once", "11.4.9.5", "IECTL 0x0", MESSAGE, "IECTL 0x80000000", "IECTL 0x0", "FSTS 0")
def sent_once(bench: Bench) -> None:
    """A completion message that was held back is sent once, however often the event is masked and unmasked."""
    program(bench, masked=True)
    tail(bench, 1)
    for value in (0, 1 << 31, 0):
        mask(bench, value)


@scenario("queue.completion.not-acknowledged", "6.5.2.8", "IECTL 0x0", MESSAGE, "ICS 0x1", "FSTS 0")
def not_acknowledged(bench: Bench) -> None:
    """While IWC is set, a further completion raises no event, though the message was sent."""
    program(bench, masked=True)
    tail(bench, 1)
    mask(bench, 0)
    tail(bench, 2)
    bench.note_messages()
    bench.note_register(ICS)


@scenario(
    "queue.completion.acknowledged-while-masked",
    "6.5.2.8",
    "IECTL 0xc0000000",
    "IECTL 0x80000000",
    "IECTL 0xc0000000",
    "IECTL 0x0",
    MESSAGE,
    "FSTS 0",
)
def acknowledged_while_masked(bench: Bench) -> None:
    """IWC cleared withdraws a message that is held back; the next completion holds back another."""
    program(bench, masked=True)
    tail(bench, 1)
    bench.note_register(IECTL)
    bench.platform.write_register(ICS.offset, 1, 4)
    bench.note_register(IECTL)
    tail(bench, 2)
    bench.note_register(IECTL)
    mask(bench, 0)


@scenario("queue.completion.message-as-it-is-now", "11.4.9.6", "IECTL 0x0", "message 0xfee0400c 0x99", "FSTS 0")
def message_as_it_is_now(bench: Bench) -> None:
    """A message that was held back has the address and data of the moment it is sent, without address bits 1:0."""
    program(bench, masked=True)
    tail(bench, 1)
    bench.platform.write_register(IEADDR.offset, 0xFEE0_400F, 4)
    bench.platform.write_register(IEDATA.offset, 0x99, 4)
    mask(bench, 0)


@scenario("queue.completion.ones-in-control", "11.4.9.5", "IECTL 0x80000000", "IECTL 0x0", "FSTS 0")
def ones_in_control(bench: Bench) -> None:
    """IP of IECTL cannot be written, nor can bits 29:0; unmasking with nothing held back sends nothing."""
    program(bench, masked=True)
    mask(bench, 0xFFFF_FFFF)
    mask(bench, 0x7FFF_FFFF)


@scenario(
    "queue.completion.beside-fault-event",
    "7.3",
    "IECTL 0xc0000000",
    "A write 0x6010 -> blocked",
    messages.MESSAGE,
    "IECTL 0xc0000000",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
)
def beside_fault_event(bench: Bench) -> None:
    """The completion event's mask does not hold back the fault event, and its message is another."""
    bench.start()
    program(bench, masked=True)
    messages.program_event(bench)
    tail(bench, 1)
    bench.note_register(IECTL)
    bench.write("A", 0x6010)
    bench.note_messages()
    bench.note_register(IECTL)


@scenario(
    "queue.completion.while-fault-masked",
    "7.3",
    "A write 0x6010 -> blocked",
    MESSAGE,
    "FECTL 0xc0000000",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
)
def while_fault_masked(bench: Bench) -> None:
    """The fault event's mask does not hold back the completion event."""
    bench.start()
    program(bench, masked=False)
    messages.program_event(bench, masked=True)
    bench.write("A", 0x6010)
    tail(bench, 1)
    bench.note_messages()
    bench.note_register(FECTL)


def _wait_with(name: str, title: str, fields: dict[str, int], *expect: str) -> None:
    def stimulus(bench: Bench) -> None:
        program(bench, masked=False)
        descriptor = wait(STDATA=0x77, **fields)
        put(bench, 0, descriptor)
        tail(bench, 1)
        note(bench)
        bench.note_register(ICS)
        bench.note_messages()

    stimulus.__doc__ = title
    scenario(f"queue.wait.{name}", "6.5.2.8", *expect, "FSTS 0")(stimulus)


_wait_with(
    "status-and-fence",
    "A wait descriptor with SW and FN writes its status.",
    {"SW": 1, "FN": 1},
    "status 0x77",
    "IQH 0x10",
    "ICS 0x0",
)
_wait_with(
    "interrupt-and-fence",
    "A wait descriptor with IF and FN raises the event.",
    {"IF": 1, "FN": 1},
    "status 0x0",
    "IQH 0x10",
    "ICS 0x1",
    MESSAGE,
)


@scenario("queue.wait.status-in-order", "6.5.2.8", "status 1 2 3", "FSTS 0")
def status_in_order(bench: Bench) -> None:
    """Three wait descriptors write their own data to their own addresses, 4 bytes each."""
    start(bench)
    bench.memory.write(STATUS, bytes(16))
    put(bench, 0, *(numbered(n, at=STATUS + 4 * n) for n in (1, 2, 3)))
    tail(bench, 3)
    bench.note(f"status {' '.join(str(bench.memory.read_u32(STATUS + 4 * n)) for n in (1, 2, 3))}")


@scenario("queue.wait.status-4-bytes", "6.5.2.8", "status 0xffffffff 0x89abcdef 0xffffffff", "FSTS 0")
def status_4_bytes(bench: Bench) -> None:
    """The status write changes 4 bytes and no other."""
    start(bench)
    bench.memory.write(STATUS, b"\xff" * 12)
    put(bench, 0, numbered(0x89AB_CDEF, at=STATUS + 4))
    tail(bench, 1)
    bench.note(f"status {' '.join(f'{bench.memory.read_u32(STATUS + 4 * n):#x}' for n in range(3))}")
