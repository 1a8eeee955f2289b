"""`on_message` and `on_invalidation`: who hears what, when, and what is left when a listener raises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from iommu import (
    CacheName,
    Capabilities,
    Device,
    EventKind,
    FaultReason,
    FlatMemory,
    Message,
    MisuseError,
    PageRequest,
    Policy,
    RemappingUnit,
    Selector,
)
from iommu.engine.ats import Completion
from tests.engine.interrupting import IRE, POSTED_71, SIRTP, Interrupting
from tests.engine.queueing import (
    IEADDR,
    IECTL,
    IEDATA,
    IQA,
    IQH,
    IQT,
    ITE,
    QIE,
    context,
    device_tlb,
    interrupt,
    iotlb,
    legacy,
    pasid_cache,
    pasid_device_tlb,
    pasid_iotlb,
    scalable,
    wait,
)
from tests.engine.scalable_world import ADDRESS, PASS, ScalableWorld
from tests.engine.world import (
    CCMD,
    FEADDR,
    FECTL,
    FEDATA,
    FSTS,
    GCMD,
    GSTS,
    NIC,
    RTADDR,
    SRTP,
    TE,
    World,
    mapped,
)

STATUS = 0x9_0000
EVERYTHING = [Selector.contexts(), Selector.pasids(), Selector.translations()]


class Broken(Exception):
    """What a listener of the tests raises."""


def messages_of(unit: RemappingUnit) -> list[tuple[EventKind, Message]]:
    """The messages, as they are sent."""
    heard: list[tuple[EventKind, Message]] = []
    unit.on_message = lambda kind, message: heard.append((kind, message))
    return heard


def invalidations_of(unit: RemappingUnit) -> list[Selector]:
    """The invalidations, as they complete."""
    heard: list[Selector] = []
    unit.on_invalidation = heard.append
    return heard


def breaking(unit: RemappingUnit) -> None:
    """Both listeners raise."""

    def broken(*_what: Any) -> None:
        raise Broken

    unit.on_message = unit.on_invalidation = broken


# Messages (7.3, 5.2.3).


def fault_event(world: World) -> None:
    for offset, value in ((FEDATA, 0x41), (FEADDR, 0xFEE0_1000), (FECTL, 0)):
        world.write(offset, value)


def test_each_message_comes_with_its_event() -> None:
    queue = scalable()
    world = queue.world
    fault_event(world)
    for offset, value in ((IEDATA, 0x42), (IEADDR, 0xFEE0_2000), (IECTL, 0)):
        world.write(offset, value)
    for offset, value in ((0xE4, 0x43), (0xE8, 0xFEE0_3000), (0xE0, 0)):
        world.write(offset, value)
    assert isinstance(world, ScalableWorld)
    world.pasid_entry(pgtt=PASS)
    world.write(0xD0, world.page(), 8)
    heard = messages_of(world.unit)
    assert world.fault(ADDRESS, pasid=5) == 0x59
    queue.submit(wait(interrupt=1))
    assert world.unit.page_request(PageRequest(NIC, ADDRESS)).queued
    assert heard == [
        (EventKind.FAULT, Message(0xFEE0_1000, 0x41)),
        (EventKind.INVALIDATION, Message(0xFEE0_2000, 0x42)),
        (EventKind.PAGE_REQUEST, Message(0xFEE0_3000, 0x43)),
    ]
    assert world.unit.drain_events() == []


def test_a_notification_of_a_posted_interrupt_is_a_message_too() -> None:
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71)
    world.descriptor()
    heard = messages_of(world.unit)
    world.interrupt(0)
    assert heard == [(EventKind.POSTED_INTERRUPT, Message(0xFEE0_9000, 0x40F2))]


def test_without_a_listener_messages_are_kept() -> None:
    world = mapped(fault_records=8)
    fault_event(world)
    world.fault(0x6000)
    heard = messages_of(world.unit)
    world.clear_record()
    world.fault(0x6000)
    assert heard == [(EventKind.FAULT, Message(0xFEE0_1000, 0x41))]
    assert world.unit.drain_events() == [(0xFEE0_1000, 0x41)], "the one that was sent before"


def test_listeners_stay_over_a_reset() -> None:
    world = mapped()
    told, sent = invalidations_of(world.unit), messages_of(world.unit)
    world.unit.reset()
    fault_event(world)
    world.start()
    assert world.fault(0x6000) and world.invalidate_contexts(1) == 1
    assert (told, sent) == ([Selector.contexts()], [(EventKind.FAULT, Message(0xFEE0_1000, 0x41))])


# Invalidations (6.5): whatever asks for them.

AROUND = range(0x8000, 0xA000)
DESCRIPTORS: list[tuple[tuple[int, ...], Selector]] = [
    (context(1), Selector.contexts()),
    (context(3, did=5, sid=NIC, fm=1), Selector.contexts(5, source_id=NIC, ignored=4)),
    (iotlb(1), Selector.translations()),
    (iotlb(2, did=7), Selector.translations(7)),
    (iotlb(3, did=7, address=0x9000, am=1, ih=1), Selector.translations(7, addresses=AROUND, leaf_only=True)),
    (interrupt(0), Selector.interrupts()),
    (interrupt(1, index=9, im=1), Selector.interrupts(8, 1)),
    (pasid_iotlb(2, did=7, pasid=3), Selector.translations(7, 3)),
    (pasid_iotlb(3, did=7, pasid=3, address=0x9000, am=1), Selector.translations(7, 3, addresses=AROUND)),
    (pasid_cache(0, did=7), Selector.pasids(7)),
    (pasid_cache(1, did=7, pasid=3), Selector.pasids(7, 3)),
    (pasid_cache(3), Selector.pasids()),
    (device_tlb(NIC, address=0x8000, s=1), Selector.device_tlb(NIC, AROUND)),
    (pasid_device_tlb(NIC, pasid=3, address=0x8000, s=1), Selector.device_tlb(NIC, AROUND, 3)),
]


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(("descriptor", "named"), DESCRIPTORS)
def test_every_descriptor_is_told(descriptor: tuple[int, ...], named: Selector, attached: bool) -> None:
    queue = scalable()
    if attached:
        Device(queue.world.unit, NIC)
    heard = invalidations_of(queue.world.unit)
    queue.submit(descriptor)
    assert heard == [named]
    times_out = named.cache is CacheName.DEVICE_TLB and not attached
    assert bool(queue.world.read(FSTS) & ITE) == times_out


def test_commands_by_register_are_told_if_they_are_valid() -> None:
    world = World().start()
    heard = invalidations_of(world.unit)
    assert world.invalidate_contexts(2, did=4) == 2
    assert world.invalidate_pages(3, did=4, address=0x9000, am=1) == 3
    assert world.invalidate_contexts(0) == world.invalidate_pages(0) == 0, "reserved: nothing is invalidated"
    assert heard == [Selector.contexts(4), Selector.translations(4, addresses=AROUND)]


def test_a_refused_descriptor_is_not_told() -> None:
    queue = legacy()
    heard = invalidations_of(queue.world.unit)
    queue.refused(context(0))
    assert heard == []


def test_invalidations_without_a_register_are_told() -> None:
    world = World().start()
    heard = invalidations_of(world.unit)
    follows = Selector(cache=CacheName.CONTEXTS, then=Selector.translations(3))
    world.unit.invalidate(follows)
    unattached = Selector.device_tlb(NIC, AROUND, every_pasid=True)
    world.unit.invalidate(unattached)
    assert heard == [follows, Selector.translations(3), unattached]


def test_a_page_request_is_told_as_the_invalidation_of_its_page() -> None:
    """6.5.3.1: the unit drops the page before it queues the request."""
    world = ScalableWorld()
    world.pasid_entry(pgtt=PASS, did=7)
    world.start()
    heard = invalidations_of(world.unit)
    world.unit.page_request(PageRequest(NIC, ADDRESS))
    assert heard == [Selector.translations(7, addresses=range(ADDRESS, ADDRESS + 0x1000))]


@pytest.mark.parametrize("itself", [False, True])
def test_root_pointers_are_told_if_the_unit_invalidates_by_itself(itself: bool) -> None:
    world = Interrupting(
        start=False,
        queued_invalidation=True,
        invalidate_on_root_pointer=itself,
        invalidate_on_interrupt_pointer=itself,
    )
    heard = invalidations_of(world.unit)
    world.latch(world.root)
    assert heard == (EVERYTHING if itself else [])
    heard.clear()
    world.write(GCMD, SIRTP | IRE)
    world.write(GCMD, 0)
    assert heard == ([Selector.interrupts()] * 2 if itself else [])


@pytest.mark.parametrize("drops", [False, True])
def test_translation_off_is_told_if_it_drops(drops: bool) -> None:
    world = ScalableWorld(policy=Policy(translation_off_drops=drops)).start()
    heard = invalidations_of(world.unit)
    world.write(GCMD, 0)
    assert heard == (EVERYTHING if drops else [])
    world.write(GCMD, TE)
    assert heard == (EVERYTHING if drops else []), "turning it on invalidates nothing"


# When: before software can know.


def test_told_before_the_status_write() -> None:
    queue = legacy()
    seen: list[int] = []
    queue.world.unit.on_invalidation = lambda _named: seen.append(queue.world.memory.read_u32(STATUS))
    queue.done(iotlb(1), wait(sw=1, data=0x77, address=STATUS))
    assert (seen, queue.world.memory.read_u32(STATUS)) == ([0], 0x77)


def test_told_after_the_caches_and_before_the_granularity() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    world.put(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 0)
    seen: list[tuple[int, int, int, int, bool]] = []

    def listen(_named: Selector) -> None:
        contexts, pages = world.read(CCMD, 8), world.read(world.iotlb, 8)
        granularity = contexts >> 59 & 3, pages >> 57 & 3
        seen.append((contexts >> 63, pages >> 63, *granularity, world.dma(0x5000).fault is FaultReason.LGN_2))

    world.unit.on_invalidation = listen
    assert world.invalidate_contexts(1) == 1
    assert world.invalidate_pages(1) == 1
    assert seen == [(1, 0, 0, 0, False), (0, 1, 1, 0, True)]


def test_told_of_a_global_command_with_the_unit_as_it_is_after_it() -> None:
    world = ScalableWorld(invalidate_on_root_pointer=True).start()
    seen: list[tuple[int, bool]] = []
    world.unit.on_invalidation = lambda _named: seen.append((world.read(GSTS) & TE, any(world.unit.mappings(NIC))))
    world.write(GCMD, 0)
    assert seen == [(TE, True)] * 3, "GSTS says so later, but translation is off"


# What a listener may do.


def test_a_listener_may_ask_and_translate() -> None:
    world = mapped(fault_records=8)
    fault_event(world)
    seen: list[Any] = []
    sent = messages_of(world.unit)
    world.unit.on_invalidation = lambda _named: seen.append(
        (world.dma(0x5000).host_address, world.fault(0x6000), len(list(world.unit.mappings(NIC))))
    )
    world.invalidate_pages(1)
    assert seen == [(0x9000, 0x05, 1)]
    assert len(sent) == 1, "the fault of the request that the other listener made"
    world.unit.on_invalidation = None
    assert world.invalidate_pages(1) == 1, "and after both have returned, the unit takes commands"


COMMANDS: list[Callable[[World], object]] = [
    lambda world: world.write(FSTS, 0),
    lambda world: world.unit.invalidate(Selector.contexts()),
    lambda world: world.unit.page_request(PageRequest(NIC, 0)),
    lambda world: world.unit.reset(),
    lambda world: world.unit.step(),
    lambda world: world.unit.save(),
    lambda world: copy.deepcopy(world.unit),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_listener_must_not_command_the_unit(command: Callable[[World], object]) -> None:
    world = mapped()
    fault_event(world)
    world.unit.on_message = lambda _kind, _message: command(world)
    world.unit.on_invalidation = lambda _named: command(world)
    with pytest.raises(MisuseError, match="wait until"):
        world.fault(0x6000)
    with pytest.raises(MisuseError, match="wait until"):
        world.invalidate_pages(1)
    world.unit.on_invalidation = None
    assert world.invalidate_pages(1) == 1


# What is left when one raises.


def test_after_an_exception_the_register_command_has_dropped_but_not_completed() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x5000, 0xB003)
    breaking(world.unit)
    for command in (world.invalidate_contexts, world.invalidate_pages):
        with pytest.raises(Broken):
            command(1)
    contexts, pages = world.read(CCMD, 8), world.read(world.iotlb, 8)
    assert (contexts >> 63, contexts >> 59 & 3, pages >> 63, pages >> 57 & 3) == (1, 0, 1, 0)
    assert world.dma(0x5000).host_address == 0xB000
    heard = invalidations_of(world.unit)
    assert (world.invalidate_contexts(1), len(heard)) == (1, 1)


@pytest.mark.parametrize("descriptor", [iotlb(1), context(1), device_tlb(NIC)])
def test_after_an_exception_the_queue_stays_at_the_descriptor(descriptor: tuple[int, int]) -> None:
    queue = legacy(queued_invalidation=True, device_tlb=True)
    Device(queue.world.unit, NIC)
    breaking(queue.world.unit)
    queue.put(*descriptor)
    queue.put(*wait(sw=1, data=0x77, address=STATUS))
    with pytest.raises(Broken):
        queue.ring()
    assert (queue.head, queue.world.memory.read_u32(STATUS), queue.world.read(FSTS)) == (0, 0, 0)
    heard = invalidations_of(queue.world.unit)
    queue.ring()
    assert (len(heard), queue.head, queue.world.memory.read_u32(STATUS)) == (1, queue.tail, 0x77)


def test_after_an_exception_global_status_is_as_before() -> None:
    world = ScalableWorld(invalidate_on_root_pointer=True).start()
    before = world.read(GSTS)
    breaking(world.unit)
    for command in (0, TE | SRTP):
        world.write(RTADDR, world.page(), 8)
        with pytest.raises(Broken):
            world.write(GCMD, command)
        assert world.read(GSTS) == before
    heard = invalidations_of(world.unit)
    world.write(GCMD, 0)
    assert (heard, world.read(GSTS) & TE) == (EVERYTHING, 0), "given again, the command is carried out again"


def test_after_an_exception_a_message_counts_as_sent_and_what_it_reports_is_recorded() -> None:
    world = mapped(fault_records=8)
    fault_event(world)
    breaking(world.unit)
    with pytest.raises(Broken):
        world.fault(0x6000)
    assert (world.record().reason, world.read(FSTS) & 2, world.read(FECTL)) == (0x05, 2, 0)
    assert (world.fault(0x7000), world.record(1).reason) == (0x05, 0x05), "no second message is due"


def test_after_an_exception_of_a_time_out_the_wait_descriptor_does_not_complete() -> None:
    """6.5.2.8: a wait descriptor that a device leaves waiting writes no status, whatever a listener does."""
    queue = legacy(queued_invalidation=True, device_tlb=True)
    silent = Device(queue.world.unit, NIC)
    silent.completion = Completion.TIMED_OUT
    fault_event(queue.world)
    queue.world.unit.on_message = lambda _kind, _message: 1 // 0
    queue.put(*device_tlb(NIC))
    queue.put(*wait(sw=1, data=0x77, address=STATUS))
    with pytest.raises(ZeroDivisionError):
        queue.ring()
    queue.world.unit.on_message = None
    queue.clear(ITE)
    assert queue.world.read(FSTS) & ITE, "the descriptor is taken again, and reports it again"
    queue.clear(ITE)
    assert (queue.head, queue.world.memory.read_u32(STATUS)) == (queue.tail, 0)


def test_after_an_exception_a_stepped_unit_carries_the_descriptor_out_again() -> None:
    unit = RemappingUnit(FlatMemory(1 << 20), Capabilities(queued_invalidation=True), stepped=True)
    unit.memory.write(0x1000, (2 | 1 << 4).to_bytes(16, "little"))
    for offset, value, size in ((IQA, 0x1000, 8), (GCMD, QIE, 4)):
        unit.mmio_write(offset, value, size)
    unit.step()
    unit.mmio_write(IQT, 16, 8)
    breaking(unit)
    with pytest.raises(Broken):
        unit.step()
    assert (unit.mmio_read(IQH, 8), len(unit.pending)) == (0, 1)
    heard = invalidations_of(unit)
    assert (unit.step(), unit.mmio_read(IQH, 8), heard) == (1, 16, [Selector.translations()])


def test_an_error_of_memory_in_a_listener_is_not_one_of_the_unit() -> None:
    """The unit turns MemoryAccessError into faults: not the listener's."""
    queue = legacy()
    world = queue.world
    world.unit.on_invalidation = lambda _named: world.memory.read_u64(1 << 50)
    with pytest.raises(Exception, match="0x4000000000000"):
        queue.submit(iotlb(1))
    assert (queue.world.read(IQH, 8), queue.world.read(FSTS)) == (0, 0)
