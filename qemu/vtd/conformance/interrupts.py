"""Chapter 5: interrupt remapping: from a device's request to the message that reaches the processors.

Entries are written as plain numbers, from the layouts in the specification (9.9). A message to the processors has the
destination in address bits 19:12, the redirection hint in bit 3 and the destination mode in bit 2; in its data the
vector, the delivery mode in bits 10:8, the level in bit 14, which is always assert, and the trigger mode in bit 15.
"""

from iommu.registers import GCMD
from qemu.vtd.conformance.bench import NOWHERE, Bench
from qemu.vtd.conformance.queue import start as start_queue
from qemu.vtd.conformance.queue import wait
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.platform import DEVICES

TABLE, OTHER_TABLE = 0x21_0000, 0x21_8000
A = int(DEVICES["A"])
FORMAT, SHV = 1 << 4, 1 << 3
NO_CACHE = "a unit need not cache interrupt-remapping entries (6.2.6)"


def entry(
    vector: int = 0x55, destination: int = 3, *, p: int = 1, fpd: int = 0, dm: int = 0, rh: int = 0, tm: int = 0,
    mode: int = 0, also: int = 0,
) -> int:  # fmt: skip
    """The lower half of an entry in remapped form; `also` are further bits."""
    return p | fpd << 1 | dm << 2 | rh << 3 | tm << 4 | mode << 5 | vector << 16 | destination << 40 | also


def source(sid: int, *, svt: int = 1, sq: int = 0) -> int:
    """The upper half of an entry: whose requests may use it."""
    return sid | sq << 16 | svt << 18


def address(index: int, *, subhandle: bool = False) -> int:
    """The address of a remappable request."""
    return 0xFEE0_0000 | (index & 0x7FFF) << 5 | FORMAT | (SHV if subhandle else 0) | index >> 15 << 2


def put(bench: Bench, index: int, low: int, high: int = 0, *, table: int = TABLE) -> None:
    """Write an entry."""
    bench.memory.write_u64(table + 16 * index, low)
    bench.memory.write_u64(table + 16 * index + 8, high)


def start(bench: Bench, *, size: int = 7) -> None:
    """Turn interrupt remapping on, with a table of 2**(size + 1) entries, all of them absent."""
    bench.memory.write(TABLE, bytes(0x1000))
    bench.memory.write(OTHER_TABLE, bytes(0x1000))
    bench.driver.set_interrupt_table(TABLE, size=size)
    bench.driver.enable_interrupts()


def sent(index: int, outcome: str, data: int = 0, *, subhandle: bool = False) -> str:
    """The line of a request of A."""
    return f"A interrupt {address(index, subhandle=subhandle):#x} {data:#x} -> {outcome}"


GOOD = "0xfee03000 0x4055"


# Before an entry is read (5.1.2).


@scenario("ir.off.compatibility", "5.1.2", "A interrupt 0xfee05000 0x41 -> 0xfee05000 0x41", "FSTS 0")
def off_compatibility(bench: Bench) -> None:
    """While remapping is off, a request of compatibility format passes as it is."""
    bench.interrupt("A", 0xFEE0_5000, 0x41)


@scenario("ir.off.remappable", "5.1.2", sent(1, f"{address(1):#x} 0x7", 7), "FSTS 0")
def off_remappable(bench: Bench) -> None:
    """So does one of remappable format."""
    bench.interrupt("A", address(1), 7)


@scenario(
    "ir.compatibility.blocked",
    "5.1.2.1",
    "A interrupt 0xfee05000 0x41 -> blocked",
    "fault 0x25 A index 0",
    "FSTS PPF",
)
def compatibility_blocked(bench: Bench) -> None:
    """While remapping is on and CFI is 0, a request of compatibility format is blocked."""
    start(bench)
    bench.interrupt("A", 0xFEE0_5000, 0x41)


@scenario("ir.compatibility.allowed", "5.1.2.1", "A interrupt 0xfee05000 0x41 -> 0xfee05000 0x41", "FSTS 0")
def compatibility_allowed(bench: Bench) -> None:
    """With CFI it passes as it is."""
    start(bench)
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, CFI=1), 4)
    bench.interrupt("A", 0xFEE0_5000, 0x41)


# The index (5.1.3).


def _indexed(id_: str, title: str, index: int, *, handle: int, data: int, subhandle: bool) -> None:
    """The entry at `index` is used; all others are absent."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, index, entry())
        bench.interrupt("A", address(handle, subhandle=subhandle), data)

    stimulus.__doc__ = title
    scenario(id_, "5.1.3", sent(handle, GOOD, data, subhandle=subhandle), "FSTS 0")(stimulus)


_indexed("ir.index.handle", "The handle is the index.", 5, handle=5, data=0, subhandle=False)
_indexed("ir.index.first", "Index 0 is the first entry.", 0, handle=0, data=0, subhandle=False)
_indexed("ir.index.last", "The last entry of the table.", 255, handle=255, data=0, subhandle=False)
_indexed("ir.index.subhandle", "With SHV the data are added to it.", 7, handle=5, data=2, subhandle=True)
_indexed("ir.index.data-unused", "Without SHV they are not used.", 5, handle=5, data=2, subhandle=False)


@scenario("ir.index.beyond-the-table", "5.1.4", sent(2, "blocked"), "fault 0x21 A index 2", "FSTS PPF")
def index_beyond(bench: Bench) -> None:
    """An index beyond the table is blocked: a table of size 0 has two entries."""
    start(bench, size=0)
    put(bench, 2, entry())
    bench.interrupt("A", address(2))


@scenario("ir.index.at-the-end", "5.1.4", sent(1, GOOD), "FSTS 0")
def index_at_the_end(bench: Bench) -> None:
    """The second of the two is within it."""
    start(bench, size=0)
    put(bench, 1, entry())
    bench.interrupt("A", address(1))


# What an entry makes of the request (9.9).


def _delivered(id_: str, title: str, low: int, outcome: str) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, low)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    scenario(id_, "9.9", sent(1, outcome), "FSTS 0")(stimulus)


_delivered("ir.entry.fixed", "Vector and destination come from the entry.", entry(0x31, 7), "0xfee07000 0x4031")
_delivered("ir.entry.highest-vector", "The vector has eight bits.", entry(0xFF, 0), "0xfee00000 0x40ff")
_delivered("ir.entry.all-processors", "So has the destination.", entry(0x31, 0xFF), "0xfeeff000 0x4031")
_delivered("ir.entry.logical", "DM is the destination mode.", entry(dm=1), "0xfee03004 0x4055")
_delivered("ir.entry.redirection-hint", "RH is the redirection hint.", entry(rh=1), "0xfee03008 0x4055")
_delivered("ir.entry.level", "TM is the trigger mode.", entry(tm=1), "0xfee03000 0xc055")
_delivered("ir.entry.lowest-priority", "DLM 1 is lowest priority.", entry(mode=1), "0xfee03000 0x4155")
_delivered("ir.entry.smi", "DLM 2 is an SMI.", entry(mode=2), "0xfee03000 0x4255")
_delivered("ir.entry.nmi", "DLM 4 is an NMI.", entry(mode=4), "0xfee03000 0x4455")
_delivered("ir.entry.init", "DLM 5 is INIT.", entry(mode=5), "0xfee03000 0x4555")
_delivered("ir.entry.extint", "DLM 7 is ExtINT.", entry(mode=7), "0xfee03000 0x4755")
_delivered("ir.entry.available", "Bits 11:8 are software's own.", entry(also=0xF00), GOOD)


# What an entry may not hold (5.1.4).


def _blocked(id_: str, title: str, low: int, high: int, code: int, *, recorded: bool = True) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, low, high)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    pending = (f"fault {code:#04x} A index 1", "FSTS PPF") if recorded else ("FSTS 0",)
    scenario(id_, f"5.1.4 {code:#04x}", sent(1, "blocked"), *pending)(stimulus)


_blocked("ir.entry.not-present", "An entry that is not present blocks.", entry(p=0), 0, 0x22)
_blocked(
    "ir.entry.not-present-fpd", "FPD keeps that from being recorded.", entry(p=0, fpd=1), 0, 0x22, recorded=False
)
_blocked("ir.reserved.bit-12", "Bit 12 is reserved.", entry(also=1 << 12), 0, 0x24)
_blocked("ir.reserved.bit-24", "Bit 24 is reserved.", entry(also=1 << 24), 0, 0x24)
_blocked("ir.reserved.upper", "Bit 127 is reserved.", entry(), 1 << 63, 0x24)
_blocked(
    "ir.reserved.fpd", "FPD keeps a reserved bit from being recorded.", entry(fpd=1), 1 << 63, 0x24, recorded=False
)
_blocked("ir.reserved.delivery-mode", "Delivery mode 3 is reserved.", entry(mode=3), 0, 0x24)
_blocked(
    "ir.reserved.destination", "With 8-bit destinations the bits beside are reserved.", entry(also=1 << 48), 0, 0x24
)
_blocked("ir.reserved.posted", "IM is reserved where interrupts are not posted.", entry(also=1 << 15), 0, 0x24)


@scenario("ir.entry.unreadable", "5.1.4 0x23", sent(1, "blocked"), "fault 0x23 A index 1", "FSTS PPF")
def unreadable(bench: Bench) -> None:
    """An entry that cannot be read blocks."""
    bench.driver.set_interrupt_table(NOWHERE)
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))


# Whose requests an entry takes (9.9: SVT, SQ, SID).


def _from(id_: str, title: str, high: int, *, taken: bool) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, entry(), high)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    blocked = (sent(1, "blocked"), "fault 0x26 A index 1", "FSTS PPF")
    scenario(id_, "9.9 SVT", *((sent(1, GOOD), "FSTS 0") if taken else blocked))(stimulus)


_from("ir.source.same", "The requester itself is taken.", source(A), taken=True)
_from("ir.source.other-device", "Another device is not.", source(A ^ 8), taken=False)
_from("ir.source.other-bus", "Nor is one on another bus.", source(A ^ 0x100), taken=False)
_from("ir.source.other-function", "Nor is another function.", source(A ^ 1), taken=False)
_from("ir.source.sq-1", "With SQ 1, bit 2 of the function does not count.", source(A ^ 4, sq=1), taken=True)
_from("ir.source.sq-1-bit-1", "But bit 1 does.", source(A ^ 2, sq=1), taken=False)
_from("ir.source.sq-2", "With SQ 2, bits 2 and 1 do not.", source(A ^ 6, sq=2), taken=True)
_from("ir.source.sq-2-bit-0", "But bit 0 does.", source(A ^ 1, sq=2), taken=False)
_from("ir.source.sq-3", "With SQ 3, the function does not count.", source(A ^ 7, sq=3), taken=True)
_from("ir.source.sq-3-device", "But the device does.", source(A ^ 8, sq=3), taken=False)
_from("ir.source.unchecked", "With SVT 0 nobody is compared.", source(A ^ 0xFFFF, svt=0), taken=True)
_from("ir.source.bus", "A bus within the range is taken.", source(0x0000, svt=2), taken=True)
_from("ir.source.bus-range", "The first bus is in SID 15:8, the last in 7:0.", source(0x0003, svt=2), taken=True)
_from("ir.source.bus-beyond", "A bus outside it is not.", source(0x0103, svt=2), taken=False)


# Staleness (6.2.6, 6.5.2.7).


def interrupt_entries(g: int, index: int = 0, mask: int = 0) -> int:
    """A descriptor of type 4."""
    return 4 | g << 4 | mask << 27 | index << 32


def _edited(id_: str, title: str, descriptor: int | None, *, fresh: bool) -> None:
    """Entry 5 is used, given another vector, and used again after one descriptor."""
    old, new = sent(5, GOOD), sent(5, "0xfee03000 0x4066")

    def stimulus(bench: Bench) -> None:
        start(bench)
        start_queue(bench)
        put(bench, 5, entry())
        bench.interrupt("A", address(5))
        put(bench, 5, entry(0x66))
        if descriptor is not None:
            bench.driver.submit(descriptor, wait(status=1))
        bench.interrupt("A", address(5))

    stimulus.__doc__ = title
    allowed = () if fresh else (Allowed(NO_CACHE, (old, new, "FSTS 0")),)
    scenario(id_, "6.5.2.7", old, new if fresh else old, "FSTS 0", allowed=allowed)(stimulus)


_edited("ir.cache.stale", "Without an invalidation the old entry may still be used.", None, fresh=False)
_edited("ir.cache.global", "A global invalidation drops it.", interrupt_entries(0), fresh=True)
_edited("ir.cache.index", "So does one of its index.", interrupt_entries(1, 5), fresh=True)
_edited("ir.cache.block", "So does one of a block around it.", interrupt_entries(1, 4, 2), fresh=True)
_edited("ir.cache.other-index", "One of another index keeps it.", interrupt_entries(1, 6), fresh=False)


@scenario("ir.table.latched", "5.1.5", sent(1, GOOD), sent(1, "0xfee03000 0x4066"), "FSTS 0")
def latched(bench: Bench) -> None:
    """Writing IRTA has no effect until SIRTP."""
    start(bench)
    start_queue(bench)
    put(bench, 1, entry())
    put(bench, 1, entry(0x66), table=OTHER_TABLE)
    bench.platform.write_register(0xB8, OTHER_TABLE | 7, 8)
    bench.interrupt("A", address(1))
    bench.driver.set_interrupt_table(OTHER_TABLE)
    bench.driver.submit(interrupt_entries(0), wait(status=1))
    bench.interrupt("A", address(1))
