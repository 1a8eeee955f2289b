"""Spec 6.5.2: descriptors of 256 bits, those of scalable mode, and what a queue must be like in it."""

from dataclasses import dataclass

from iommu.registers import FSTS, IQH, IQT, TableMode
from iommu.structures import DescriptorType, PageResponseDescriptor
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE, WIDE, Setup


def start(bench: Bench, mode: int, *, wide: bool) -> int:
    """Latch a root table and a mode, and turn the queue on; returns where it is."""
    queue = bench.new_table()
    bench.driver.set_root_table(bench.root, mode)
    bench.driver.start_queue(queue, wide=wide)
    return queue


@dataclass(frozen=True)
class Kind:
    """A type of descriptor: a plain valid one, and the bits that must be 0 in it, by their position."""

    name: str
    section: str
    plain: int
    reserved: tuple[tuple[int, int], ...]


_UPPER = ((255, 128),)
# What the layout of each type leaves reserved, on a unit without ECAP.PDS.
CONTEXT = Kind("context", "6.5.2.1", 1 | 1 << 4, ((127, 64), (63, 50), (15, 12), (8, 6)))
IOTLB = Kind("iotlb", "6.5.2.3", 2 | 1 << 4, ((75, 71), (63, 32), (15, 12), (8, 8)))
INTERRUPT = Kind("interrupt", "6.5.2.7", 4, ((127, 64), (63, 48), (26, 12), (8, 5)))
WAIT = Kind("wait", "6.5.2.8", 5 | 1 << 5, ((65, 64), (31, 12), (8, 8), (7, 7)))
PASID_IOTLB = Kind("pasid-iotlb", "6.5.2.4", 6 | 2 << 4, ((75, 71), (63, 52), (15, 12), (8, 6)))
PASID_CACHE = Kind("pasid-cache", "6.5.2.2", 7 | 3 << 4, ((127, 64), (63, 52), (15, 12), (8, 6)))
KINDS = (CONTEXT, IOTLB, INTERRUPT, WAIT, PASID_IOTLB, PASID_CACHE)


def note_status(bench: Bench) -> None:
    """Log how far the queue got, and FSTS."""
    bench.note_register(IQH)
    bench.note_faults()


def _accepted(kind: Kind) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench, TableMode.SCALABLE, wide=True)
        bench.driver.submit(_plain(bench, kind))
        bench.note_register(IQH)

    stimulus.__doc__ = f"A plain descriptor of 256 bits is carried out: {kind.name.replace('-', ' ')}."
    lines = ("IQH 0x20", "FSTS 0")
    scenario(f"scalable.queue.accepted.{kind.name}", kind.section, *lines, setup=SECOND_STAGE)(stimulus)


def _plain(bench: Bench, kind: Kind) -> int:
    """The plain descriptor; a wait descriptor writes its status to a page of its own."""
    return kind.plain | (bench.new_table() << 64 if kind is WAIT else 0)


def _refused(kind: Kind, name: str, runs: tuple[tuple[int, int], ...]) -> None:
    """Each reserved bit alone stops the queue. The bit is then cleared in memory, and the queue goes on."""
    bits = [bit for msb, lsb in runs for bit in range(msb, lsb - 1, -1)]

    def stimulus(bench: Bench) -> None:
        queue = start(bench, TableMode.SCALABLE, wide=True)
        plain = _plain(bench, kind)
        for number, bit in enumerate(bits):
            where = queue + number * 32 % 0x1000
            bench.driver.submit(plain | 1 << bit)
            bench.note(f"bit {bit}")
            bench.note_faults()
            bench.memory.write(where, plain.to_bytes(32, "little"))
            bench.platform.write_register(FSTS.offset, FSTS.IQE.mask, 4)
            # Clearing IQE is enough for the specification, see queue.error.resumes.
            tail = (number + 1) * 32 % 0x1000
            bench.platform.write_register(IQT.offset, tail, 8)
        note_status(bench)

    stimulus.__doc__ = f"Each reserved bit of a {kind.name.replace('-', ' ')} descriptor is refused: {name}."
    lines = [line for bit in bits for line in (f"bit {bit}", "FSTS IQE")]
    end = f"IQH {len(bits) * 32 % 0x1000:#x}"
    id_ = f"scalable.queue.reserved.{kind.name}.{name}"
    scenario(id_, kind.section, *lines, end, "FSTS 0", "FSTS 0", setup=SECOND_STAGE)(stimulus)


for _kind in KINDS:
    _accepted(_kind)
    _refused(_kind, "lower", _kind.reserved)
    _refused(_kind, "upper", _UPPER)


def _one(
    id_: str,
    section: str,
    title: str,
    descriptor: int,
    *expect: str,
    mode: int = TableMode.SCALABLE,
    wide: bool = True,
    setup: Setup = SECOND_STAGE,
) -> None:
    """One descriptor, and how far the queue got."""

    def stimulus(bench: Bench) -> None:
        start(bench, mode, wide=wide)
        bench.driver.submit(descriptor)
        bench.note_register(IQH)

    stimulus.__doc__ = title
    scenario(id_, section, *expect, setup=setup)(stimulus)


_STOPPED = ("IQH 0x0", "FSTS IQE")
for _g in (0, 1):
    _one(
        f"scalable.queue.granularity.pasid-iotlb-{_g}",
        "6.5.2.4",
        f"Granularity {_g} of a PASID-based IOTLB descriptor is reserved.",
        DescriptorType.PASID_IOTLB | _g << 4,
        *_STOPPED,
    )
_one(
    "scalable.queue.granularity.pasid-cache-2",
    "6.5.2.2",
    "Granularity 2 of a PASID-cache descriptor is reserved.",
    DescriptorType.PASID_CACHE | 2 << 4,
    *_STOPPED,
)
_one(
    "scalable.queue.granularity.context-0",
    "6.5.2.1",
    "Granularity 0 of a context-cache descriptor is reserved.",
    DescriptorType.CONTEXT,
    *_STOPPED,
)
_one(
    "scalable.queue.granularity.iotlb-0",
    "6.5.2.3",
    "Granularity 0 of an IOTLB descriptor is reserved.",
    DescriptorType.IOTLB,
    *_STOPPED,
)
_one(
    "scalable.queue.pasid-iotlb-large-mask",
    "6.5.2.4",
    "The address mask of a PASID-based IOTLB descriptor may exceed CAP.MAMV.",
    DescriptorType.PASID_IOTLB | 3 << 4 | 20 << 64,
    *("IQH 0x20", "FSTS 0"),
)
_one(
    "scalable.queue.iotlb-large-mask",
    "6.5.2.3",
    "The address mask of an IOTLB descriptor must not exceed CAP.MAMV.",
    DescriptorType.IOTLB | 3 << 4 | 20 << 64,
    *_STOPPED,
)
for _type in (0, 10, 15):
    _one(
        f"scalable.queue.type-{_type}",
        "6.5.2",
        f"A descriptor of type {_type}, which does not exist, stops the queue.",
        _type,
        *_STOPPED,
    )
_one(
    "scalable.queue.type-high",
    "6.5.2",
    "Bits 11:9 are part of the type: a descriptor of type 0x11, which does not exist, stops the queue.",
    DescriptorType.CONTEXT | 1 << 4 | 1 << 9,
    *_STOPPED,
)
_one(
    "scalable.queue.narrow",
    "6.5.2",
    "A descriptor of 128 bits stops the queue in scalable mode.",
    CONTEXT.plain,
    *_STOPPED,
    wide=False,
)
_one(
    "scalable.queue.wide-in-legacy-mode",
    "6.5.2",
    "Legacy mode takes descriptors of 256 bits on a unit with scalable mode.",
    CONTEXT.plain,
    *("IQH 0x20", "FSTS 0"),
    mode=TableMode.LEGACY,
)
for _kind in (PASID_IOTLB, PASID_CACHE):
    _one(
        f"scalable.queue.in-legacy-mode.{_kind.name}",
        "6.5.2",
        f"A {_kind.name.replace('-', ' ')} descriptor stops the queue in legacy mode.",
        _kind.plain,
        *_STOPPED,
        mode=TableMode.LEGACY,
    )
    _one(
        f"scalable.queue.not-offered.{_kind.name}",
        "6.5.2",
        f"A {_kind.name.replace('-', ' ')} descriptor stops the queue of a unit without scalable mode.",
        _kind.plain,
        *_STOPPED,
        mode=TableMode.LEGACY,
        wide=False,
        setup=WIDE,
    )
_one(
    "scalable.queue.page-response-not-offered",
    "7.6.1",
    "A page response stops the queue of a unit without ECAP.PRS.",
    DescriptorType.PAGE_RESPONSE,
    *_STOPPED,
)
_one(
    "scalable.queue.page-response-not-offered-pasid",
    "7.6.1",
    "A page response with a PASID stops the queue of a unit without ECAP.PRS.",
    PageResponseDescriptor.make(TYPE=DescriptorType.PAGE_RESPONSE, PP=1),
    *_STOPPED,
)
_one(
    "scalable.queue.page-response-in-legacy-mode",
    "7.6.1",
    "A page response with a PASID stops the queue of a unit without scalable mode.",
    PageResponseDescriptor.make(TYPE=DescriptorType.PAGE_RESPONSE, PP=1),
    *_STOPPED,
    mode=TableMode.LEGACY,
    wide=False,
    setup=WIDE,
)
_one(
    "scalable.queue.device-not-offered",
    "6.5.2.6",
    "A PASID-based device-TLB descriptor stops the queue of a unit without ECAP.DT.",
    DescriptorType.PASID_DEVICE_TLB,
    *_STOPPED,
)


@scenario("scalable.queue.tail-misaligned", "6.5.2", "IQH 0x0", "FSTS IQE", setup=SECOND_STAGE)
def tail_misaligned(bench: Bench) -> None:
    """With descriptors of 256 bits, bit 4 of the tail must be 0."""
    start(bench, TableMode.SCALABLE, wide=True)
    bench.platform.write_register(IQT.offset, 0x10, 8)
    bench.note_register(IQH)


@scenario("scalable.queue.wraps", "6.5.2", "IQH 0xfe0", "IQH 0x0", "FSTS 0", setup=SECOND_STAGE)
def wraps(bench: Bench) -> None:
    """A page holds 128 descriptors of 256 bits; after the last comes the first."""
    start(bench, TableMode.SCALABLE, wide=True)
    bench.driver.submit(*[CONTEXT.plain] * 127)
    bench.note_register(IQH)
    bench.driver.submit(CONTEXT.plain)
    bench.note_register(IQH)


@scenario("scalable.queue.wait-status", "6.5.2.8", "status 0x5a17c0de", "IQH 0x20", "FSTS 0", setup=SECOND_STAGE)
def wait_status(bench: Bench) -> None:
    """A wait descriptor of 256 bits writes its status."""
    start(bench, TableMode.SCALABLE, wide=True)
    status = bench.new_table()
    bench.driver.submit(DescriptorType.WAIT | 1 << 5 | 0x5A17C0DE << 32 | status << 64)
    bench.note(f"status {bench.memory.read_u32(status):#x}")
    bench.note_register(IQH)
