"""Chapter 6.5.2: the invalidation queue: descriptors, waiting, completion events, errors and going on after them.

Descriptors are written as plain numbers, from the layouts in the specification: type in bits 3:0, granularity in 5:4.
"""

from iommu import SourceId
from iommu.structures import SecondStageEntry
from qemu.vtd.conformance.bench import P0, P1, P2, Bench
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.platform import DEVICES

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
IQH, IQT, ICS, IECTL, IEDATA, IEADDR, FSTS = 0x80, 0x88, 0x9C, 0xA0, 0xA4, 0xA8, 0x34
IQE = 1 << 4
QUEUE, STATUS = 0x20_0000, 0x20_8000
DATA = 0x5A17_C0DE
ADDRESS, VECTOR = 0xFEE0_2000, 0x42
MESSAGE = f"message {ADDRESS:#x} {VECTOR:#x}"
COARSER = "a unit may invalidate more than it was asked to (6.5)"


def context(g: int, *, did: int = 0, sid: int = 0, fm: int = 0) -> int:
    """Type 1."""
    return 1 | g << 4 | did << 16 | sid << 32 | fm << 48


def iotlb(g: int, *, did: int = 0, address: int = 0, am: int = 0, ih: int = 0) -> int:
    """Type 2."""
    return 2 | g << 4 | did << 16 | (address | ih << 6 | am) << 64


def wait(*, interrupt: int = 0, status: int = 0, fence: int = 0) -> int:
    """Type 5; the status write, if asked for, is of DATA to STATUS."""
    return 5 | interrupt << 4 | status << 5 | fence << 6 | (DATA << 32 | STATUS << 64) * status


def start(bench: Bench) -> None:
    """Turn the queue on."""
    bench.memory.write(QUEUE, bytes(0x1000))
    bench.memory.write_u64(STATUS, 0)
    bench.driver.start_queue(QUEUE)


def status(bench: Bench) -> None:
    """Log what a wait descriptor has written."""
    bench.note(f"status {bench.memory.read_u32(STATUS):#x}")


def head(bench: Bench) -> None:
    """Log IQH."""
    bench.note_register("IQH", IQH, 8)


# Waiting (6.5.2.8).


@scenario("queue.wait.status", "6.5.2.8", f"status {DATA:#x}", "IQH 0x10", "FSTS 0")
def wait_status(bench: Bench) -> None:
    """A wait descriptor with SW writes its status data, and the head passes it."""
    start(bench)
    bench.driver.submit(wait(status=1))
    status(bench)
    head(bench)


@scenario("queue.wait.fence-only", "6.5.2.8", "status 0x0", "IQH 0x10", "FSTS 0")
def wait_fence_only(bench: Bench) -> None:
    """A wait descriptor with FN alone is a fence: nothing is written, and the queue goes on."""
    start(bench)
    bench.driver.submit(wait(fence=1) | DATA << 32 | STATUS << 64)
    status(bench)
    head(bench)


def _completion(bench: Bench, *, masked: bool) -> None:
    """Program the completion event, and turn the queue on."""
    start(bench)
    bench.platform.write_register(IEADDR, ADDRESS, 4)
    bench.platform.write_register(IEDATA, VECTOR, 4)
    bench.platform.write_register(IECTL, 1 << 31 if masked else 0, 4)


@scenario("queue.wait.interrupt", "6.5.2.8", MESSAGE, "ICS 0x1", "IECTL 0x0", "FSTS 0")
def wait_interrupt(bench: Bench) -> None:
    """A wait descriptor with IF sets IWC and sends the completion message."""
    _completion(bench, masked=False)
    bench.driver.submit(wait(interrupt=1))
    bench.note_messages()
    bench.note_register("ICS", ICS, 4)
    bench.note_register("IECTL", IECTL, 4)


@scenario("queue.wait.interrupt-masked", "6.5.2.8", "ICS 0x1", "IECTL 0xc0000000", MESSAGE, "IECTL 0x0", "FSTS 0")
def wait_interrupt_masked(bench: Bench) -> None:
    """While IM is 1 the message is held back; it is sent when IM is cleared."""
    _completion(bench, masked=True)
    bench.driver.submit(wait(interrupt=1))
    bench.note_messages()
    bench.note_register("ICS", ICS, 4)
    bench.note_register("IECTL", IECTL, 4)
    bench.platform.write_register(IECTL, 0, 4)
    bench.note_messages()
    bench.note_register("IECTL", IECTL, 4)


@scenario("queue.wait.two-interrupts", "6.5.2.8", MESSAGE, MESSAGE, "FSTS 0")
def wait_two_interrupts(bench: Bench) -> None:
    """Two wait descriptors with IF send one message until IWC is cleared, and the next one another."""
    _completion(bench, masked=False)
    bench.driver.submit(wait(interrupt=1), wait(interrupt=1))
    bench.note_messages()
    bench.platform.write_register(ICS, 1, 4)
    bench.driver.submit(wait(interrupt=1))
    bench.note_messages()


@scenario("queue.wait.withdrawn", "6.5.2.8", "ICS 0x0", "IECTL 0x80000000", "FSTS 0")
def wait_withdrawn(bench: Bench) -> None:
    """Clearing IWC withdraws a completion message that is held back."""
    _completion(bench, masked=True)
    bench.driver.submit(wait(interrupt=1))
    bench.platform.write_register(ICS, 1, 4)
    bench.note_register("ICS", ICS, 4)
    bench.note_register("IECTL", IECTL, 4)
    bench.platform.write_register(IECTL, 0, 4)
    bench.note_messages()
    bench.platform.write_register(IECTL, 1 << 31, 4)


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
        bench.driver.submit(descriptor, wait(status=1))
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    allowed = () if fresh else (Allowed(COARSER, FRESH),)
    scenario(id_, section, *(FRESH if fresh else STALE), allowed=allowed)(stimulus)


_remapped("queue.iotlb.global", "A global invalidation drops the page.", "6.5.2.3", iotlb(1), fresh=True)
_remapped("queue.iotlb.domain", "So does one of its domain.", "6.5.2.3", iotlb(2, did=1), fresh=True)
_remapped("queue.iotlb.other-domain", "One of another domain keeps it.", "6.5.2.3", iotlb(2, did=2), fresh=False)
_remapped("queue.iotlb.page", "One of the page drops it.", "6.5.2.3", iotlb(3, did=1, address=0x5000), fresh=True)
_remapped(
    "queue.iotlb.page-of-another-domain",
    "One of the page in another domain keeps it.",
    "6.5.2.3",
    iotlb(3, did=2, address=0x5000),
    fresh=False,
)
_remapped(
    "queue.iotlb.next-page", "One of the next page keeps it.", "6.5.2.3", iotlb(3, did=1, address=0x6000), fresh=False
)
_remapped(
    "queue.iotlb.leaf-only",
    "The hint IH drops the page all the same.",
    "6.5.2.3",
    iotlb(3, did=1, address=0x5000, ih=1),
    fresh=True,
)
_remapped(
    "queue.iotlb.unaligned-mask",
    "Address bits below the mask do not count: pages 4 to 7 are named by any of them.",
    "6.5.2.3",
    iotlb(3, did=1, address=0x7000, am=2),
    fresh=True,
)
_remapped(
    "queue.iotlb.beyond-the-mask",
    "Pages 0 to 3 are not pages 4 to 7.",
    "6.5.2.3",
    iotlb(3, did=1, address=0x0000, am=2),
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
    """An address mask of 2 drops each of the four pages."""
    table = bench.new_table()
    entries = [bench.map(table, 0x4000 + 0x1000 * n, P0) for n in range(4)]
    bench.context("A", table)
    bench.turn_on()
    start(bench)
    for n in range(4):
        bench.write("A", 0x4000 + 0x1000 * n)
    for entry in entries:
        bench.memory.write_u64(entry, P1 | R | W)
    bench.driver.submit(iotlb(3, did=1, address=0x4000, am=2), wait(status=1))
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
        bench.driver.submit(descriptor, wait(status=1))
        bench.write("A", 0x6000)

    stimulus.__doc__ = title
    now = (before, after, "FSTS 0")
    allowed = () if fresh else (Allowed(COARSER, now),)
    scenario(id_, "6.5.2.1", *(now if fresh else stale), allowed=allowed)(stimulus)


A, B = DEVICES["A"], DEVICES["B"]
SIBLING = SourceId(A.bus, A >> 3 & 31, 7)
_moved("queue.context.global", "A global invalidation makes the new context entry seen.", context(1), fresh=True)
_moved("queue.context.domain", "So does one of the old domain.", context(2, did=1), fresh=True)
_moved("queue.context.other-domain", "One of another domain keeps it.", context(2, did=3), fresh=False)
_moved("queue.context.device", "One of the device drops it.", context(3, did=1, sid=A), fresh=True)
_moved("queue.context.other-device", "One of another device keeps it.", context(3, did=1, sid=B), fresh=False)
_moved(
    "queue.context.function-mask",
    "With FM = 3 the function number does not count.",
    context(3, did=1, sid=SIBLING, fm=3),
    fresh=True,
)
_moved(
    "queue.context.no-function-mask",
    "With FM = 0 it does.",
    context(3, did=1, sid=SIBLING),
    fresh=False,
)


@scenario("queue.context.new-domain", "6.2.4", "A write 0x5000 -> 0x800000", "A write 0x5000 -> 0x802000", "FSTS 0")
def new_domain(bench: Bench) -> None:
    """Translations are cached by domain: a device that is in another one does not use those of the old."""
    bench.start()
    start(bench)
    bench.write("A", 0x5000)
    other = bench.new_table()
    bench.map(other, 0x5000, P2)
    bench.context("A", other, domain=2)
    bench.driver.submit(context(1), wait(status=1))
    bench.write("A", 0x5000)


# Errors (6.5.2.9, 11.4.9.9), and how the queue goes on.


def _refused(id_: str, title: str, descriptor: int) -> None:
    """A descriptor that is refused: IQE, and the head stays at it."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.driver.submit(wait(status=1), descriptor, wait(status=1))
        head(bench)

    stimulus.__doc__ = title
    scenario(id_, "6.5.2", "IQH 0x10", "FSTS IQE")(stimulus)


_refused("queue.error.type-0", "Type 0 is not a descriptor.", 0)
_refused("queue.error.type-10", "Nor is type 10.", 10)
_refused("queue.error.context-granularity", "Granularity 0 of a context descriptor is reserved.", context(0))
_refused("queue.error.iotlb-granularity", "So is granularity 0 of an IOTLB descriptor.", iotlb(0))
_refused("queue.error.iotlb-mask", "An address mask beyond CAP.MAMV is refused.", iotlb(3, did=1, am=63))
_refused("queue.error.context-reserved", "A reserved bit of a context descriptor is refused.", context(1) | 1 << 60)
_refused("queue.error.iotlb-reserved", "So is one of an IOTLB descriptor.", iotlb(1) | 1 << 60)
_refused("queue.error.wait-reserved", "So is one of a wait descriptor.", wait(status=1) | 1 << 20)


@scenario("queue.error.tail-beyond", "11.4.9.2", "IQH 0x0", "FSTS IQE")
def tail_beyond(bench: Bench) -> None:
    """A tail beyond the queue is an error."""
    start(bench)
    bench.platform.write_register(IQT, 0x1000, 8)
    head(bench)


@scenario("queue.error.message", "7.3", MESSAGE, "FSTS IQE")
def error_message(bench: Bench) -> None:
    """An error of the queue raises the fault event."""
    bench.platform.write_register(0x40, ADDRESS, 4)
    bench.platform.write_register(0x3C, VECTOR, 4)
    bench.platform.write_register(0x38, 0, 4)
    start(bench)
    bench.driver.submit(0)
    bench.note_messages()


@scenario("queue.error.code", "11.4.9.9", "IQERCD 0x3", "FSTS IQE")
def error_code(bench: Bench) -> None:
    """IQERCD says why: 3 is a type that is not a descriptor."""
    start(bench)
    bench.driver.submit(0)
    bench.note_register("IQERCD", 0xB0, 8)


def _mended(bench: Bench) -> None:
    """A bad descriptor in front of a good one is mended, and IQE is cleared."""
    start(bench)
    bench.driver.submit(0, wait(status=1))
    bench.memory.write(QUEUE, iotlb(1).to_bytes(16, "little"))
    bench.platform.write_register(FSTS, IQE, 4)


@scenario("queue.error.resumes", "6.5.2", f"status {DATA:#x}", "IQH 0x20", "FSTS 0")
def resumes(bench: Bench) -> None:
    """Once IQE is cleared, the queue goes on at the descriptor that was bad."""
    _mended(bench)
    status(bench)
    head(bench)


@scenario("queue.error.resumes-by-tail", "6.5.2", f"status {DATA:#x}", "IQH 0x20", "FSTS 0")
def resumes_by_tail(bench: Bench) -> None:
    """It has gone on at the latest when the tail is written again."""
    _mended(bench)
    bench.platform.write_register(IQT, 0x20, 8)
    status(bench)
    head(bench)


# Head, tail, and the end of the queue (6.5.2).


@scenario("queue.wrap", "6.5.2", "IQH 0x10", f"status {DATA:#x}", "FSTS 0")
def wrap(bench: Bench) -> None:
    """Behind the last descriptor comes the first."""
    start(bench)
    bench.driver.submit(*[iotlb(1)] * 255)
    bench.driver.submit(iotlb(1), wait(status=1))
    head(bench)
    status(bench)


@scenario("queue.several-at-once", "6.5.2", "IQH 0x30", "FSTS 0")
def several(bench: Bench) -> None:
    """The head reaches the tail, however many descriptors one write of the tail submits."""
    start(bench)
    bench.driver.submit(iotlb(1), context(1), wait(status=1))
    head(bench)


@scenario("queue.off.head-is-0", "11.4.9.1", "IQH 0x10", "IQH 0x0", "FSTS 0")
def off_head(bench: Bench) -> None:
    """Turning the queue off sets the head to 0."""
    start(bench)
    bench.driver.submit(wait(status=1))
    head(bench)
    bench.driver.stop_queue()
    head(bench)


@scenario("queue.off.tail-has-no-effect", "11.4.9.2", "status 0x0", "FSTS 0")
def off_tail(bench: Bench) -> None:
    """While the queue is off, writing the tail fetches nothing."""
    start(bench)
    bench.driver.submit(wait(status=1))
    bench.driver.stop_queue()
    bench.memory.write_u64(STATUS, 0)
    bench.memory.write(QUEUE, wait(status=1).to_bytes(16, "little"))
    bench.platform.write_register(IQT, 0x10, 8)
    status(bench)
