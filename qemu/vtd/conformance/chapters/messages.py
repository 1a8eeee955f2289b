"""Chapter 7.3: the message of the fault event: when it is sent, when it is held back, when it is withdrawn."""

from iommu.registers import FEADDR, FECTL, FEDATA, FRCD, Register
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.scenario import scenario

ADDRESS, DATA = 0xFEE0_1000, 0x31
MESSAGE = f"message {ADDRESS:#x} {DATA:#x}"
FAULT = ("A write 0x6000 -> blocked",)
LAST = ("fault 0x05 A 0x6000 write", "FSTS PPF")


def program_event(bench: Bench, *, masked: bool = False) -> None:
    """Program the message of the fault event."""
    bench.platform.write_register(FEADDR.offset, ADDRESS, 4)
    bench.platform.write_register(FEDATA.offset, DATA, 4)
    mask_event(bench, masked)


def mask_event(bench: Bench, masked: bool) -> None:
    """Mask or unmask the fault event."""
    bench.platform.write_register(FECTL.offset, FECTL.make(IM=masked), 4)


def start(bench: Bench, *, masked: bool) -> None:
    """Program the fault event, with A in domain 1 and translation on."""
    bench.start(P0)
    program_event(bench, masked=masked)


def fault(bench: Bench) -> None:
    """A fault of A, and the messages that follow."""
    bench.write("A", 0x6000)
    bench.note_messages()


@scenario("message.fault.unmasked", "7.3", *FAULT, MESSAGE, "FECTL 0x0", *LAST)
def unmasked(bench: Bench) -> None:
    """A fault sends the message at once, with the address and data of FEADDR and FEDATA."""
    start(bench, masked=False)
    fault(bench)
    bench.note_register(FECTL)


@scenario("message.fault.masked", "7.3", *FAULT, "FECTL 0xc0000000", *LAST)
def masked(bench: Bench) -> None:
    """While IM is 1, the message of a fault is held back and IP is set."""
    start(bench, masked=True)
    fault(bench)
    bench.note_register(FECTL)


@scenario("message.fault.unmasked-later", "7.3", *FAULT, MESSAGE, "FECTL 0x0", *LAST)
def unmasked_later(bench: Bench) -> None:
    """A fault message that was held back is sent when IM is cleared, and IP is 0 again."""
    start(bench, masked=True)
    fault(bench)
    mask_event(bench, masked=False)
    bench.note_messages()
    bench.note_register(FECTL)


@scenario("message.fault.masked-again", "7.3", *FAULT, MESSAGE, "FECTL 0x80000000", *LAST)
def masked_again(bench: Bench) -> None:
    """Masking the fault event after its message was sent leaves IP at 0."""
    start(bench, masked=False)
    fault(bench)
    mask_event(bench, masked=True)
    bench.note_messages()
    bench.note_register(FECTL)


@scenario("message.fault.serviced-while-masked", "7.3", *FAULT, "FECTL 0x80000000", "FECTL 0x0", "FSTS 0")
def serviced_while_masked(bench: Bench) -> None:
    """Clearing the fault record withdraws the message that is held back: unmasking then sends nothing."""
    start(bench, masked=True)
    fault(bench)
    bench.driver.clear_record(0)
    bench.note_register(FECTL)
    mask_event(bench, masked=False)
    bench.note_messages()
    bench.note_register(FECTL)


@scenario("message.fault.one-for-two", "7.3", *FAULT, MESSAGE, "B write 0x7000 -> blocked", LAST[0], "FSTS PPF PFO")
def one_for_two(bench: Bench) -> None:
    """A second fault while the first is pending, lost by overflow, sends no second message."""
    start(bench, masked=False)
    fault(bench)
    bench.write("B", 0x7000)
    bench.note_messages()


@scenario("message.fault.again-after-clearing", "7.3", *FAULT, MESSAGE, *FAULT, MESSAGE, *LAST)
def again_after_clearing(bench: Bench) -> None:
    """After the record is cleared, the next fault sends a message again."""
    start(bench, masked=False)
    fault(bench)
    bench.driver.clear_record(0)
    fault(bench)


@scenario("message.fault.silenced-by-fpd", "7.1.3 LGN.2", *FAULT, "FSTS 0")
def silenced(bench: Bench) -> None:
    """A fault that FPD keeps from being recorded sends no message."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table, fpd=1)
    bench.turn_on()
    program_event(bench)
    fault(bench)


@scenario("message.fault.clearing-by-64-bits", "11.4.7.6", *FAULT, MESSAGE, "FSTS 0")
def cleared_by_64_bits(bench: Bench) -> None:
    """A 64-bit write of F to the upper half of a record clears it, and PPF with it."""
    start(bench, masked=False)
    fault(bench)
    at = bench.driver.capabilities.fault_record_offset + 8
    bench.platform.write_register(at, FRCD.F.mask >> 64, 8)


def _kept(id_: str, title: str, layout: type[Register], kept: int) -> None:
    """Of a register written with ones, only its fields are kept."""

    def stimulus(bench: Bench) -> None:
        bench.platform.write_register(layout.offset, 0xFFFF_FFFF, 4)
        bench.note_register(layout)

    stimulus.__doc__ = title
    scenario(id_, "11.4.7", f"{layout.__name__} {kept:#x}", "FSTS 0")(stimulus)


_kept("message.registers.data", "FEDATA keeps 16 bits.", FEDATA, 0xFFFF)
_kept("message.registers.address", "FEADDR keeps bits 31:2.", FEADDR, 0xFFFF_FFFC)
_kept("message.registers.control", "FECTL keeps IM, and software cannot write IP.", FECTL, 0x8000_0000)
