"""Legacy mode on a unit that has scalable mode too: the same tables, and descriptors of 128 or of 256 bits."""

from __future__ import annotations

from iommu.registers import FSTS, IQH, IQT, Granularity
from iommu.structures import DescriptorType, SecondStageEntry
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters.queue_fields import DESCRIPTORS, is_refused
from qemu.vtd.conformance.chapters.reserved import try_each
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
GLOBAL, DOMAIN, SELECTIVE = Granularity.GLOBAL, Granularity.DOMAIN, Granularity.SELECTIVE
TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
STATUS = queue.STATUS


@scenario("setup.scalable-unit.translation", "3.4.2", TO_P0, "FSTS 0", setup=SECOND_STAGE)
def translation(bench: Bench) -> None:
    """Table mode 00 is legacy mode on a unit with scalable mode too."""
    bench.start()
    bench.write("A", 0x5010)


@scenario(
    "setup.scalable-unit.not-mapped",
    "7.1.3 LGN.2",
    "A write 0x6010 -> blocked",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def not_mapped(bench: Bench) -> None:
    """Faults of legacy mode have the reasons of legacy mode."""
    bench.start()
    bench.write("A", 0x6010)


def _mode(name: str, title: str, mode: int) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.context("A", table)
        bench.turn_on(mode)
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    expect = ("A write 0x5010 -> blocked", "fault 0x30 A 0x5000 write", "FSTS PPF")
    scenario(f"setup.scalable-unit.mode-{name}", "7.1.3 RTA.1", *expect, setup=SECOND_STAGE)(stimulus)


_mode("reserved", "Table mode 10 is reserved on a unit with scalable mode too.", 2)


# Queues of 256-bit descriptors.


def start(bench: Bench, *, wide: bool) -> None:
    """Turn a queue on."""
    bench.memory.write(queue.QUEUE, bytes(0x1000))
    bench.memory.write_u64(STATUS, 0)
    bench.driver.start_queue(queue.QUEUE, wide=wide)


def _works(wide: bool) -> None:
    width = 256 if wide else 128

    @scenario(
        f"setup.scalable-unit.queue-{width}",
        "6.5.2",
        TO_P0,
        f"status {queue.DATA:#x}",
        f"IQH {4 * width // 8:#x}",
        TO_P1,
        "FSTS 0",
        setup=SECOND_STAGE,
    )
    def _(bench: Bench) -> None:
        """In legacy mode the queue may have descriptors of either width: context, IOTLB, interrupt entries, wait."""
        entry = bench.start()
        bench.write("A", 0x5010)
        bench.memory.write_u64(entry, P1 | R | W)
        start(bench, wide=wide)
        bench.driver.submit(
            queue.context(GLOBAL), queue.iotlb(DOMAIN, DID=1), DescriptorType.INTERRUPT, queue.wait(SW=1)
        )
        queue.status(bench)
        bench.note_register(IQH)
        bench.write("A", 0x5010)


_works(wide=False)
_works(wide=True)


@scenario(
    "setup.scalable-unit.wrap-256",
    "6.5.2",
    "IQH 0xfe0",
    f"status {queue.DATA:#x}",
    "IQH 0x20",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def wrap(bench: Bench) -> None:
    """A page holds 128 descriptors of 256 bits: the head wraps behind slot 127."""
    start(bench, wide=True)
    bench.driver.submit(*[queue.iotlb(GLOBAL)] * 127)
    bench.note_register(IQH)
    bench.driver.submit(queue.iotlb(GLOBAL), queue.wait(SW=1))
    queue.status(bench)
    bench.note_register(IQH)


@scenario("setup.scalable-unit.tail-unaligned", "6.5.2", "status 0x0", "IQH 0x0", "FSTS IQE", setup=SECOND_STAGE)
def tail_unaligned(bench: Bench) -> None:
    """A tail in the middle of a 256-bit descriptor stops the queue."""
    start(bench, wide=True)
    bench.memory.write(queue.QUEUE, queue.wait(SW=1).to_bytes(32, "little"))
    bench.platform.write_register(IQT.offset, 0x30, 8)
    queue.status(bench)
    bench.note_register(IQH)


@scenario("setup.scalable-unit.tail-beyond-256", "11.4.9.2", "status 0x0", "IQH 0x0", "FSTS IQE", setup=SECOND_STAGE)
def tail_beyond(bench: Bench) -> None:
    """A tail at the end of a queue of 256-bit descriptors is beyond it."""
    start(bench, wide=True)
    bench.memory.write(queue.QUEUE, queue.wait(SW=1).to_bytes(32, "little"))
    bench.platform.write_register(IQT.offset, 0x1000, 8)
    queue.status(bench)
    bench.note_register(IQH)


def refused_wide(bench: Bench, descriptor: int) -> bool:
    """As `is_refused`, in a queue of 256-bit descriptors."""
    state = bench.driver.queue
    assert state is not None
    at = state.base + state.tail
    bench.driver.submit(descriptor)
    refused = bool(bench.driver.status() & FSTS.IQE.mask)
    if refused:
        bench.memory.write(at, queue.wait(SW=1).to_bytes(32, "little"))
        bench.platform.write_register(FSTS.offset, FSTS.IQE.mask, 4)
        bench.platform.write_register(IQT.offset, state.tail, 8)
    return refused


def _upper_half(name: str, valid: int, section: str) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench, wide=True)
        bits = [128 + n for n in (0, 1, 31, 32, 62, 63, 64, 65, 95, 96, 126, 127)]
        accepted = [bit for bit in bits if not refused_wide(bench, valid | 1 << bit)]
        bench.note(f"accepted: {' '.join(map(str, accepted)) or 'none'}")
        bench.note(f"without them: {'refused' if refused_wide(bench, valid) else 'accepted'}")

    stimulus.__doc__ = f"The upper half of a 256-bit descriptor of type {name} is reserved."
    id_ = f"setup.scalable-unit.upper-half-{name}"
    scenario(id_, section, "accepted: none", "without them: accepted", "FSTS 0", setup=SECOND_STAGE)(stimulus)


for _name, _row in DESCRIPTORS.items():
    _upper_half(_name, _row.valid, _row.section)


@scenario("setup.scalable-unit.types-256", "6.5.2", "accepted: 1 2 4 5", "FSTS 0", setup=SECOND_STAGE)
def types_256(bench: Bench) -> None:
    """In legacy mode the types of scalable mode are refused, in 256-bit descriptors too."""
    start(bench, wide=True)
    descriptors = {
        1: queue.context(GLOBAL),
        2: queue.iotlb(GLOBAL),
        4: 4,
        5: queue.wait(SW=1),
        6: 2 << 4 | 6,
        7: 3 << 4 | 7,
    }
    descriptors |= {n: n for n in (0, 3, *range(8, 16))}
    accepted = [n for n in sorted(descriptors) if not refused_wide(bench, descriptors[n])]
    bench.note(f"accepted: {' '.join(map(str, accepted))}")


@scenario("setup.scalable-unit.types-128", "6.5.2", "accepted: 1 2 4 5", "FSTS 0", setup=SECOND_STAGE)
def types_128(bench: Bench) -> None:
    """The types of scalable mode are refused in 128-bit descriptors."""
    start(bench, wide=False)
    descriptors = {
        1: queue.context(GLOBAL),
        2: queue.iotlb(GLOBAL),
        4: 4,
        5: queue.wait(SW=1),
        6: 2 << 4 | 6,
        7: 3 << 4 | 7,
    }
    descriptors |= {n: n for n in (0, 3, *range(8, 16))}
    accepted = [n for n in sorted(descriptors) if not is_refused(bench, descriptors[n])]
    bench.note(f"accepted: {' '.join(map(str, accepted))}")


def _snoop(level: int, page: int, host: str) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.map(table, 0xC080_1010, page, size=level)
        bench.context("A", table)
        bench.turn_on()
        entry = bench.memory.read_u64(where)
        try_each(bench, 1 << 11, lambda bits: bench.memory.write_u64(where, entry | bits))

    stimulus.__doc__ = f"SNP of a page entry of level {level} in legacy mode without snoop control is reserved."
    lines = f"no bit -> {host}", f"bits {1 << 11:#x} -> fault 0x0c", "FSTS 0"
    scenario(f"setup.scalable-unit.snoop-level-{level}", "9.8", *lines, setup=SECOND_STAGE)(stimulus)


_snoop(1, P0, "0x800010")
_snoop(2, 0x80_0000, "0x801010")
_snoop(3, 0, "0x801010")
