"""Chapters 6.4 and 6.5.2.7: interrupt entries that change: what a cached one may, must and must not still do."""

from iommu.registers import GCMD
from iommu.structures import RemappedInterruptEntry
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench
from qemu.vtd.conformance.chapters.interrupts import (
    GOOD,
    OTHER_TABLE,
    TABLE,
    A,
    address,
    entry,
    invalidation,
    put,
    sent,
    source,
    start,
    uncached,
)
from qemu.vtd.conformance.chapters.interrupts_table import BIG_TABLE, start_big
from qemu.vtd.conformance.queue import start as start_queue
from qemu.vtd.conformance.queue import wait
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.platform import DEVICES

OLD, NEW = GOOD, "0xfee03000 0x4066"

# Entries that change (6.4, 6.5.2.7).


def _changed(
    id_: str,
    title: str,
    before: int,
    after: int,
    *lines: str,
    invalidate: int | None = None,
    stale: tuple[str, ...] = (),
) -> None:
    """Entry 5 is used, changed, perhaps invalidated, and used again; `stale` is seen where the entry was cached."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        start_queue(bench)
        put(bench, 5, before)
        bench.interrupt("A", address(5))
        bench.take_faults()
        put(bench, 5, after)
        if invalidate is not None:
            bench.driver.submit(invalidate, wait(SW=1))
        bench.interrupt("A", address(5))

    stimulus.__doc__ = title
    expect, allowed = (stale, uncached(*lines)) if stale else (lines, ())
    scenario(id_, "6.5.2.7", *expect, allowed=allowed)(stimulus)


ABSENT = (sent(5, "blocked"), "fault 0x22 A index 5")
_changed(
    "ir.change.made-present",
    "An entry that was not present is used at once, without an invalidation.",
    entry(P=0),
    entry(),
    *ABSENT,
    sent(5, GOOD),
    "FSTS 0",
)
_changed(
    "ir.change.made-valid",
    "So is an entry that had a reserved bit set.",
    entry() | 1 << 100,
    entry(),
    sent(5, "blocked"),
    "fault 0x24 A index 5",
    sent(5, GOOD),
    "FSTS 0",
)
_changed(
    "ir.change.made-absent",
    "An entry that is no longer present blocks after an invalidation of its index.",
    entry(),
    entry(P=0),
    sent(5, GOOD),
    *ABSENT,
    "FSTS PPF",
    invalidate=invalidation(G=1, IIDX=5),
)
_changed(
    "ir.change.made-absent-stale",
    "Without an invalidation the cached entry is used.",
    entry(),
    entry(P=0),
    sent(5, GOOD),
    *ABSENT,
    "FSTS PPF",
    stale=(sent(5, GOOD), sent(5, GOOD), "FSTS 0"),
)
_changed(
    "ir.change.source",
    "Source validation uses the entry as it was cached, until it is invalidated.",
    entry() | source(A),
    entry() | source(A ^ 8),
    sent(5, GOOD),
    sent(5, "blocked"),
    "fault 0x26 A index 5",
    "FSTS PPF",
    stale=(sent(5, GOOD), sent(5, GOOD), "FSTS 0"),
)
_changed(
    "ir.change.destination",
    "A processor's interrupts move to another after an invalidation.",
    entry(),
    RemappedInterruptEntry.DST.put(entry(), 7 << 8),
    sent(5, GOOD),
    sent(5, "0xfee07000 0x4055"),
    "FSTS 0",
    invalidate=invalidation(G=0),
)


def _block(mask: int) -> None:
    """An invalidation of 2**mask indexes: both ends of the block are fresh."""
    first, last = 1 << mask, (2 << mask) - 1
    used = sorted({first, last})

    def stimulus(bench: Bench) -> None:
        start_big(bench, 15, *used)
        start_queue(bench)
        for index in used:
            bench.interrupt("A", address(index))
            put(bench, index, entry(0x66), table=BIG_TABLE)
        # The low bits of the index do not count.
        bench.driver.submit(invalidation(G=1, IIDX=last, IM=mask), wait(SW=1))
        for index in used:
            bench.interrupt("A", address(index))

    stimulus.__doc__ = f"IM = {mask}: the first and the last of {1 << mask} entries."
    lines = [*(sent(index, OLD) for index in used), *(sent(index, NEW) for index in used)]
    scenario(f"ir.cache.mask-{mask}", "6.5.2.7 IM", *lines, "FSTS 0")(stimulus)


for _im in range(16):
    _block(_im)


def _beside(index: int) -> None:
    """A cached entry beside a block of four is kept."""
    lines = sent(index, OLD), sent(index, OLD), "FSTS 0"

    def stimulus(bench: Bench) -> None:
        start(bench)
        start_queue(bench)
        put(bench, index, entry())
        bench.interrupt("A", address(index))
        put(bench, index, entry(0x66))
        bench.driver.submit(invalidation(G=1, IIDX=4, IM=2), wait(SW=1))
        bench.interrupt("A", address(index))

    stimulus.__doc__ = f"An invalidation of the indexes 4 to 7 keeps the cached entry {index}."
    scenario(
        f"ir.cache.beside-{index}",
        "6.5.2.7 IM",
        *lines,
        allowed=uncached(sent(index, OLD), sent(index, NEW), "FSTS 0"),
    )(stimulus)


_beside(3)
_beside(8)


@scenario(
    "ir.cache.new-table",
    "6.7",
    sent(1, OLD),
    sent(1, OLD),
    "FSTS 0",
    allowed=uncached(sent(1, OLD), sent(1, NEW), "FSTS 0"),
)
def new_table(bench: Bench) -> None:
    """SIRTP alone keeps the cached entries of the old table, in a unit without CAP.ESIRTPS."""
    start(bench)
    put(bench, 1, entry())
    put(bench, 1, entry(0x66), table=OTHER_TABLE)
    bench.interrupt("A", address(1))
    bench.driver.set_interrupt_table(OTHER_TABLE)
    bench.interrupt("A", address(1))


@scenario(
    "ir.cache.off-and-on",
    "6.4",
    sent(1, OLD),
    sent(1, OLD),
    "FSTS 0",
    allowed=uncached(sent(1, OLD), sent(1, NEW), "FSTS 0"),
)
def off_and_on(bench: Bench) -> None:
    """Turning remapping off and on keeps the cached entries, in a unit without CAP.ESIRTPS."""
    start(bench)
    put(bench, 1, entry())
    bench.interrupt("A", address(1))
    bench.platform.write_register(GCMD.offset, 0, 4)
    put(bench, 1, entry(0x66))
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))


@scenario(
    "ir.change.for-another-device",
    "6.4",
    sent(1, "blocked"),
    "fault 0x26 A index 1",
    sent(1, "blocked"),
    "fault 0x26 A index 1",
    f"B interrupt {address(1):#x} 0x0 -> {GOOD}",
    "FSTS 0",
    allowed=uncached(
        sent(1, "blocked"),
        "fault 0x26 A index 1",
        sent(1, GOOD),
        f"B interrupt {address(1):#x} 0x0 -> blocked",
        "fault 0x26 B index 1",
        "FSTS 0",
    ),
)
def for_another_device(bench: Bench) -> None:
    """An entry that rejects a device is cached too: given to that device, it needs an invalidation."""
    start(bench)
    put(bench, 1, entry() | source(DEVICES["B"]))
    bench.interrupt("A", address(1))
    bench.take_faults()
    put(bench, 1, entry() | source(A))
    for device in "AB":
        bench.interrupt(device, address(1))
        bench.take_faults()


@scenario("ir.change.was-unreadable", "6.1", sent(1, "blocked"), "fault 0x23 A index 1", sent(1, GOOD), "FSTS 0")
def was_unreadable(bench: Bench) -> None:
    """An entry that could not be read is not cached: with a table that can be read, the request is delivered."""
    bench.memory.write(TABLE, bytes(0x1000))
    put(bench, 1, entry())
    bench.driver.set_interrupt_table(NOWHERE)
    bench.driver.enable_interrupts()
    bench.interrupt("A", address(1))
    bench.take_faults()
    bench.driver.set_interrupt_table(TABLE)
    bench.interrupt("A", address(1))


@scenario(
    "ir.dma.inside-a-cached-page",
    "3.14",
    "B write 0xc0800000 -> 0x800000",
    f"B writes 4 bytes to {address(1):#x} -> {GOOD}",
    "FSTS 0",
)
def inside_a_cached_page(bench: Bench) -> None:
    """A cached page of 1 GiB around the range does not swallow an interrupt request."""
    table = bench.new_table()
    bench.map(table, 0xC000_0000, 0, size=3)
    bench.context("B", table)
    bench.turn_on()
    start(bench)
    put(bench, 1, entry())
    bench.write("B", 0xC000_0000 | P0)
    bench.write_interrupt("B", address(1))
