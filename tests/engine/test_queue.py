"""The invalidation queue: how it runs, what each descriptor drops, and how wait descriptors complete (5.1, 5.3)."""

from __future__ import annotations

import pytest

from iommu import Message, Policy, SourceId
from tests.engine.queueing import (
    ICS,
    IEADDR,
    IECTL,
    IEDATA,
    IEUADDR,
    IQA,
    IQE,
    IQH,
    IQT,
    QIE,
    Software,
    context,
    interrupt,
    iotlb,
    legacy,
    pasid_cache,
    pasid_iotlb,
    scalable,
    wait,
)
from tests.engine.scalable_world import ADDRESS, first_stage, nested, second_stage
from tests.engine.test_invalidation import A, cached, stale_context, stale_page
from tests.engine.world import FSTS, GCMD, GSTS, NIC, READ, RW, World

GLOBAL, DOMAIN, SELECTIVE = 1, 2, 3
STATUS = 0xF0_0000
"""The address that wait descriptors write to; not used for anything else."""


def status(software: Software) -> int:
    """The status that the last wait descriptor wrote."""
    return software.world.memory.read_u32(STATUS)


# On, off, head, tail (5.1)


def test_queue_is_off_after_reset() -> None:
    world = World()
    assert world.read(GSTS) & QIE == 0
    assert [world.read(offset, 8) for offset in (IQH, IQT, IQA)] == [0, 0, 0]
    assert world.read(IECTL) == 1 << 31


def test_unit_without_a_queue_ignores_the_command() -> None:
    world = World(queued_invalidation=False, interrupt_remapping=False)
    world.write(GCMD, QIE)
    world.write(IQT, 16, 8)
    assert world.read(GSTS) == 0
    assert world.read(IQT, 8) == 0


def test_other_commands_leave_the_queue_on() -> None:
    software = legacy()
    software.world.latch(software.world.root)
    assert software.world.read(GSTS) & QIE
    software.done(wait(sw=1, data=7, address=STATUS))
    assert status(software) == 7


def test_tail_written_while_off_has_no_effect_until_the_queue_is_on() -> None:
    """5.1: no effect on fetching; when the queue is turned on with a tail, it runs at once."""
    software = legacy(on=False)
    software.submit(wait(sw=1, data=1, address=STATUS))
    assert (software.head, status(software)) == (0, 0)
    software.switch(1)
    assert (software.head, status(software)) == (16, 1)


def test_head_is_0_while_the_queue_is_off() -> None:
    software = legacy()
    software.done(wait(fn=1), wait(fn=1))
    assert software.head == 32
    software.switch(0)
    assert software.head == 0
    software.world.write(IQT, 0, 8)
    software.tail = 0
    software.switch(1)
    software.done(wait(sw=1, data=9, address=STATUS))
    assert status(software) == 9


def test_queue_that_is_off_fetches_nothing() -> None:
    software = legacy()
    software.switch(0)
    software.submit(wait(sw=1, data=1, address=STATUS))
    assert (software.head, status(software)) == (0, 0)


def test_head_cannot_be_written() -> None:
    software = legacy()
    software.world.write(IQH, 0x40, 8)
    assert software.head == 0


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("qs", [0, 1, 7])
def test_wrap_at_the_end_of_the_queue(wide: int, qs: int) -> None:
    """2^(QS+8) descriptors of 16 bytes, 2^(QS+7) of 32."""
    software = legacy(wide=wide, qs=qs, scalable_mode=True, second_stage=True)
    entries = 1 << qs + (7 if wide else 8)
    assert entries * software.width == software.size
    for _ in range(entries - 1):
        software.put(*wait(fn=1))
    software.ring()
    assert software.head == (entries - 1) * software.width
    software.done(wait(sw=1, data=0xA, address=STATUS), wait(sw=1, data=0xB, address=STATUS + 4))
    assert software.head == software.width
    assert software.world.memory.read_u64(STATUS) == 0xB_0000_000A


def test_half_accesses_to_the_queue_registers() -> None:
    world = World()
    world.write(IQA, 0x5000)
    world.write(IQA + 4, 1)
    world.write(IQT, 0xFFFF_FFFF)
    assert world.read(IQA, 8) == 0x1_0000_5000
    assert world.read(IQT, 8) == 0x7FFF0


@pytest.mark.parametrize("moves", [False, True])
def test_address_written_while_on(moves: bool) -> None:
    """D-13: ignored, or the queue starts again at the new address."""
    software = legacy(policy=Policy(queue_moves_while_on=moves))
    software.done(wait(fn=1))
    old, new = software.base, software.world.page()
    software.world.write(IQA, new, 8)
    assert software.world.read(IQA, 8) == (new if moves else old)
    assert software.head == (0 if moves else 16)


@pytest.mark.parametrize("resets", [False, True])
def test_address_written_and_the_tail(resets: bool) -> None:
    """D-13."""
    world = World(policy=Policy(queue_address_resets_tail=resets))
    world.write(IQT, 0x40, 8)
    world.write(IQA, 0x5000, 8)
    assert world.read(IQT, 8) == (0 if resets else 0x40)


def test_translation_works_beside_an_empty_queue() -> None:
    world = stale_page()
    Software(world)
    assert cached(world)


# Commands by register (5.1)


@pytest.mark.parametrize("version", [0x10, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("on", [False, True])
def test_commands_by_register_while_the_queue_is_on(version: int, on: bool) -> None:
    """Not while the queue is on, and from version 6 on never: the command completes with 0."""
    world = stale_page(version=version)
    software = Software(world, on=on)
    served = not on and version < 0x60
    assert world.read(0) == version
    assert world.invalidate_contexts(GLOBAL) == (GLOBAL if served else 0)
    assert world.invalidate_pages(GLOBAL) == (GLOBAL if served else 0)
    assert cached(world) != served
    if on:
        software.done(iotlb(GLOBAL))
        assert not cached(world)


# Types 1 and 2


@pytest.mark.parametrize("g", [GLOBAL, DOMAIN, SELECTIVE])
def test_context_descriptor(g: int) -> None:
    world = stale_context(did=7)
    Software(world).done(context(g, did=7, sid=NIC))
    assert world.fault(0x5000) == 0x02


@pytest.mark.parametrize(("g", "where"), [(DOMAIN, {"did": 8, "sid": NIC}), (SELECTIVE, {"did": 7, "sid": 0x21})])
def test_context_descriptor_keeps_others(g: int, where: dict[str, int]) -> None:
    world = stale_context(did=7)
    Software(world).done(context(g, **where))
    assert world.dma(0x5000).fault is None


@pytest.mark.parametrize(("fm", "ignored"), [(0, 0), (1, 4), (2, 6), (3, 7)])
def test_function_mask_of_the_context_descriptor(fm: int, ignored: int) -> None:
    for bit in range(16):
        world = stale_context(SourceId(0x12, 0x15, 2))
        Software(world).done(context(SELECTIVE, did=1, sid=0x12AA ^ 1 << bit, fm=fm))
        dropped = world.dma(0x5000, source_id=SourceId(0x12, 0x15, 2)).fault == 0x02
        assert dropped == bool(ignored >> bit & 1)


@pytest.mark.parametrize("drain", range(4))
@pytest.mark.parametrize("g", [GLOBAL, DOMAIN, SELECTIVE])
def test_iotlb_descriptor(g: int, drain: int) -> None:
    world = stale_page(did=7)
    Software(world).done(iotlb(g, did=7, address=A if g == SELECTIVE else 0, drain=drain))
    assert not cached(world)


@pytest.mark.parametrize("g", [DOMAIN, SELECTIVE])
def test_iotlb_descriptor_keeps_other_domains(g: int) -> None:
    world = stale_page(did=7)
    Software(world).done(iotlb(g, did=8, address=A))
    assert cached(world)


@pytest.mark.parametrize("am", range(6))
@pytest.mark.parametrize("ih", [0, 1])
def test_iotlb_descriptor_covers_exactly_its_pages(am: int, ih: int) -> None:
    world = stale_page(count=40)
    block = 8 >> am << am
    Software(world).done(iotlb(SELECTIVE, did=1, address=A + (block + (1 << am) - 1 << 12), am=am, ih=ih))
    dropped = {n for n in range(40) if not cached(world, A + (n << 12))}
    assert dropped == set(range(block, block + (1 << am)))


def test_invalidation_hint_keeps_upper_entries() -> None:
    """IH=1: only leaves changed; without it the paging-structure caches are dropped too."""
    for ih in (0, 1):
        world = World()
        top = world.device()
        places = world.map(top, 4, A, 0x9000 | RW)
        world.start()
        software = Software(world)
        assert world.dma(A, READ).host_address == 0x9000
        world.put(places[3], 0)
        software.done(iotlb(SELECTIVE, did=1, address=A, ih=ih))
        assert (world.dma(A, READ).fault == 0x06) == (not ih)


def test_context_descriptor_in_scalable_mode() -> None:
    """4.3: the domain-id is not a tag there: domain-selective acts as global."""
    for descriptor in (context(GLOBAL), context(DOMAIN, did=99), context(SELECTIVE, sid=NIC)):
        world = first_stage()
        software = scalable(world)
        assert world.dma().fault is None
        world.scalable_context(p=0)
        assert world.dma().fault is None
        software.done(descriptor)
        assert world.fault() == 0x41


# Type 4


@pytest.mark.parametrize(
    ("descriptor", "dropped"),
    [
        (interrupt(0), {0, 1, 4, 5, 6, 7, 8, 0xFFFF}),
        (interrupt(0, index=4, im=1), {0, 1, 4, 5, 6, 7, 8, 0xFFFF}),
        (interrupt(1, index=5), {5}),
        (interrupt(1, index=5, im=1), {4, 5}),
        (interrupt(1, index=5, im=2), {4, 5, 6, 7}),
        (interrupt(1, index=0xFFFF), {0xFFFF}),
        (interrupt(1, index=5, im=15), {0, 1, 4, 5, 6, 7, 8}),
    ],
)
def test_interrupt_descriptor(descriptor: tuple[int, int], dropped: set[int]) -> None:
    software = legacy()
    entries = software.world.unit.caches.interrupts
    indices = {0, 1, 4, 5, 6, 7, 8, 0xFFFF}
    for index in indices:
        entries.fill(index, 1)
    software.done(descriptor)
    assert {index for index in indices if entries.find(index) is None} == dropped


# Types 6 and 7


@pytest.mark.parametrize(
    ("descriptor", "drops"),
    [
        (pasid_iotlb(2, did=1, pasid=5), True),
        (pasid_iotlb(2, did=2, pasid=5), False),
        (pasid_iotlb(2, did=1, pasid=4), False),
        (pasid_iotlb(3, did=1, pasid=5, address=ADDRESS), True),
        (pasid_iotlb(3, did=1, pasid=5, address=ADDRESS, ih=1), True),
        (pasid_iotlb(3, did=1, pasid=5, address=ADDRESS ^ 0x1000), False),
        (pasid_iotlb(3, did=1, pasid=5, address=ADDRESS ^ 0x1000, am=1), True),
        (pasid_iotlb(3, did=1, pasid=5, address=0, am=52), True),
        (pasid_iotlb(3, did=1, pasid=5, address=0, am=63), True),
        (pasid_iotlb(3, did=2, pasid=5, address=ADDRESS), False),
        (pasid_iotlb(3, did=1, pasid=4, address=ADDRESS), False),
        (iotlb(DOMAIN, did=1), True),
        (iotlb(SELECTIVE, did=1, address=0x7000), True),
        (iotlb(SELECTIVE, did=2, address=ADDRESS), False),
    ],
)
@pytest.mark.parametrize("build", [first_stage, nested])
def test_first_stage_translations(build: object, descriptor: tuple[int, int], drops: bool) -> None:
    """4.3: P_IOTLB by PASID and page; IOTLB drops all of the domain whatever the address."""
    world = first_stage(pasid=5) if build is first_stage else nested(pasid=5)
    software = scalable(world)
    assert world.dma(pasid=5).fault is None
    world.put(world.first[1], 0)
    assert world.dma(pasid=5).fault is None
    software.done(descriptor)
    assert (world.dma(pasid=5).fault == 0x71) == drops


def test_global_first_stage_pages_are_dropped_too() -> None:
    """4.3: an invalidation of a PASID drops the translations of pages with G too."""
    for descriptor in (pasid_iotlb(2, did=1, pasid=5), pasid_iotlb(3, did=1, pasid=5, address=ADDRESS)):
        world = first_stage(pasid=5)
        world.flip(world.first[1], 8)
        software = scalable(world)
        assert world.dma(pasid=5).fault is None
        world.put(world.first[1], 0)
        software.done(descriptor)
        assert world.fault(pasid=5) == 0x71


@pytest.mark.parametrize(
    ("descriptor", "drops"),
    [
        (pasid_iotlb(2, did=1, pasid=5), True),
        (pasid_iotlb(2, did=2, pasid=5), False),
        (pasid_iotlb(3, did=1, pasid=5, address=ADDRESS), False),
        (iotlb(SELECTIVE, did=1, address=ADDRESS), True),
        (iotlb(SELECTIVE, did=1, address=ADDRESS ^ 0x1000), False),
    ],
)
def test_second_stage_translations(descriptor: tuple[int, int], drops: bool) -> None:
    """6.5.2.4: P_IOTLB by PASID drops what the second stage alone translated, by page it does not."""
    world = second_stage(pasid=5)
    software = scalable(world)
    assert world.dma(pasid=5).fault is None
    world.put(world.second[1], 0)
    assert world.dma(pasid=5).fault is None
    software.done(descriptor)
    assert (world.dma(pasid=5).fault == 0x79) == drops


@pytest.mark.parametrize(
    ("descriptor", "drops"),
    [
        (pasid_cache(0, did=1), True),
        (pasid_cache(0, did=2), False),
        (pasid_cache(1, did=1, pasid=5), True),
        (pasid_cache(1, did=2, pasid=5), False),
        (pasid_cache(1, did=1, pasid=4), False),
        (pasid_cache(3), True),
        (pasid_cache(3, did=7, pasid=9), True),
        (context(GLOBAL), False),
    ],
)
def test_pasid_cache_descriptor(descriptor: tuple[int, int], drops: bool) -> None:
    world = first_stage(pasid=5)
    software = scalable(world)
    assert world.dma(pasid=5).fault is None
    world.pasid_entry(5, pgtt=1, first=world.first_top, p=0)
    software.done(descriptor)
    assert (world.dma(pasid=5).fault == 0x59) == drops


# Type 5


@pytest.mark.parametrize("wide", [0, 1])
def test_wait_writes_its_status(wide: int) -> None:
    """A DWORD: the bytes around stay."""
    software = legacy(wide=wide, scalable_mode=True, second_stage=True)
    software.world.put(STATUS, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
    software.done(wait(sw=1, data=0x1234_5678, address=STATUS + 4))
    assert software.world.memory.read(STATUS, 16).hex() == "ffffffff78563412ffffffffffffffff"


@pytest.mark.parametrize("fn", [0, 1])
def test_wait_without_sw_writes_nothing(fn: int) -> None:
    software = legacy()
    software.done(wait(fn=1, data=0x1234_5678, address=STATUS), wait(fn=fn, interrupt=1, data=1, address=STATUS))
    assert status(software) == 0


def event(software: Software) -> Message:
    """Program the invalidation event, unmasked. Returns its message."""
    for offset, value in ((IEDATA, 0x4321), (IEADDR, 0xFEE0_1000), (IEUADDR, 1), (IECTL, 0)):
        software.world.write(offset, value)
    return Message(0x1_FEE0_1000, 0x4321)


def test_wait_with_an_interrupt() -> None:
    software = legacy()
    message = event(software)
    software.done(wait(interrupt=1, sw=1, data=3, address=STATUS))
    assert software.world.read(ICS) == 1
    assert software.world.unit.drain_events() == [message]
    assert status(software) == 3


def test_two_waits_one_interrupt_until_iwc_is_cleared() -> None:
    """Suggested test 11."""
    software = legacy()
    message = event(software)
    software.done(wait(interrupt=1), wait(interrupt=1))
    software.done(wait(interrupt=1))
    assert software.world.unit.drain_events() == [message]
    software.world.write(ICS, 1)
    assert software.world.read(ICS) == 0
    software.done(wait(interrupt=1))
    assert software.world.unit.drain_events() == [message]


def test_masked_completion_is_held_and_sent_when_unmasked() -> None:
    software = legacy()
    message = event(software)
    software.world.write(IECTL, 1 << 31)
    software.done(wait(interrupt=1))
    assert software.world.read(IECTL) == 3 << 30
    assert software.world.unit.drain_events() == []
    software.world.write(IECTL, 0)
    assert software.world.read(IECTL) == 0
    assert software.world.unit.drain_events() == [message]


def test_clearing_iwc_drops_a_held_completion() -> None:
    software = legacy()
    event(software)
    software.world.write(IECTL, 1 << 31)
    software.done(wait(interrupt=1))
    software.world.write(ICS, 0)
    assert software.world.read(IECTL) == 3 << 30
    software.world.write(ICS, 1)
    assert software.world.read(IECTL) == 1 << 31
    software.world.write(IECTL, 0)
    assert software.world.unit.drain_events() == []


@pytest.mark.parametrize("accepted", [True, False])
def test_wait_that_asks_for_nothing(accepted: bool) -> None:
    """D-12."""
    software = legacy(policy=Policy(idle_wait_accepted=accepted))
    software.submit(wait())
    assert bool(software.world.read(FSTS) & IQE) == (not accepted)
    assert software.head == (16 if accepted else 0)
    if not accepted:
        assert software.error == 4


def test_earlier_commands_are_done_when_a_wait_completes() -> None:
    world = stale_page()
    software = Software(world)
    software.done(iotlb(GLOBAL), wait(sw=1, data=1, address=STATUS, fn=1))
    assert status(software) == 1
    assert not cached(world)
