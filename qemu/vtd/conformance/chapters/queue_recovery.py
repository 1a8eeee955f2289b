"""Spec 6.5.2.10: what an error of the queue stops, and how the queue goes on."""

from __future__ import annotations

from collections.abc import Callable

from iommu import Policy
from iommu.registers import GCMD, GSTS, ICS, IQERCD, IQH, IQT, TableMode
from qemu.vtd.conformance.bench import NOWHERE, P1, Bench, R, W
from qemu.vtd.conformance.chapters import messages
from qemu.vtd.conformance.queue import (
    GLOBAL,
    QUEUE,
    SELECTIVE,
    STATUS,
    clear_error,
    context,
    iotlb,
    note,
    numbered,
    put,
    start,
    tail,
    wait,
)
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import SECOND_STAGE, WIDE, Setup


def _recovered(name: str, title: str, recover: Callable[[Bench], None], *expect: str) -> None:
    """Three descriptors, the second of which is refused; then what software does; then the head and the status."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 0, numbered(1), 0, numbered(3))
        tail(bench, 3)
        note(bench)
        recover(bench)
        note(bench)

    stimulus.__doc__ = title
    scenario(f"queue.recovery.{name}", "6.5.2", "status 0x1", "IQH 0x10", *expect)(stimulus)


def _replace_and_clear(bench: Bench) -> None:
    put(bench, 1, numbered(2))
    clear_error(bench)


def _clear_and_write_tail(bench: Bench) -> None:
    _replace_and_clear(bench)
    tail(bench, 3)


def _replace_only(bench: Bench) -> None:
    put(bench, 1, numbered(2))
    tail(bench, 3)


def _clear_only(bench: Bench) -> None:
    clear_error(bench)
    tail(bench, 3)


def _more_meanwhile(bench: Bench) -> None:
    put(bench, 3, numbered(4))
    tail(bench, 4)
    put(bench, 1, numbered(2))
    clear_error(bench)
    tail(bench, 4)


def _clear_and_command(bench: Bench) -> None:
    clear_error(bench)
    state = bench.platform.read_register(GSTS.offset, 4)
    bench.platform.write_register(GCMD.offset, state & GCMD.QIE.mask, 4)


_recovered(
    "cleared",
    "The bad descriptor is replaced and IQE cleared: the queue goes on to its tail.",
    _replace_and_clear,
    "status 0x3",
    "IQH 0x30",
    "FSTS 0",
)
_recovered(
    "cleared-then-command",
    "IQE is cleared while the bad descriptor stays: it is set again, and a write of GCMD changes nothing.",
    _clear_and_command,
    "status 0x1",
    "IQH 0x10",
    "FSTS IQE",
)
_recovered(
    "cleared-and-tail",
    "With the tail written again after that, the queue has gone on at the latest then.",
    _clear_and_write_tail,
    "status 0x3",
    "IQH 0x30",
    "FSTS 0",
)
_recovered(
    "not-cleared",
    "While IQE is set, nothing is fetched, though the bad descriptor is replaced and the tail written.",
    _replace_only,
    "status 0x1",
    "IQH 0x10",
    "FSTS IQE",
)
_recovered(
    "not-replaced",
    "IQE is cleared and the bad descriptor left: the queue stops at it again.",
    _clear_only,
    "status 0x1",
    "IQH 0x10",
    "FSTS IQE",
)
_recovered(
    "more-meanwhile",
    "Descriptors that are submitted while IQE is set are carried out after it is cleared.",
    _more_meanwhile,
    "status 0x4",
    "IQH 0x40",
    "FSTS 0",
)


@scenario(
    "queue.recovery.skipped",
    "6.5.2",
    "status 0x1",
    "IQH 0x10",
    "status 0x1",
    "IQH 0x10",
    "status 0x9",
    "IQH 0x20",
    "FSTS 0",
)
def skipped(bench: Bench) -> None:
    """Software takes the descriptors after the bad one back: the tail returns to the head, and goes on from there."""
    start(bench)
    put(bench, 0, numbered(1), 0, numbered(3))
    tail(bench, 3)
    note(bench)
    tail(bench, 1)
    clear_error(bench)
    note(bench)
    put(bench, 1, numbered(9))
    tail(bench, 2)
    note(bench)


@scenario("queue.recovery.tail-beyond", "11.4.9.2", "status 0x0", "IQH 0x0", "status 0x1", "IQH 0x10", "FSTS 0")
def tail_beyond(bench: Bench) -> None:
    """After a tail beyond the end, a good tail and IQE cleared let the queue go on."""
    start(bench)
    put(bench, 0, numbered(1))
    tail(bench, 256)
    note(bench)
    tail(bench, 0)
    clear_error(bench)
    tail(bench, 1)
    note(bench)


@scenario("queue.recovery.twice", "7.3", messages.MESSAGE, messages.MESSAGE, "status 0x3", "IQH 0x30", "FSTS 0")
def twice(bench: Bench) -> None:
    """Two bad descriptors: each sets IQE and sends a message, since the first was cleared before."""
    messages.program_event(bench)
    start(bench)
    put(bench, 0, 0, 0, numbered(3))
    for slot in (0, 1):
        tail(bench, 3)
        bench.note_messages()
        tail(bench, slot)
        put(bench, slot, numbered(slot + 1))
        clear_error(bench)
    tail(bench, 3)
    note(bench)


@scenario(
    "queue.error.invalidations-before",
    "6.5.2",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> 0x801010",
    "FSTS IQE",
)
def invalidations_before(bench: Bench) -> None:
    """What stands before the bad descriptor has been carried out."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    start(bench)
    put(bench, 0, iotlb(GLOBAL), numbered(1), 0)
    tail(bench, 3)
    bench.write("A", 0x5010)


@scenario(
    "queue.error.invalidations-after",
    "6.5.2",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> 0x800010",
    "FSTS IQE",
    allowed=(
        Allowed(
            "a unit may evict a cached entry at any time (6.2.1)",
            ("A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010", "FSTS IQE"),
        ),
    ),
)
def invalidations_after(bench: Bench) -> None:
    """What stands behind the bad descriptor has not been carried out."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    start(bench)
    put(bench, 0, 0, iotlb(GLOBAL), numbered(1))
    tail(bench, 3)
    bench.write("A", 0x5010)


@scenario(
    "queue.error.status-write",
    "6.5.2.8",
    "IQH 0x0",
    "FSTS IQE",
    allowed=(
        Allowed(
            "the head may pass a wait descriptor whose status cannot be written (doubt D-14)",
            ("IQH 0x10", "FSTS IQE"),
            Policy(status_write_fault_taken=True),
        ),
        Allowed("the status may be lost and the queue go on: the outcome is undefined", ("IQH 0x10", "FSTS 0")),
    ),
)
def status_write(bench: Bench) -> None:
    """A status address without memory is undefined: the queue stops, before or after the wait, or goes on."""
    start(bench)
    put(bench, 0, numbered(1, at=NOWHERE | STATUS))
    tail(bench, 1)
    bench.note_register(IQH)


@scenario("queue.error.width-without-scalable", "6.5.2", "status 0x0", "IQH 0x0", "FSTS IQE")
def width_without_scalable(bench: Bench) -> None:
    """Descriptors of 256 bits on a unit without scalable mode: the first one stops the queue."""
    bench.memory.write_u64(STATUS, 0)
    bench.driver.start_queue(QUEUE, wide=True)
    put(bench, 0, numbered(1), 0)
    bench.platform.write_register(IQT.offset, 0x20, 8)
    note(bench)


# The causes that IQERCD gives (11.4.9.9).


def _code(name: str, title: str, code: int, cause: Callable[[Bench], None], setup: Setup = WIDE) -> None:
    def stimulus(bench: Bench) -> None:
        cause(bench)
        bench.note_register(IQERCD)

    stimulus.__doc__ = title
    scenario(f"queue.error.code-{name}", "11.4.9.9", f"IQERCD {code:#x}", "FSTS IQE", setup=setup)(stimulus)


def _one(descriptor: int, *, wide: bool = False) -> Callable[[Bench], None]:
    """A queue with one descriptor."""

    def cause(bench: Bench) -> None:
        bench.driver.start_queue(QUEUE, wide=wide)
        bench.driver.submit(descriptor)

    return cause


def _tail_at(offset: int, *, wide: bool = False) -> Callable[[Bench], None]:
    """A queue whose tail is written."""

    def cause(bench: Bench) -> None:
        bench.driver.start_queue(QUEUE, wide=wide)
        bench.platform.write_register(IQT.offset, offset, 8)

    return cause


def _unreadable(bench: Bench) -> None:
    bench.driver.start_queue(NOWHERE | QUEUE)
    bench.platform.write_register(IQT.offset, 0x10, 8)


_code("tail", "1: the tail is beyond the end of the queue.", 1, _tail_at(0x1000))
_code("fetch", "2: the descriptor cannot be read.", 2, _unreadable)
_code("type-first", "3, for an unknown type, whatever reserved bits are set.", 3, _one((1 << 128) - 1))
_code("granularity", "4: a reserved granularity.", 4, _one(context(0)))
_code("reserved", "4: a reserved bit.", 4, _one(wait(SW=1) | 1 << 20))
_code("mask", "4: an address mask beyond CAP.MAMV.", 4, _one(iotlb(SELECTIVE, AM=19)))
_code("width", "5: descriptors of 256 bits on a unit without scalable mode.", 5, _one(wait(SW=1), wide=True))
_code(
    "alignment",
    "6: a tail in the middle of a 256-bit descriptor.",
    6,
    _tail_at(0x10, wide=True),
    SECOND_STAGE,
)
_code(
    "upper-half",
    "4: a bit of the upper half of a 256-bit descriptor.",
    4,
    _one(wait(SW=1) | 1 << 200, wide=True),
    SECOND_STAGE,
)


# Code 7: a table mode that the unit does not have. It is latched as any other; the queue then stops at once.


def _mode(name: str, title: str, mode: int) -> None:
    def cause(bench: Bench) -> None:
        bench.driver.set_root_table(bench.root, mode)
        start(bench)
        put(bench, 0, numbered(1))
        tail(bench, 1)

    def stimulus(bench: Bench) -> None:
        cause(bench)
        note(bench)

    _code(f"mode-{name}", f"7: {title}", 7, cause)
    stimulus.__doc__ = f"The queue stops at its first descriptor: {title}"
    scenario(f"queue.error.mode-{name}", "6.5.2", "status 0x0", "IQH 0x0", "FSTS IQE")(stimulus)


_mode("reserved", "a reserved table mode.", 2)
_mode("scalable", "scalable mode on a unit without it.", TableMode.SCALABLE)
_mode("abort", "abort-DMA mode on a unit without it.", TableMode.ABORT_DMA)


@scenario("queue.error.status-write-event", "6.5.2.8", "IQH 0x0", "ICS 0x0", "FSTS IQE")
def status_write_event(bench: Bench) -> None:
    """A wait descriptor with SW and IF, whose status cannot be written, does not complete, and raises no event."""
    start(bench)
    bench.driver.submit(wait(SW=1, IF=1, STADDR=NOWHERE))
    bench.note_register(IQH)
    bench.note_register(ICS)
