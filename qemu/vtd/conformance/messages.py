"""Chapter 7.3: the message of the fault event: when it is sent, when it is held back, when it is withdrawn.

Address, data and control are written as plain numbers: FEADDR is at 0x40, FEDATA at 0x3c, FECTL at 0x38 with IM in
bit 31 and IP in bit 30 (11.4.7.2 to 11.4.7.5).
"""

from collections.abc import Callable

from iommu.registers import FRCD
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.scenario import scenario

FECTL, FEDATA, FEADDR, FEUADDR = 0x38, 0x3C, 0x40, 0x44
IM = 1 << 31
ADDRESS, DATA = 0xFEE0_1000, 0x31
MESSAGE = f"message {ADDRESS:#x} {DATA:#x}"
FAULT = ("A write 0x6000 -> blocked",)
LAST = ("fault 0x05 A 0x6000 write", "FSTS PPF")


def event(bench: Bench, *, masked: bool, address: int = ADDRESS, data: int = DATA) -> None:
    """Program the fault event, with A in domain 1 and translation on."""
    bench.start(P0)
    bench.platform.write_register(FEADDR, address, 4)
    bench.platform.write_register(FEDATA, data, 4)
    bench.platform.write_register(FECTL, IM if masked else 0, 4)


def fault(bench: Bench) -> None:
    """A fault of A, and the messages that follow."""
    bench.write("A", 0x6000)
    bench.note_messages()


def control(bench: Bench) -> None:
    """Log FECTL."""
    bench.note_register("FECTL", FECTL, 4)


@scenario("message.fault.unmasked", "7.3", *FAULT, MESSAGE, "FECTL 0x0", *LAST)
def unmasked(bench: Bench) -> None:
    """A fault sends the message at once, with the address and data of FEADDR and FEDATA."""
    event(bench, masked=False)
    fault(bench)
    control(bench)


@scenario("message.fault.masked", "7.3", *FAULT, "FECTL 0xc0000000", *LAST)
def masked(bench: Bench) -> None:
    """While IM is 1, the message is held back and IP says so."""
    event(bench, masked=True)
    fault(bench)
    control(bench)


@scenario("message.fault.unmasked-later", "7.3", *FAULT, MESSAGE, "FECTL 0x0", *LAST)
def unmasked_later(bench: Bench) -> None:
    """A message that was held back is sent when IM is cleared, and IP is 0 again."""
    event(bench, masked=True)
    fault(bench)
    bench.platform.write_register(FECTL, 0, 4)
    bench.note_messages()
    control(bench)


@scenario("message.fault.masked-again", "7.3", *FAULT, MESSAGE, "FECTL 0x80000000", *LAST)
def masked_again(bench: Bench) -> None:
    """Masking the event after its message was sent holds nothing back."""
    event(bench, masked=False)
    fault(bench)
    bench.platform.write_register(FECTL, IM, 4)
    bench.note_messages()
    control(bench)


@scenario("message.fault.serviced-while-masked", "7.3", *FAULT, "FECTL 0x80000000", "FECTL 0x0", "FSTS 0")
def serviced_while_masked(bench: Bench) -> None:
    """Clearing the fault record withdraws a message that is held back: unmasking sends nothing then."""
    event(bench, masked=True)
    fault(bench)
    bench.driver.clear_record(0)
    control(bench)
    bench.platform.write_register(FECTL, 0, 4)
    bench.note_messages()
    control(bench)


@scenario("message.fault.one-for-two", "7.3", *FAULT, MESSAGE, "B write 0x7000 -> blocked", LAST[0], "FSTS PPF PFO")
def one_for_two(bench: Bench) -> None:
    """A second fault while the first is pending, lost by overflow, sends no second message."""
    event(bench, masked=False)
    fault(bench)
    bench.write("B", 0x7000)
    bench.note_messages()


@scenario("message.fault.again-after-clearing", "7.3", *FAULT, MESSAGE, *FAULT, MESSAGE, *LAST)
def again_after_clearing(bench: Bench) -> None:
    """After the record is cleared, the next fault sends a message again."""
    event(bench, masked=False)
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
    bench.platform.write_register(FEADDR, ADDRESS, 4)
    bench.platform.write_register(FEDATA, DATA, 4)
    bench.platform.write_register(FECTL, 0, 4)
    fault(bench)


@scenario("message.fault.clearing-by-64-bits", "11.4.7.6", *FAULT, MESSAGE, "FSTS 0")
def cleared_by_64_bits(bench: Bench) -> None:
    """A 64-bit write of F to the upper half of a record clears it, and PPF with it."""
    event(bench, masked=False)
    fault(bench)
    at = bench.driver.capabilities.fault_record_offset + 8
    bench.platform.write_register(at, FRCD.F.mask >> 64, 8)


def _field(id_: str, title: str, offset: int, written: int, kept: int) -> None:
    """An event register keeps its fields only."""
    name = {FECTL: "FECTL", FEDATA: "FEDATA", FEADDR: "FEADDR"}[offset]

    def stimulus(bench: Bench) -> None:
        bench.platform.write_register(offset, written, 4)
        bench.note_register(name, offset, 4)

    stimulus.__doc__ = title
    add: Callable[[Callable[[Bench], None]], Callable[[Bench], None]]
    add = scenario(id_, "11.4.7", f"{name} {kept:#x}", "FSTS 0")
    add(stimulus)


_field("message.registers.data", "FEDATA keeps 16 bits.", FEDATA, 0xFFFF_FFFF, 0xFFFF)
_field("message.registers.address", "FEADDR keeps bits 31:2.", FEADDR, 0xFFFF_FFFF, 0xFFFF_FFFC)
_field("message.registers.control", "FECTL keeps IM, and software cannot write IP.", FECTL, 0xFFFF_FFFF, IM)
