"""Chapters 5.1.3, 6.7, 11.4.4 and 11.4.10: the interrupt table, its size, switching remapping, caching."""

from iommu.registers import FEADDR, FECTL, FEDATA, GCMD, GSTS, IRTA
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters.interrupts import (
    GOOD,
    TABLE,
    address,
    entry,
    put,
    sent,
    start,
)
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import NO_REMAPPING

BIG_TABLE = 0x30_0000
"""A table of 65536 entries, 1 MiB."""

OLD, NEW = GOOD, "0xfee03000 0x4066"


def start_big(bench: Bench, size: int, *present: int) -> None:
    """Remapping with the big table, of 2**(size + 1) entries; the pages of these entries hold no other."""
    for index in present:
        bench.memory.write(BIG_TABLE + 16 * index & ~0xFFF, bytes(0x1000))
    for index in present:
        put(bench, index, entry(), table=BIG_TABLE)
    bench.driver.set_interrupt_table(BIG_TABLE, size=size)
    bench.driver.enable_interrupts()


# Size (11.4.10).


def _size(size: int) -> None:
    """A table of 2**(size + 1) entries: the last, and the first beyond it, which is present too."""
    last = (2 << size) - 1
    lines = [sent(last, GOOD)]
    if size < 15:
        lines += [sent(last + 1, "blocked"), f"fault 0x21 A index {last + 1}", "FSTS PPF"]
    else:
        lines.append("FSTS 0")

    def stimulus(bench: Bench) -> None:
        start_big(bench, size, last, *((last + 1,) if size < 15 else ()))
        bench.interrupt("A", address(last))
        if size < 15:
            bench.interrupt("A", address(last + 1))

    stimulus.__doc__ = f"S = {size}: a table of {2 << size} entries."
    scenario(f"ir.table.size-{size}", "11.4.10 S", *lines)(stimulus)


for _s in range(16):
    _size(_s)


# The index (5.1.3).


def _handle(bit: int) -> None:
    """One bit of the handle selects one entry."""

    def stimulus(bench: Bench) -> None:
        start_big(bench, 15, 1 << bit)
        bench.interrupt("A", address(1 << bit))

    stimulus.__doc__ = f"Bit {bit} of the handle."
    scenario(f"ir.index.bit-{bit}", "5.1.3", sent(1 << bit, GOOD), "FSTS 0")(stimulus)


for _bit in range(16):
    _handle(_bit)


def _sum(id_: str, title: str, handle: int, subhandle: int, *, size: int = 15) -> None:
    """Handle and subhandle are added; the entry of the sum is the one that is present."""
    index = handle + subhandle

    def stimulus(bench: Bench) -> None:
        start_big(bench, size, index)
        bench.interrupt("A", address(handle, subhandle=True), subhandle)

    stimulus.__doc__ = title
    scenario(id_, "5.1.3", sent(handle, GOOD, subhandle, subhandle=True), "FSTS 0")(stimulus)


_sum("ir.subhandle.zero", "Subhandle 0: the handle alone.", 5, 0)
_sum("ir.subhandle.handle-zero", "Handle 0: the subhandle alone.", 0, 0x1234)
_sum("ir.subhandle.added", "A sum is not an OR: 3 + 1 is 4.", 3, 1)
_sum("ir.subhandle.carry-byte", "The sum carries from bit 7 to bit 8.", 0xFF, 1)
_sum("ir.subhandle.carry-handle", "The sum carries into handle bit 15.", 0x7FFF, 1)
_sum("ir.subhandle.high-bit", "All 16 bits of the subhandle count.", 0, 0xFFFF)


@scenario(
    "ir.subhandle.beyond",
    "5.1.4",
    sent(255, "blocked", 1, subhandle=True),
    "fault 0x21 A index 256",
    "FSTS PPF",
)
def subhandle_beyond(bench: Bench) -> None:
    """Handle and subhandle within the table, their sum beyond it."""
    start(bench)
    bench.interrupt("A", address(255, subhandle=True), 1)


@scenario(
    "ir.subhandle.wraps",
    "5.1.3",
    sent(0xFFFF, "blocked", 2, subhandle=True),
    "fault 0x21 A index 1",
    "FSTS PPF",
    allowed=(
        Allowed(
            "no source says whether the sum wraps at 16 bits (5.1.3)",
            (sent(0xFFFF, GOOD, 2, subhandle=True), "FSTS 0"),
        ),
    ),
)
def subhandle_wraps(bench: Bench) -> None:
    """A sum of 17 bits is beyond the largest table; the record has room for 16 of them."""
    start_big(bench, 15, 1)
    bench.interrupt("A", address(0xFFFF, subhandle=True), 2)


# Latching and switching (11.4.4).


@scenario(
    "ir.switch.status",
    "11.4.4.2",
    "GSTS 0x0",
    "GSTS 0x1000000",
    "GSTS 0x3000000",
    "GSTS 0x1000000",
    "FSTS 0",
)
def switch_status(bench: Bench) -> None:
    """GSTS shows that the table is set (IRTPS), and whether remapping is on (IRES)."""
    bench.note_register(GSTS)
    bench.driver.set_interrupt_table(TABLE)
    bench.note_register(GSTS)
    bench.driver.enable_interrupts()
    bench.note_register(GSTS)
    bench.platform.write_register(GCMD.offset, 0, 4)
    bench.note_register(GSTS)


@scenario("ir.switch.off-again", "5.1.2", sent(1, GOOD), sent(1, f"{address(1):#x} 0x0"), sent(1, GOOD), "FSTS 0")
def off_again(bench: Bench) -> None:
    """Off, requests pass unchanged; on again, they are remapped by the same table."""
    start(bench)
    put(bench, 1, entry())
    bench.interrupt("A", address(1))
    bench.platform.write_register(GCMD.offset, 0, 4)
    bench.interrupt("A", address(1))
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))


@scenario(
    "ir.switch.with-translation", "5.1.2", "GSTS 0xc3000000", sent(1, GOOD), "A write 0x5000 -> 0x800000", "FSTS 0"
)
def with_translation(bench: Bench) -> None:
    """DMA remapping and interrupt remapping are independent."""
    start(bench)
    put(bench, 1, entry())
    bench.start()
    bench.note_register(GSTS)
    bench.interrupt("A", address(1))
    bench.write("A", 0x5000)


@scenario("ir.switch.without-table", "11.4.4.1", sent(1, f"{address(1):#x} 0x0"), "GSTS 0x0", "FSTS 0")
def without_table(bench: Bench) -> None:
    """Writing IRTA alone changes nothing."""
    bench.memory.write(TABLE, bytes(0x1000))
    put(bench, 1, entry())
    bench.platform.write_register(IRTA.offset, IRTA.make(IRTA=TABLE, S=7), 8)
    bench.interrupt("A", address(1))
    bench.note_register(GSTS)


@scenario(
    "ir.switch.compatibility-off-again",
    "5.1.2.1",
    "A interrupt 0xfee05000 0x41 -> 0xfee05000 0x41",
    "A interrupt 0xfee05000 0x41 -> blocked",
    "fault 0x25 A index 0",
    "FSTS PPF",
)
def compatibility_off_again(bench: Bench) -> None:
    """Clearing CFI blocks requests of compatibility format again."""
    start(bench)
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, CFI=1), 4)
    bench.interrupt("A", 0xFEE0_5000, 0x41)
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1), 4)
    bench.interrupt("A", 0xFEE0_5000, 0x41)


@scenario("ir.switch.compatibility-leaves-remappable", "5.1.2.1", sent(1, GOOD), "FSTS 0")
def compatibility_leaves_remappable(bench: Bench) -> None:
    """CFI does not affect requests of remappable format."""
    start(bench)
    put(bench, 1, entry())
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, CFI=1), 4)
    bench.interrupt("A", address(1))


@scenario("ir.table.size-latched", "6.7", sent(3, GOOD), sent(3, "blocked"), "fault 0x21 A index 3", "FSTS PPF")
def size_latched(bench: Bench) -> None:
    """The size is latched with the address: a new S counts from SIRTP on."""
    start(bench)
    put(bench, 3, entry())
    bench.platform.write_register(IRTA.offset, IRTA.make(IRTA=TABLE, S=0), 8)
    bench.interrupt("A", address(3))
    bench.driver.set_interrupt_table(TABLE, size=0)
    bench.interrupt("A", address(3))


@scenario("ir.table.without-eim", "11.4.10 EIME", sent(1, GOOD), "FSTS 0")
def without_eim(bench: Bench) -> None:
    """A unit without ECAP.EIM ignores EIME: the destination has 8 bits, in bits 15:8 of DST."""
    bench.memory.write(TABLE, bytes(0x1000))
    put(bench, 1, entry(destination=3))
    bench.platform.write_register(IRTA.offset, TABLE | 1 << 11 | 7, 8)
    bench.platform.write_register(GCMD.offset, GCMD.make(SIRTP=1), 4)
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))


# The unit's own messages are not remapped (7.3).


@scenario(
    "ir.own-message.fault",
    "7.3",
    sent(1, "blocked"),
    f"message {address(2):#x} 0x9",
    "FECTL 0x0",
    "fault 0x22 A index 1",
    "FSTS PPF",
)
def own_message(bench: Bench) -> None:
    """The fault event of a blocked request is sent as programmed, even if it looks like a remappable request."""
    start(bench)
    put(bench, 2, entry())
    bench.platform.write_register(FEADDR.offset, address(2), 4)
    bench.platform.write_register(FEDATA.offset, 9, 4)
    bench.platform.write_register(FECTL.offset, 0, 4)
    bench.interrupt("A", address(1))
    bench.note_messages()
    bench.note_register(FECTL)


# A unit without interrupt remapping (ECAP.IR = 0).


@scenario(
    "ir.none.passes",
    "5.1.2",
    "GSTS 0x0",
    sent(1, f"{address(1):#x} 0x0"),
    "A interrupt 0xfee05000 0x41 -> 0xfee05000 0x41",
    "FSTS 0",
    setup=NO_REMAPPING,
)
def none_passes(bench: Bench) -> None:
    """Without ECAP.IR, SIRTP and IRE do nothing, and every request passes unchanged."""
    bench.memory.write(TABLE, bytes(0x1000))
    bench.platform.write_register(IRTA.offset, TABLE | 7, 8)
    bench.platform.write_register(GCMD.offset, GCMD.make(SIRTP=1), 4)
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1), 4)
    bench.note_register(GSTS)
    bench.interrupt("A", address(1))
    bench.interrupt("A", 0xFEE0_5000, 0x41)


@scenario(
    "ir.none.pin",
    "5.1.2",
    "pin 9 0x1200000000008043 -> 0xfee12000 0x8043",
    "FSTS 0",
    setup=NO_REMAPPING,
)
def none_pin(bench: Bench) -> None:
    """The I/O APIC's request passes unchanged too."""
    bench.pin(9, 0x12 << 56 | 0x8043)
