"""Spec 6.5.2, 11.4.9: the size and the end of the queue, its head and tail, and turning it on and off."""

from __future__ import annotations

from iommu import Policy
from iommu.registers import GCMD, GSTS, IQA, IQH, IQT
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.queue import (
    GLOBAL,
    QUEUE,
    STATUS,
    WIDTH,
    clear_error,
    context,
    iotlb,
    note,
    numbered,
    put,
    start,
    tail,
)
from qemu.vtd.conformance.scenario import Allowed, scenario

# Size (11.4.9.3).


def _size(size: int) -> None:
    """The tail may be at the last slot of the queue; at the next, it is beyond the end, and nothing is fetched."""
    slots = 256 << size

    def stimulus(bench: Bench) -> None:
        start(bench, size)
        put(bench, 0, numbered(0x11), 0)
        tail(bench, slots - 1)
        note(bench)
        bench.memory.write_u64(STATUS, 0)
        put(bench, 1, numbered(0x22), numbered(0x33))
        tail(bench, 1)
        clear_error(bench)
        if size < 7:
            tail(bench, slots)
            note(bench)

    beyond = ("status 0x0", "IQH 0x10") if size < 7 else ()
    status = "FSTS IQE" if size < 7 else "FSTS 0"
    stimulus.__doc__ = f"QS = {size}: the tail may be at slot {slots - 1}" + (
        f"; at slot {slots} it is an error, and nothing is fetched." if size < 7 else "."
    )
    id_ = f"queue.size.{size}"
    scenario(id_, "11.4.9.3", "status 0x11", "IQH 0x10", *beyond, status)(stimulus)


for _qs in range(8):
    _size(_qs)


def _wrap(size: int) -> None:
    slots = 256 << size

    @scenario(
        f"queue.wrap.size-{size}",
        "6.5.2",
        "status 0x0",
        f"IQH {WIDTH * (slots - 1):#x}",
        "status 0x2",
        "IQH 0x10",
        "FSTS 0",
    )
    def _(bench: Bench) -> None:
        """The head goes from the last slot to slot 0, and not before."""
        start(bench, size)
        put(bench, 0, *[iotlb(GLOBAL)] * (slots - 1))
        tail(bench, slots - 1)
        note(bench)
        put(bench, slots - 1, numbered(1))
        put(bench, 0, numbered(2))
        tail(bench, 1)
        note(bench)


for _qs in (1, 2):
    _wrap(_qs)


# Tail and head (11.4.9.1, 11.4.9.2).


@scenario("queue.tail.halves", "11.2", "status 0x1", "IQH 0x10", "status 0x1", "IQH 0x10", "FSTS 0")
def tail_by_halves(bench: Bench) -> None:
    """A 32-bit write of the lower half of IQT submits descriptors; the upper half is reserved."""
    start(bench)
    put(bench, 0, numbered(1), numbered(2))
    bench.platform.write_register(IQT.offset, 0x10, 4)
    note(bench)
    bench.platform.write_register(IQT.offset + 4, 0xFFFF_FFFF, 4)
    note(bench)


@scenario("queue.tail.same", "11.4.9.2", "status 0x1", "IQH 0x10", "status 0x0", "IQH 0x10", "FSTS 0")
def tail_same(bench: Bench) -> None:
    """Writing the tail again with the same value fetches nothing."""
    start(bench)
    put(bench, 0, numbered(1))
    tail(bench, 1)
    note(bench)
    bench.memory.write_u64(STATUS, 0)
    tail(bench, 1)
    note(bench)


@scenario("queue.tail.beside", "11.4.9.1", "status 0x1", "IQH 0x10", "IQH 0x10", "IQT 0x10", "FSTS 0")
def tail_beside(bench: Bench) -> None:
    """A write of 4 bytes to the upper half of IQH, which is read-only, changes neither IQH nor IQT beside it."""
    start(bench)
    put(bench, 0, numbered(1))
    tail(bench, 1)
    note(bench)
    bench.platform.write_register(IQH.offset + 4, 0xFFFF_FFFF, 4)
    bench.note_register(IQH)
    bench.note_register(IQT)


@scenario("queue.tail.low-bits", "11.4.9.2", "status 0x1", "IQH 0x10", "IQT 0x10", "FSTS 0")
def tail_low_bits(bench: Bench) -> None:
    """Bits 3:0 and 63:19 of IQT are reserved and do not count."""
    start(bench)
    put(bench, 0, numbered(1), numbered(2))
    bench.platform.write_register(IQT.offset, 0xFFFF_FFFF_FFF8_001F, 8)
    note(bench)
    bench.note_register(IQT)


@scenario(
    "queue.tail.one-by-one",
    "6.5.2",
    *(f"{word} {value:#x}" for n in (1, 2, 3) for word, value in (("status", n), ("IQH", 16 * n))),
    "FSTS 0",
)
def tail_one_by_one(bench: Bench) -> None:
    """Descriptors that are in memory but beyond the tail are not fetched before the tail passes them."""
    start(bench)
    put(bench, 0, numbered(1), numbered(2), numbered(3))
    for slot in (1, 2, 3):
        tail(bench, slot)
        note(bench)


# Turning the queue on and off (11.4.4.1).


@scenario(
    "queue.on.tail-not-0",
    "6.5.2",
    "status 0x2",
    "IQH 0x20",
    "FSTS 0",
    allowed=(
        Allowed(
            "software must set IQT to 0 before it turns the queue on (6.5.2)", ("status 0x0", "IQH 0x0", "FSTS 0")
        ),
    ),
)
def on_with_tail(bench: Bench) -> None:
    """The queue is turned on with a tail that is not 0, against the rule: the descriptors are carried out, or not."""
    bench.memory.write_u64(STATUS, 0)
    put(bench, 0, numbered(1), numbered(2))
    bench.platform.write_register(IQA.offset, QUEUE, 8)
    tail(bench, 2)
    bench.platform.write_register(GCMD.offset, GCMD.QIE.mask, 4)
    note(bench)


@scenario(
    "queue.off.and-on",
    "11.4.9.1",
    "status 0x1",
    "IQH 0x10",
    "IQH 0x0",
    "IQT 0x10",
    "status 0x2",
    "IQH 0x10",
    "FSTS 0",
)
def off_and_on(bench: Bench) -> None:
    """Turning the queue off sets the head to 0 and leaves IQT; on again with IQT = 0 it starts at its first slot."""
    start(bench)
    put(bench, 0, numbered(1))
    tail(bench, 1)
    note(bench)
    bench.driver.stop_queue()
    bench.note_register(IQH)
    bench.note_register(IQT)
    put(bench, 0, numbered(2))
    bench.driver.start_queue(QUEUE)
    tail(bench, 1)
    note(bench)


@scenario("queue.off.other-queue", "11.4.9.3", "status 0x1", "IQH 0x10", "status 0x2", "IQH 0x10", "FSTS 0")
def off_other_queue(bench: Bench) -> None:
    """While the queue is off, IQA can name another queue, which is used from then on."""
    start(bench)
    put(bench, 0, numbered(1))
    tail(bench, 1)
    note(bench)
    bench.driver.stop_queue()
    other = QUEUE + 0x1000
    bench.memory.write(other, numbered(2).to_bytes(WIDTH, "little"))
    bench.driver.start_queue(other)
    tail(bench, 1)
    note(bench)


def _turned_off(name: str, title: str, *descriptors: int) -> None:
    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 0, *descriptors)
        if descriptors:
            tail(bench, len(descriptors))
        bench.platform.write_register(GCMD.offset, 0, 4)
        on = GSTS.QIES.get(bench.platform.read_register(GSTS.offset, 4))
        bench.note(f"QIES {on}")

    stimulus.__doc__ = title
    scenario(f"queue.off.{name}", "11.4.4.1", "QIES 0", "FSTS 0")(stimulus)


_turned_off("empty", "A queue that nothing was submitted to can be turned off.")
_turned_off(
    "after-wait",
    "A queue whose last descriptor was a wait descriptor can be turned off.",
    iotlb(GLOBAL),
    numbered(1),
)


@scenario("queue.on.translation-off", "6.5.2", "status 0x1", "IQH 0x20", "FSTS 0")
def translation_off(bench: Bench) -> None:
    """The queue works while translation is off."""
    start(bench)
    put(bench, 0, context(GLOBAL), numbered(1))
    tail(bench, 2)
    note(bench)


@scenario("queue.on.root-pointer", "6.6", "status 0x1", "IQH 0x10", "status 0x2", "IQH 0x20", "FSTS 0")
def root_pointer(bench: Bench) -> None:
    """Setting the root table pointer leaves the queue and its head alone."""
    start(bench)
    put(bench, 0, numbered(1), numbered(2))
    tail(bench, 1)
    note(bench)
    bench.driver.set_root_table(bench.root)
    tail(bench, 2)
    note(bench)


@scenario("queue.on.translation-switched", "11.4.4.1", "status 0x1", "IQH 0x10", "status 0x2", "IQH 0x20", "FSTS 0")
def translation_switched(bench: Bench) -> None:
    """Turning translation off and on leaves the queue and its head alone."""
    bench.turn_on()
    start(bench)
    put(bench, 0, numbered(1), numbered(2))
    tail(bench, 1)
    note(bench)
    bench.driver.disable()
    bench.driver.enable()
    tail(bench, 2)
    note(bench)


@scenario(
    "queue.on.address-written",
    "11.4.9.3",
    "status 0x1",
    "IQH 0x10",
    "FSTS 0",
    allowed=(
        Allowed(
            "what a write of IQA does while the queue is on is not defined (doubt D-13)",
            ("status 0x2", "IQH 0x10", "FSTS 0"),
            Policy(queue_moves_while_on=True),
        ),
    ),
)
def address_written(bench: Bench) -> None:
    """IQA is written while the queue is on: the queue in use stays the same."""
    start(bench)
    put(bench, 0, numbered(1))
    other = QUEUE + 0x1000
    bench.memory.write(other, numbered(2).to_bytes(WIDTH, "little"))
    bench.platform.write_register(IQA.offset, other, 8)
    tail(bench, 1)
    note(bench)
