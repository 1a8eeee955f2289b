"""Chapter 6.5.2: the invalidation queue: descriptors, waiting, completion events, errors and resuming after them."""

from iommu import SourceId
from iommu.registers import ICS, IECTL, IQERCD, IQH
from qemu.vtd.conformance.bench import P0, P1, P2, Bench, R, W
from qemu.vtd.conformance.chapters import messages
from qemu.vtd.conformance.queue import (
    DATA,
    DOMAIN,
    GLOBAL,
    MESSAGE,
    SELECTIVE,
    STATUS,
    clear_error,
    context,
    iotlb,
    note,
    program_completion,
    put,
    start,
    status,
    tail,
    wait,
)
from qemu.vtd.conformance.scenario import COARSER, Allowed, scenario
from qemu.vtd.platform import DEVICES

# Waiting (6.5.2.8).


@scenario("queue.wait.status", "6.5.2.8", f"status {DATA:#x}", "IQH 0x10", "FSTS 0")
def wait_status(bench: Bench) -> None:
    """A wait descriptor with SW writes its status data, and the head passes it."""
    start(bench)
    bench.driver.submit(wait(SW=1))
    note(bench)


@scenario("queue.wait.fence-only", "6.5.2.8", "status 0x0", "IQH 0x10", "FSTS 0")
def wait_fence_only(bench: Bench) -> None:
    """A wait descriptor with FN alone is a fence: nothing is written, and the next descriptor is fetched."""
    start(bench)
    bench.driver.submit(wait(FN=1))
    note(bench)


@scenario("queue.wait.interrupt", "6.5.2.8", MESSAGE, "ICS 0x1", "IECTL 0x0", "FSTS 0")
def wait_interrupt(bench: Bench) -> None:
    """A wait descriptor with IF sets IWC and sends the completion message."""
    start(bench)
    program_completion(bench, masked=False)
    bench.driver.submit(wait(IF=1))
    bench.note_messages()
    bench.note_register(ICS)
    bench.note_register(IECTL)


@scenario("queue.wait.both", "6.5.2.8", f"status {DATA:#x}", MESSAGE, "ICS 0x1", "IQH 0x10", "FSTS 0")
def wait_both(bench: Bench) -> None:
    """A wait descriptor with SW and IF does both: it writes the status, and sends the message."""
    start(bench)
    program_completion(bench, masked=False)
    bench.driver.submit(wait(SW=1, IF=1))
    status(bench)
    bench.note_messages()
    bench.note_register(ICS)
    bench.note_register(IQH)


@scenario("queue.wait.interrupt-masked", "6.5.2.8", "ICS 0x1", "IECTL 0xc0000000", MESSAGE, "IECTL 0x0", "FSTS 0")
def wait_interrupt_masked(bench: Bench) -> None:
    """While IM is 1 the completion message is held back; it is sent when IM is cleared."""
    start(bench)
    program_completion(bench, masked=True)
    bench.driver.submit(wait(IF=1))
    bench.note_messages()
    bench.note_register(ICS)
    bench.note_register(IECTL)
    bench.platform.write_register(IECTL.offset, 0, 4)
    bench.note_messages()
    bench.note_register(IECTL)


@scenario("queue.wait.two-interrupts", "6.5.2.8", MESSAGE, "ICS 0x0", MESSAGE, "FSTS 0")
def wait_two_interrupts(bench: Bench) -> None:
    """Two wait descriptors with IF send one message; after IWC is cleared, the next one sends another."""
    start(bench)
    program_completion(bench, masked=False)
    bench.driver.submit(wait(IF=1), wait(IF=1))
    bench.note_messages()
    bench.platform.write_register(ICS.offset, ICS.IWC.mask, 4)
    bench.note_register(ICS)
    bench.driver.submit(wait(IF=1))
    bench.note_messages()


@scenario("queue.wait.withdrawn", "6.5.2.8", "ICS 0x0", "IECTL 0x80000000", "FSTS 0")
def wait_withdrawn(bench: Bench) -> None:
    """Clearing IWC withdraws a completion message that is held back."""
    start(bench)
    program_completion(bench, masked=True)
    bench.driver.submit(wait(IF=1))
    bench.platform.write_register(ICS.offset, ICS.IWC.mask, 4)
    bench.note_register(ICS)
    bench.note_register(IECTL)
    bench.platform.write_register(IECTL.offset, 0, 4)
    bench.note_messages()


# What the descriptors invalidate (6.5.2.1, 6.5.2.3).

TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
STALE, FRESH = (TO_P0, TO_P0, "FSTS 0"), (TO_P0, TO_P1, "FSTS 0")


def _remapped(id_: str, title: str, section: str, descriptor: int, *, fresh: bool) -> None:
    """0x5000 of A, in domain 1, is used, moved to another page, and used again after one descriptor."""

    def stimulus(bench: Bench) -> None:
        entry = bench.start()
        start(bench)
        bench.write("A", 0x5010)
        bench.memory.write_u64(entry, P1 | R | W)
        bench.driver.submit(descriptor, wait(SW=1))
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    allowed = () if fresh else (Allowed(COARSER, FRESH),)
    scenario(id_, section, *(FRESH if fresh else STALE), allowed=allowed)(stimulus)


_remapped(
    "queue.iotlb.global", "A global IOTLB invalidation drops the cached page.", "6.5.2.3", iotlb(GLOBAL), fresh=True
)
_remapped(
    "queue.iotlb.domain",
    "A domain-selective IOTLB invalidation drops the domain's cached page.",
    "6.5.2.3",
    iotlb(DOMAIN, DID=1),
    fresh=True,
)
_remapped(
    "queue.iotlb.other-domain",
    "An IOTLB invalidation of another domain keeps the cached page.",
    "6.5.2.3",
    iotlb(DOMAIN, DID=2),
    fresh=False,
)
_remapped(
    "queue.iotlb.page",
    "A page-selective IOTLB invalidation drops the cached page.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=1, ADDR=0x5000),
    fresh=True,
)
_remapped(
    "queue.iotlb.page-of-another-domain",
    "An IOTLB invalidation of the same page in another domain keeps the cached page.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=2, ADDR=0x5000),
    fresh=False,
)
_remapped(
    "queue.iotlb.next-page",
    "An IOTLB invalidation of the next page keeps the cached page.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=1, ADDR=0x6000),
    fresh=False,
)
_remapped(
    "queue.iotlb.leaf-only",
    "A page-selective IOTLB invalidation with the hint IH drops the cached page too.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=1, ADDR=0x5000, IH=1),
    fresh=True,
)
_remapped(
    "queue.iotlb.unaligned-mask",
    "Address bits below AM do not count: any of pages 4 to 7 selects all four.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=1, ADDR=0x7000, AM=2),
    fresh=True,
)
_remapped(
    "queue.iotlb.beyond-the-mask",
    "An IOTLB invalidation of pages 0 to 3 keeps cached page 5.",
    "6.5.2.3",
    iotlb(SELECTIVE, DID=1, ADDR=0x0000, AM=2),
    fresh=False,
)


@scenario(
    "queue.iotlb.every-page-of-the-mask",
    "6.5.2.3",
    *(f"A write {0x4000 + 0x1000 * n:#x} -> 0x800000" for n in range(4)),
    *(f"A write {0x4000 + 0x1000 * n:#x} -> 0x801000" for n in range(4)),
    "FSTS 0",
)
def every_page_of_the_mask(bench: Bench) -> None:
    """An IOTLB invalidation with AM = 2 drops each of the four pages."""
    table = bench.new_table()
    entries = [bench.map(table, 0x4000 + 0x1000 * n, P0) for n in range(4)]
    bench.context("A", table)
    bench.turn_on()
    start(bench)
    for n in range(4):
        bench.write("A", 0x4000 + 0x1000 * n)
    for entry in entries:
        bench.memory.write_u64(entry, P1 | R | W)
    bench.driver.submit(iotlb(SELECTIVE, DID=1, ADDR=0x4000, AM=2), wait(SW=1))
    for n in range(4):
        bench.write("A", 0x4000 + 0x1000 * n)


def _moved(id_: str, title: str, descriptor: int, *, fresh: bool) -> None:
    """A's context entry is given another table, which maps 0x6000; what is seen of it after one descriptor."""
    before, after = "A write 0x5000 -> 0x800000", "A write 0x6000 -> 0x802000"
    stale = (before, "A write 0x6000 -> blocked", "fault 0x05 A 0x6000 write", "FSTS PPF")

    def stimulus(bench: Bench) -> None:
        bench.start()
        start(bench)
        bench.write("A", 0x5000)
        other = bench.new_table()
        bench.map(other, 0x6000, P2)
        bench.context("A", other, domain=2)
        bench.driver.submit(descriptor, wait(SW=1))
        bench.write("A", 0x6000)

    stimulus.__doc__ = title
    now = (before, after, "FSTS 0")
    allowed = () if fresh else (Allowed(COARSER, now),)
    scenario(id_, "6.5.2.1", *(now if fresh else stale), allowed=allowed)(stimulus)


A, B = DEVICES["A"], DEVICES["B"]
SIBLING = SourceId(A.bus, A >> 3 & 31, 7)
_moved(
    "queue.context.global",
    "After a global context-cache invalidation the new context entry is used.",
    context(GLOBAL),
    fresh=True,
)
_moved(
    "queue.context.domain",
    "After a context-cache invalidation of the old domain the new context entry is used.",
    context(DOMAIN, DID=1),
    fresh=True,
)
_moved(
    "queue.context.other-domain",
    "A context-cache invalidation of another domain keeps the cached context entry.",
    context(DOMAIN, DID=3),
    fresh=False,
)
_moved(
    "queue.context.device",
    "After a context-cache invalidation of the device the new context entry is used.",
    context(SELECTIVE, DID=1, SID=A),
    fresh=True,
)
_moved(
    "queue.context.other-device",
    "A context-cache invalidation of another device keeps the cached context entry.",
    context(SELECTIVE, DID=1, SID=B),
    fresh=False,
)
_moved(
    "queue.context.function-mask",
    "A context-cache invalidation with FM = 3 ignores the function number.",
    context(SELECTIVE, DID=1, SID=SIBLING, FM=3),
    fresh=True,
)
_moved(
    "queue.context.no-function-mask",
    "A context-cache invalidation with FM = 0 compares the function number.",
    context(SELECTIVE, DID=1, SID=SIBLING),
    fresh=False,
)


@scenario("queue.context.new-domain", "6.2.4", "A write 0x5000 -> 0x800000", "A write 0x5000 -> 0x802000", "FSTS 0")
def new_domain(bench: Bench) -> None:
    """Translations are tagged by domain: a device moved to another domain does not use those of the old one."""
    bench.start()
    start(bench)
    bench.write("A", 0x5000)
    other = bench.new_table()
    bench.map(other, 0x5000, P2)
    bench.context("A", other, domain=2)
    bench.driver.submit(context(GLOBAL), wait(SW=1))
    bench.write("A", 0x5000)


# Errors (6.5.2.10, 11.4.9.9), and how the queue resumes.


def _refused(id_: str, title: str, descriptor: int) -> None:
    """A descriptor that is refused: IQE, and the head stays at it."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.driver.submit(wait(SW=1), descriptor, wait(SW=1))
        bench.note_register(IQH)

    stimulus.__doc__ = title
    scenario(id_, "6.5.2", "IQH 0x10", "FSTS IQE")(stimulus)


_refused("queue.error.type-0", "A descriptor of type 0 is refused.", 0)
_refused("queue.error.type-10", "A descriptor of type 10 is refused.", 10)
_refused("queue.error.context-granularity", "Granularity 0 of a context-cache descriptor is refused.", context(0))
_refused("queue.error.iotlb-granularity", "Granularity 0 of an IOTLB descriptor is refused.", iotlb(0))
_refused("queue.error.iotlb-mask", "An address mask beyond CAP.MAMV is refused.", iotlb(SELECTIVE, DID=1, AM=63))
_refused(
    "queue.error.context-reserved",
    "A reserved bit in a context-cache descriptor is refused.",
    context(GLOBAL) | 1 << 60,
)
_refused("queue.error.iotlb-reserved", "A reserved bit in an IOTLB descriptor is refused.", iotlb(GLOBAL) | 1 << 60)
_refused("queue.error.wait-reserved", "A reserved bit in a wait descriptor is refused.", wait(SW=1) | 1 << 20)


@scenario("queue.error.tail-beyond", "11.4.9.2", "IQH 0x0", "FSTS IQE")
def tail_beyond(bench: Bench) -> None:
    """A tail beyond the end of the queue is an error."""
    start(bench)
    tail(bench, 256)
    bench.note_register(IQH)


@scenario("queue.error.message", "7.3", messages.MESSAGE, "FSTS IQE")
def error_message(bench: Bench) -> None:
    """An error of the queue raises the fault event."""
    messages.program_event(bench)
    start(bench)
    bench.driver.submit(0)
    bench.note_messages()


@scenario("queue.error.code", "11.4.9.9", "IQERCD 0x3", "FSTS IQE")
def error_code(bench: Bench) -> None:
    """IQERCD gives the cause of IQE: 3 is an invalid descriptor type."""
    start(bench)
    bench.driver.submit(0)
    bench.note_register(IQERCD)


def _repaired(bench: Bench) -> None:
    """A bad descriptor before a good one is replaced, and IQE is cleared."""
    start(bench)
    bench.driver.submit(0, wait(SW=1))
    put(bench, 0, iotlb(GLOBAL))
    clear_error(bench)


@scenario("queue.error.resumes", "6.5.2", f"status {DATA:#x}", "IQH 0x20", "FSTS 0")
def resumes(bench: Bench) -> None:
    """Once IQE is cleared, the queue resumes at the descriptor that was refused."""
    _repaired(bench)
    note(bench)


@scenario("queue.error.resumes-by-tail", "6.5.2", f"status {DATA:#x}", "IQH 0x20", "FSTS 0")
def resumes_by_tail(bench: Bench) -> None:
    """After IQE is cleared, the queue has resumed at the latest when the tail is written."""
    _repaired(bench)
    tail(bench, 2)
    note(bench)


# Head, tail, and the end of the queue (6.5.2).


@scenario("queue.wrap", "6.5.2", "IQH 0x10", f"status {DATA:#x}", "FSTS 0")
def wrap(bench: Bench) -> None:
    """After the last descriptor of the queue the head wraps to the first."""
    start(bench)
    bench.driver.submit(*[iotlb(GLOBAL)] * 255)
    bench.driver.submit(iotlb(GLOBAL), wait(SW=1))
    bench.note_register(IQH)
    status(bench)


@scenario("queue.several-at-once", "6.5.2", "IQH 0x30", "FSTS 0")
def several(bench: Bench) -> None:
    """One write of the tail can submit several descriptors."""
    start(bench)
    bench.driver.submit(iotlb(GLOBAL), context(GLOBAL), wait(SW=1))
    bench.note_register(IQH)


@scenario("queue.off.head-is-0", "11.4.9.1", "IQH 0x10", "IQH 0x0", "FSTS 0")
def off_head(bench: Bench) -> None:
    """Turning the queue off sets the head to 0."""
    start(bench)
    bench.driver.submit(wait(SW=1))
    bench.note_register(IQH)
    bench.driver.stop_queue()
    bench.note_register(IQH)


@scenario("queue.off.tail-has-no-effect", "11.4.9.2", "status 0x0", "FSTS 0")
def off_tail(bench: Bench) -> None:
    """While the queue is off, writing the tail fetches nothing."""
    start(bench)
    bench.driver.submit(wait(SW=1))
    bench.driver.stop_queue()
    bench.memory.write_u64(STATUS, 0)
    put(bench, 0, wait(SW=1))
    tail(bench, 1)
    status(bench)
