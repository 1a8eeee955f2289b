"""Chapter 5: interrupt remapping: from a device's request to the message that reaches the processors.

Expected messages are written as plain numbers. In the address, bits 19:12 are the destination, bit 3 the redirection
hint, bit 2 the destination mode. In the data, bits 7:0 are the vector, bits 10:8 the delivery mode, bit 14 the level
(always assert), bit 15 the trigger mode.
"""

from iommu import Policy
from iommu.registers import GCMD, IRTA
from iommu.structures import (
    DeliveryMode,
    DescriptorType,
    InterruptDescriptor,
    InterruptEntry,
    RemappableAddress,
    RemappedInterruptEntry,
    SourceValidation,
)
from qemu.vtd.conformance.bench import NOWHERE, Bench
from qemu.vtd.conformance.queue import start as start_queue
from qemu.vtd.conformance.queue import wait
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.platform import DEVICES

TABLE, OTHER_TABLE = 0x21_0000, 0x21_8000
A = DEVICES["A"]


def uncached(*lines: str) -> tuple[Allowed, ...]:
    """What is seen of a unit that does not cache interrupt-remapping entries."""
    because = "a unit need not cache interrupt-remapping entries (6.4)"
    return (Allowed(because, lines, Policy(cache_interrupts=False)),)


def entry(vector: int = 0x55, destination: int = 3, **fields: int) -> int:
    """An entry in remapped form, with an 8-bit destination; present unless P=0."""
    return RemappedInterruptEntry.make(**{"P": 1, "V": vector, "DST": destination << 8} | fields)


def source(sid: int, *, svt: int = SourceValidation.SOURCE_ID, sq: int = 0) -> int:
    """The fields of an entry that say whose requests may use it."""
    return InterruptEntry.make(SID=sid, SQ=sq, SVT=svt)


def address(index: int, *, subhandle: bool = False) -> int:
    """The address of a remappable request."""
    return RemappableAddress.make(
        RANGE=0xFEE, IF=1, SHV=subhandle, HANDLE_LOW=index & 0x7FFF, HANDLE_HIGH=index >> 15
    )


def put(bench: Bench, index: int, entry: int, *, table: int = TABLE) -> None:
    """Write an entry."""
    bench.memory.write(table + 16 * index, entry.to_bytes(16, "little"))


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
    """While remapping is off, a request of compatibility format passes unchanged."""
    bench.interrupt("A", 0xFEE0_5000, 0x41)


@scenario("ir.off.remappable", "5.1.2", sent(1, f"{address(1):#x} 0x7", 7), "FSTS 0")
def off_remappable(bench: Bench) -> None:
    """While remapping is off, a request of remappable format passes unchanged."""
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
    """While remapping is on and CFI is 1, a request of compatibility format passes unchanged."""
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


_indexed("ir.index.handle", "Without SHV the handle is the index.", 5, handle=5, data=0, subhandle=False)
_indexed("ir.index.first", "Index 0 is the first entry.", 0, handle=0, data=0, subhandle=False)
_indexed("ir.index.last", "The last entry of the table.", 255, handle=255, data=0, subhandle=False)
_indexed(
    "ir.index.subhandle",
    "With SHV the subhandle in the data is added to the handle.",
    7,
    handle=5,
    data=2,
    subhandle=True,
)
_indexed("ir.index.data-unused", "Without SHV the data are ignored.", 5, handle=5, data=2, subhandle=False)


@scenario("ir.index.beyond-the-table", "5.1.4", sent(2, "blocked"), "fault 0x21 A index 2", "FSTS PPF")
def index_beyond(bench: Bench) -> None:
    """An index beyond the table is blocked: a table of size 0 has two entries."""
    start(bench, size=0)
    put(bench, 2, entry())
    bench.interrupt("A", address(2))


@scenario("ir.index.at-the-end", "5.1.4", sent(1, GOOD), "FSTS 0")
def index_at_the_end(bench: Bench) -> None:
    """The last entry of a table of size 0 is index 1."""
    start(bench, size=0)
    put(bench, 1, entry())
    bench.interrupt("A", address(1))


# What an entry makes of the request (9.9).


def _delivered(id_: str, title: str, contents: int, outcome: str) -> None:
    """The request that uses an entry with these contents is delivered as this message."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, contents)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    scenario(id_, "9.9", sent(1, outcome), "FSTS 0")(stimulus)


_delivered("ir.entry.fixed", "Vector and destination come from the entry.", entry(0x31, 7), "0xfee07000 0x4031")
_delivered("ir.entry.highest-vector", "The vector has eight bits.", entry(0xFF, 0), "0xfee00000 0x40ff")
_delivered("ir.entry.all-processors", "The destination has eight bits.", entry(0x31, 0xFF), "0xfeeff000 0x4031")
_delivered("ir.entry.logical", "DM is the destination mode.", entry(DM=1), "0xfee03004 0x4055")
_delivered("ir.entry.redirection-hint", "RH is the redirection hint.", entry(RH=1), "0xfee03008 0x4055")
_delivered("ir.entry.level", "TM is the trigger mode.", entry(TM=1), "0xfee03000 0xc055")
_delivered(
    "ir.entry.lowest-priority",
    "DLM 1 is lowest priority.",
    entry(DLM=DeliveryMode.LOWEST_PRIORITY),
    "0xfee03000 0x4155",
)
_delivered("ir.entry.smi", "DLM 2 is an SMI.", entry(DLM=DeliveryMode.SMI), "0xfee03000 0x4255")
_delivered("ir.entry.nmi", "DLM 4 is an NMI.", entry(DLM=DeliveryMode.NMI), "0xfee03000 0x4455")
_delivered("ir.entry.init", "DLM 5 is INIT.", entry(DLM=DeliveryMode.INIT), "0xfee03000 0x4555")
_delivered("ir.entry.extint", "DLM 7 is ExtINT.", entry(DLM=DeliveryMode.EXTINT), "0xfee03000 0x4755")
_delivered("ir.entry.available", "Bits 11:8 are ignored.", entry(AVAIL=0xF), GOOD)


# What an entry may not hold (5.1.4).


def _blocked(id_: str, title: str, contents: int, code: int, *, recorded: bool = True) -> None:
    """The request that uses an entry with these contents is blocked."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, contents)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    pending = (f"fault {code:#04x} A index 1", "FSTS PPF") if recorded else ("FSTS 0",)
    scenario(id_, f"5.1.4 {code:#04x}", sent(1, "blocked"), *pending)(stimulus)


_blocked("ir.entry.not-present", "An entry that is not present blocks the request.", entry(P=0), 0x22)
_blocked("ir.reserved.bit-12", "Bit 12 of an entry is reserved.", entry() | 1 << 12, 0x24)
_blocked("ir.reserved.bit-24", "Bit 24 of an entry is reserved.", entry() | 1 << 24, 0x24)
_blocked("ir.reserved.upper", "Bit 127 of an entry is reserved.", entry() | 1 << 127, 0x24)
_blocked(
    "ir.reserved.fpd",
    "With FPD, the fault for a reserved bit is not recorded.",
    entry(FPD=1) | 1 << 127,
    0x24,
    recorded=False,
)
_blocked("ir.reserved.delivery-mode", "Delivery mode 3 is reserved.", entry(DLM=3), 0x24)
_blocked(
    "ir.reserved.destination",
    "With 8-bit destinations the other bits of DST are reserved.",
    entry() | 1 << 48,
    0x24,
)
_blocked("ir.reserved.posted", "IM is reserved in a unit without interrupt posting.", entry(IM=1), 0x24)


@scenario("ir.entry.unreadable", "5.1.4 0x23", sent(1, "blocked"), "fault 0x23 A index 1", "FSTS PPF")
def unreadable(bench: Bench) -> None:
    """An entry that cannot be read blocks the request."""
    bench.driver.set_interrupt_table(NOWHERE)
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))


# Whose requests may use an entry (9.9: SVT, SQ, SID).


def _from(id_: str, title: str, validation: int, *, valid: bool) -> None:
    """A request of A uses an entry that is validated like this."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, entry() | validation)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    blocked = (sent(1, "blocked"), "fault 0x26 A index 1", "FSTS PPF")
    scenario(id_, "9.9 SVT", *((sent(1, GOOD), "FSTS 0") if valid else blocked))(stimulus)


BUS, NONE = SourceValidation.BUS, SourceValidation.NONE
_from("ir.source.same", "A request of the device in SID is delivered.", source(A), valid=True)
_from("ir.source.other-device", "A request of another device is blocked.", source(A ^ 8), valid=False)
_from("ir.source.other-bus", "A request from another bus is blocked.", source(A ^ 0x100), valid=False)
_from("ir.source.other-function", "A request of another function is blocked.", source(A ^ 1), valid=False)
_from("ir.source.sq-1", "SQ 1 ignores function bit 2.", source(A ^ 4, sq=1), valid=True)
_from("ir.source.sq-1-bit-1", "SQ 1 compares function bit 1.", source(A ^ 2, sq=1), valid=False)
_from("ir.source.sq-2", "SQ 2 ignores function bits 2 and 1.", source(A ^ 6, sq=2), valid=True)
_from("ir.source.sq-2-bit-0", "SQ 2 compares function bit 0.", source(A ^ 1, sq=2), valid=False)
_from("ir.source.sq-3", "SQ 3 ignores the function number.", source(A ^ 7, sq=3), valid=True)
_from("ir.source.sq-3-device", "SQ 3 compares the device number.", source(A ^ 8, sq=3), valid=False)
_from("ir.source.unchecked", "SVT 0 compares nothing.", source(A ^ 0xFFFF, svt=NONE), valid=True)
_from("ir.source.bus", "SVT 2 accepts a bus within the range.", source(0x0000, svt=BUS), valid=True)
_from(
    "ir.source.bus-range",
    "With SVT 2 the first bus is in SID 15:8, the last in SID 7:0.",
    source(0x0003, svt=BUS),
    valid=True,
)
_from("ir.source.bus-beyond", "SVT 2 blocks a bus outside the range.", source(0x0103, svt=BUS), valid=False)


# Staleness (6.4, 6.5.2.7).


def invalidation(**fields: int) -> int:
    """An interrupt-entry-cache invalidation descriptor."""
    return InterruptDescriptor.make(TYPE=DescriptorType.INTERRUPT, **fields)


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
            bench.driver.submit(descriptor, wait(SW=1))
        bench.interrupt("A", address(5))

    stimulus.__doc__ = title
    allowed = () if fresh else uncached(old, new, "FSTS 0")
    scenario(id_, "6.5.2.7", old, new if fresh else old, "FSTS 0", allowed=allowed)(stimulus)


_edited("ir.cache.stale", "A cached entry is used until it is invalidated.", None, fresh=False)
_edited("ir.cache.global", "A global invalidation drops a cached entry.", invalidation(G=0), fresh=True)
_edited("ir.cache.index", "An invalidation of its index drops a cached entry.", invalidation(G=1, IIDX=5), fresh=True)
_edited(
    "ir.cache.block",
    "An invalidation of a block of indexes drops a cached entry in it.",
    invalidation(G=1, IIDX=4, IM=2),
    fresh=True,
)
_edited(
    "ir.cache.other-index",
    "An invalidation of another index keeps a cached entry.",
    invalidation(G=1, IIDX=6),
    fresh=False,
)


@scenario("ir.table.latched", "6.7", sent(1, GOOD), sent(1, "0xfee03000 0x4066"), "FSTS 0")
def latched(bench: Bench) -> None:
    """Writing IRTA has no effect until SIRTP."""
    start(bench)
    start_queue(bench)
    put(bench, 1, entry())
    put(bench, 1, entry(0x66), table=OTHER_TABLE)
    bench.platform.write_register(IRTA.offset, IRTA.make(IRTA=OTHER_TABLE, S=7), 8)
    bench.interrupt("A", address(1))
    bench.driver.set_interrupt_table(OTHER_TABLE)
    bench.driver.submit(invalidation(G=0), wait(SW=1))
    bench.interrupt("A", address(1))
