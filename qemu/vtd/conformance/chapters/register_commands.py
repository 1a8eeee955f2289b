"""Spec 11.4.4 to 11.4.6: GCMD bit by bit, the pointers it latches, and commands started by half of a register."""

from __future__ import annotations

from iommu.registers import CCMD, FEADDR, FEUADDR, FSTS, GCMD, GSTS, IOTLB, IQA, IQH, IQT, IVA, RTADDR, Granularity
from iommu.structures import WaitDescriptor
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, Bench, R, W
from qemu.vtd.conformance.scenario import EVICTED, Allowed, scenario
from qemu.vtd.conformance.setups import NARROW, WIDE, Setup

TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
TE, SRTP, QIE, IRE, SIRTP = GCMD.TE.mask, GCMD.SRTP.mask, GCMD.QIE.mask, GCMD.IRE.mask, GCMD.SIRTP.mask
QUEUE = 0x20_0000


def command(bench: Bench, value: int) -> None:
    """Write GCMD, and log GSTS by the names of its bits."""
    bench.platform.write_register(GCMD.offset, value, 4)
    bench.note_bits(GSTS)


# GCMD, one bit at a time.


@scenario(
    "registers.gcmd.one-shot", "11.4.4.1", "GSTS RTPS", "GSTS RTPS", "GSTS RTPS IRTPS", "GSTS RTPS IRTPS", "FSTS 0"
)
def one_shot(bench: Bench) -> None:
    """SRTP and SIRTP are commands, not state: RTPS and IRTPS stay when a later write leaves them out."""
    for value in (SRTP, 0, SIRTP, 0):
        command(bench, value)


@scenario("registers.gcmd.queue", "11.4.4.1", "GSTS RTPS QIES", "GSTS RTPS QIES", "GSTS RTPS", "FSTS 0")
def queue_switch(bench: Bench) -> None:
    """QIES follows QIE: set, kept, and cleared once the queue has ended with a wait descriptor."""
    bench.driver.set_root_table(bench.root)
    bench.driver.start_queue(QUEUE)
    command(bench, QIE)
    bench.driver.submit(WaitDescriptor.make(TYPE=5, SW=1, STADDR=QUEUE + 0x8000))
    command(bench, QIE)
    command(bench, 0)


@scenario("registers.gcmd.interrupt-remapping", "11.4.4.1", "GSTS IRTPS", "GSTS IRES IRTPS", "GSTS IRTPS", "FSTS 0")
def interrupt_switch(bench: Bench) -> None:
    """IRES follows IRE."""
    for value in (SIRTP, IRE, 0):
        command(bench, value)


@scenario("registers.gcmd.compatibility-format", "11.4.4.1", "GSTS CFIS", "GSTS 0", "FSTS 0")
def compatibility_switch(bench: Bench) -> None:
    """CFIS follows CFI."""
    for value in (GCMD.CFI.mask, 0):
        command(bench, value)


@scenario("registers.gcmd.write-buffer", "11.4.4.1", "GSTS TES RTPS", TO_P0, "FSTS 0")
def write_buffer_flush(bench: Bench) -> None:
    """WBF on a unit without a write buffer (CAP.RWBF = 0) changes nothing."""
    bench.start()
    command(bench, TE | GCMD.WBF.mask)
    bench.write("A", 0x5010)


@scenario("registers.gcmd.reserved", "11.4.4.1", "GSTS TES RTPS", "GSTS RTPS", "FSTS 0")
def reserved_commands(bench: Bench) -> None:
    """Bits 22:0, and the withdrawn commands of advanced fault logging, bits 29 and 28, have no effect."""
    bench.start()
    command(bench, TE | 0x3000_0000 | 0x007F_FFFF)
    command(bench, 0x3000_0000 | 0x007F_FFFF)


@scenario("registers.gcmd.left-out", "11.4.4.1", "GSTS TES RTPS IRES", "GSTS RTPS IRES", "GSTS RTPS", "FSTS 0")
def left_out(bench: Bench) -> None:
    """TE and IRE are levels: a write that leaves one of them out turns it off, and not the other."""
    bench.start()
    for value in (TE | IRE, IRE, 0):
        command(bench, value)


@scenario("registers.gcmd.root-pointer-while-on", "11.4.4.1", "GSTS TES RTPS", TO_P0, "FSTS 0")
def root_pointer_while_on(bench: Bench) -> None:
    """SRTP while translation is on leaves it on."""
    bench.start()
    command(bench, TE | SRTP)
    bench.write("A", 0x5010)


@scenario(
    "registers.gcmd.on-again",
    "11.4.4.1",
    TO_P0,
    "GSTS TES RTPS",
    TO_P0,
    "FSTS 0",
    allowed=(Allowed(EVICTED, (TO_P0, "GSTS TES RTPS", TO_P1, "FSTS 0")),),
)
def on_again(bench: Bench) -> None:
    """TE written while translation is on changes nothing: what is cached stays in use."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    command(bench, TE)
    bench.write("A", 0x5010)


@scenario(
    "registers.gcmd.off-and-on",
    "11.4.4.1",
    TO_P0,
    "GSTS RTPS",
    "A write 0x800010 -> 0x800010",
    "GSTS TES RTPS",
    TO_P0,
    "FSTS 0",
    allowed=(
        Allowed(EVICTED, (TO_P0, "GSTS RTPS", "A write 0x800010 -> 0x800010", "GSTS TES RTPS", TO_P1, "FSTS 0")),
    ),
)
def off_and_on(bench: Bench) -> None:
    """Translation is turned off and on without an invalidation: what was cached before may still be used."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    command(bench, 0)
    bench.write("A", P0 + 0x10)
    command(bench, TE)
    bench.write("A", 0x5010)


# Several bits at once.

UNDEFINED = "what several changes in one write of GCMD do is not defined (11.4.4.1)"


def _at_once(name: str, title: str, value: int, both: str, *others: str) -> None:
    def stimulus(bench: Bench) -> None:
        bench.platform.write_register(RTADDR.offset, bench.root, 8)
        bench.platform.write_register(IQA.offset, QUEUE, 8)
        command(bench, value)

    stimulus.__doc__ = title
    allowed = tuple(Allowed(UNDEFINED, (f"GSTS {other}", "FSTS 0")) for other in others)
    scenario(f"registers.gcmd.{name}", "11.4.4.1", f"GSTS {both}", "FSTS 0", allowed=allowed)(stimulus)


_at_once("root-pointer-and-on", "SRTP and TE in one write.", SRTP | TE, "TES RTPS", "RTPS", "TES", "0")
_at_once("queue-and-on", "TE and QIE in one write.", TE | QIE, "TES QIES", "QIES", "TES", "0")
_at_once("tables-and-remapping", "SIRTP and IRE in one write.", SIRTP | IRE, "IRES IRTPS", "IRTPS", "IRES", "0")


# The root table pointer.


def _root(name: str, title: str, setup: Setup, add: int, *expect: str) -> None:
    """A's 0x5000 is mapped; RTADDR is the root table's address with some bits added."""

    def stimulus(bench: Bench) -> None:
        levels = 4 if setup is WIDE else 3
        table = bench.new_table()
        bench.map(table, 0x5000, P0, levels=levels)
        bench.context("A", table, levels=levels)
        bench.platform.write_register(RTADDR.offset, bench.root | add, 8)
        command(bench, SRTP)
        bench.driver.invalidate_everything()
        command(bench, TE)
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    id_ = f"registers.rtaddr.{name}"
    scenario(id_, "11.4.5", "GSTS RTPS", "GSTS TES RTPS", *expect, setup=setup)(stimulus)


_UNREADABLE = ("A write 0x5010 -> blocked", "fault 0x08 A 0x5000 write", "FSTS PPF")
_root("reserved-low", "Bits 9:0 of RTADDR are reserved: they do not count.", WIDE, 0x3FF, TO_P0, "FSTS 0")
_root("upper-half", "Bit 32 of RTADDR counts: there is no memory, and no root table.", WIDE, 1 << 32, *_UNREADABLE)
_root("highest-bit", "Bit 47 of RTADDR counts on a host of 48 bits.", WIDE, 1 << 47, *_UNREADABLE)
_root(
    "beyond-host-width",
    "Bits 63:48 of RTADDR do not count on a host of 48 bits.",
    WIDE,
    0xFFFF << 48,
    TO_P0,
    "FSTS 0",
)
_root("highest-bit-narrow", "Bit 38 of RTADDR counts on a host of 39 bits.", NARROW, 1 << 38, *_UNREADABLE)
_root(
    "beyond-39-bits",
    "Bits 63:39 of RTADDR do not count on a host of 39 bits.",
    NARROW,
    -1 << 39 & ~(-1 << 64),
    TO_P0,
    "FSTS 0",
)


def _mode(name: str, title: str, mode: int) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.context("A", table)
        bench.turn_on(mode)
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    expect = ("A write 0x5010 -> blocked", "fault 0x30 A 0x5000 write", "FSTS PPF")
    scenario(f"registers.rtaddr.mode-{name}", "7.1.3 RTA.1", *expect)(stimulus)


_mode("scalable", "Table mode 01, scalable, on a unit without scalable mode.", 1)
_mode("reserved", "Table mode 10, which is reserved.", 2)
_mode("abort", "Table mode 11, abort-DMA, on a unit without it.", 3)


# Commands that a half of a register starts.


def _half_starts(name: str, section: str, title: str, *, context: bool) -> None:
    """A's translation is stale; the lower half of the command is written, then the upper half with the start bit."""
    outcome = (TO_P0, TO_P0, TO_P1, "FSTS 0")

    def stimulus(bench: Bench) -> None:
        first, second = bench.new_table(), bench.new_table()
        bench.map(first, 0x5000, P0)
        bench.map(second, 0x5000, P1)
        bench.context("A", first)
        bench.turn_on()
        bench.write("A", 0x5010)
        if context:
            bench.context("A", second, domain=2)
            offset, value = CCMD.offset, CCMD.make(ICC=1, CIRG=Granularity.SELECTIVE, SID=0x20, DID=1)
        else:
            bench.memory.write_u64(bench.entry(first, 0x5000, 1), P1 | R | W)
            offset = bench.driver.capabilities.iotlb_offset + 8
            value = IOTLB.make(IVT=1, IIRG=Granularity.DOMAIN, DID=1)
        bench.platform.write_register(offset, value & 0xFFFF_FFFF, 4)
        if context:
            bench.driver.invalidate_translations()
        bench.write("A", 0x5010)
        bench.platform.write_register(offset + 4, value >> 32, 4)
        if context:
            bench.driver.invalidate_translations()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    early = Allowed(EVICTED, (TO_P0, TO_P1, TO_P1, "FSTS 0"))
    scenario(f"registers.{name}.starts-by-upper-half", section, *outcome, allowed=(early,))(stimulus)


_half_starts(
    "ccmd", "11.4.6.1", "The lower half of CCMD starts nothing; the upper half, with ICC, does.", context=True
)
_half_starts(
    "iotlb", "11.4.6.3", "The lower half of IOTLB starts nothing; the upper half, with IVT, does.", context=False
)


def invalidate_page(bench: Bench) -> Granularity:
    """Start a page-selective invalidation of domain 1 with IVA as it is; returns the granularity performed."""
    offset = bench.driver.capabilities.iotlb_offset + 8
    bench.platform.write_register(offset, IOTLB.make(IVT=1, IIRG=Granularity.SELECTIVE, DID=1), 8)
    return Granularity(IOTLB.IAIG.get(bench.platform.read_register(offset, 8)))


@scenario("registers.iva.halves", "11.2", TO_P0, "performed SELECTIVE", TO_P1, "FSTS 0")
def iva_in_halves(bench: Bench) -> None:
    """The address of a page-selective invalidation can be written as two halves, the upper one first."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    base = bench.driver.capabilities.iotlb_offset
    bench.platform.write_register(base + 4, 0, 4)
    bench.platform.write_register(base, 0x5000, 4)
    bench.note_granularity(invalidate_page(bench))
    bench.write("A", 0x5010)


@scenario(
    "registers.iva.upper-half",
    "11.4.6.4",
    TO_P0,
    "performed SELECTIVE",
    TO_P0,
    "FSTS 0",
    allowed=(
        Allowed("a unit may invalidate more than requested (6.5)", (TO_P0, "performed SELECTIVE", TO_P1, "FSTS 0")),
    ),
)
def iva_upper_half(bench: Bench) -> None:
    """The upper half of IVA counts: an invalidation of 0x1_0000_5000 leaves 0x5000 in use."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    base = bench.driver.capabilities.iotlb_offset
    bench.platform.write_register(base, 0x5000, 4)
    bench.platform.write_register(base + 4, 1, 4)
    bench.note_granularity(invalidate_page(bench))
    bench.write("A", 0x5010)


@scenario("registers.iva.stays", "11.4.6.4", *(TO_P0, TO_P1, TO_P0), "FSTS 0")
def iva_stays(bench: Bench) -> None:
    """IVA keeps its address: a second command without a new one invalidates the same page."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.platform.write_register(bench.driver.capabilities.iotlb_offset, IVA.make(ADDR=0x5000), 8)
    for page in (P1, P0):
        bench.memory.write_u64(entry, page | R | W)
        invalidate_page(bench)
        bench.write("A", 0x5010)


@scenario("registers.invalidation.while-off", "6.5.1", TO_P0, "performed GLOBAL", "performed GLOBAL", TO_P1, "FSTS 0")
def invalidation_while_off(bench: Bench) -> None:
    """Commands by register work while translation is off: what was cached before is not used afterwards."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.driver.disable()
    bench.memory.write_u64(entry, P1 | R | W)
    bench.note_granularity(bench.driver.invalidate_contexts())
    bench.note_granularity(bench.driver.invalidate_translations())
    bench.driver.enable()
    bench.write("A", 0x5010)


@scenario("registers.feaddr.64-bits", "11.4.7.4", "FEADDR 0xfee01000", "FEUADDR 0x0", "FSTS 0")
def feaddr_64_bits(bench: Bench) -> None:
    """FEADDR and FEUADDR written in one access of 64 bits, as some drivers do."""
    bench.platform.write_register(FEADDR.offset, 0xFEE0_1000, 8)
    bench.note_register(FEADDR)
    bench.note_register(FEUADDR)


@scenario("registers.fsts.nothing-set", "11.4.7.1", "FSTS 0x0", "FSTS 0")
def fsts_nothing_set(bench: Bench) -> None:
    """Ones written to FSTS set nothing."""
    bench.platform.write_register(FSTS.offset, 0xFFFF_FFFF, 4)
    bench.note_register(FSTS)


# Commands by register while the queue is on.

UNUSED = "commands by register must not be used while the queue is on (6.5.2): what one does then is not defined"


def _while_queue_is_on(name: str, title: str, *, context: bool) -> None:
    def stimulus(bench: Bench) -> None:
        bench.start()
        bench.driver.start_queue(QUEUE)
        if context:
            offset, value, done = CCMD.offset, CCMD.make(ICC=1, CIRG=Granularity.GLOBAL), CCMD.CAIG
            busy = CCMD.ICC
        else:
            offset = bench.driver.capabilities.iotlb_offset + 8
            value, done, busy = IOTLB.make(IVT=1, IIRG=Granularity.GLOBAL), IOTLB.IAIG, IOTLB.IVT
        before = done.get(bench.platform.read_register(offset, 8))
        bench.platform.write_register(offset, value, 8)
        seen = bench.platform.read_register(offset, 8)
        answer = "NONE" if done.get(seen) == 0 else "as before" if done.get(seen) == before else "else"
        bench.note(f"busy {busy.get(seen)}, performed {answer}")

    stimulus.__doc__ = title
    id_ = f"registers.{name}.while-queue-is-on"
    never = Allowed(UNUSED, ("busy 1, performed as before", "FSTS 0"))
    scenario(id_, "6.5.2", "busy 0, performed NONE", "FSTS 0", allowed=(never,))(stimulus)


_while_queue_is_on("ccmd", "A context-cache command by register while the queue is on.", context=True)
_while_queue_is_on("iotlb", "An IOTLB command by register while the queue is on.", context=False)


# Pointers of the queue.


@scenario("registers.iqa.upper-half", "11.4.9.3", "IQH 0x0", "FSTS IQE")
def iqa_upper_half(bench: Bench) -> None:
    """Bits 47:32 of IQA count: the queue is where there is no memory, and its first descriptor cannot be fetched."""
    bench.memory.write(QUEUE, WaitDescriptor.make(TYPE=5, SW=1, STADDR=QUEUE + 0x8000).to_bytes(16, "little"))
    bench.driver.start_queue(NOWHERE | QUEUE)
    bench.platform.write_register(IQT.offset, 0x10, 8)
    bench.note_register(IQH)


@scenario("registers.iqa.beyond-host-width", "11.4.9.3", "status 0x77", "FSTS 0")
def iqa_beyond_host_width(bench: Bench) -> None:
    """Bits 63:48 of IQA do not count on a host of 48 bits."""
    bench.memory.write_u64(QUEUE + 0x8000, 0)
    descriptor = WaitDescriptor.make(TYPE=5, SW=1, STDATA=0x77, STADDR=QUEUE + 0x8000)
    bench.memory.write(QUEUE, descriptor.to_bytes(16, "little"))
    bench.driver.start_queue(0xFFFF << 48 | QUEUE)
    bench.platform.write_register(IQT.offset, 0x10, 8)
    bench.note(f"status {bench.memory.read_u32(QUEUE + 0x8000):#x}")
