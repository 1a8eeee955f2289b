"""Atomic updates of memory (spec 3.6.2, 3.7.2, 5.2.3): what others write between the unit's read and its update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iommu import Access, DmaRequest, FaultReason, FlatMemory, Message, ProcessorCache, RemappingUnit
from iommu.engine.audit import StaleItem
from iommu.engine.table_access import ATTEMPTS
from tests.engine.interrupting import DESCRIPTOR, IRE, IRTA, POSTED_71, SIRTP, TABLE, URG, Interrupting, request
from tests.engine.meanwhile import MeanwhileMemory, PlainMemory
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    A1,
    A2,
    ADDRESS,
    ALL1,
    D1,
    D2,
    GUEST,
    HOST,
    SCALABLE,
    USER,
    WRITABLE,
    P,
    ScalableWorld,
    first_stage,
    nested,
    second_stage,
)
from tests.engine.world import GCMD, NIC, READ, RTADDR, RW, SRTP, TE, WRITE, R, W

OTHER = 0xB000
"""Another host page."""
DIRTY = {"ssade": 1}
Build = Callable[..., ScalableWorld]


def first(**fields: Any) -> ScalableWorld:
    """One page by a first stage."""
    return first_stage(**fields)


def second(**fields: Any) -> ScalableWorld:
    """One page by a second stage that keeps accessed and dirty bits."""
    return second_stage(pasid_entry=DIRTY, **fields)


def places(world: ScalableWorld) -> dict[int, int]:
    """Where the entry of each level is."""
    return world.first or world.second


# Leaf entries


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize(("build", "now", "access", "code", "after"), [
    (first, 0, READ, 0x71, 0),
    (first, OTHER | ALL1, WRITE, 0, OTHER | ALL1 | A1 | D1),
    (first, HOST | P | USER, WRITE, 0x85, HOST | P | USER),
    (first, HOST | P | USER, READ, 0, HOST | P | USER | A1),
    (first, HOST | P | WRITABLE, READ, 0x81, HOST | P | WRITABLE),
    (first, HOST | ALL1 | A1, READ, 0, HOST | ALL1 | A1),
    (first, HOST | ALL1 | A1, WRITE, 0, HOST | ALL1 | A1 | D1),
    (first, HOST | ALL1 | A1 | D1, WRITE, 0, HOST | ALL1 | A1 | D1),
    (first, HOST | ALL1 | 1 << 51, READ, 0x72, HOST | ALL1 | 1 << 51),
    (second, 0, READ, 0x79, 0),
    (second, OTHER | RW, WRITE, 0, OTHER | RW | A2 | D2),
    (second, HOST | R, WRITE, 0x85, HOST | R),
    (second, HOST | W, READ, 0x86, HOST | W),
    (second, HOST | RW | A2, READ, 0, HOST | RW | A2),
    (second, HOST | RW | A2, WRITE, 0, HOST | RW | A2 | D2),
    (second, HOST | RW | 1 << 51, READ, 0x7A, HOST | RW | 1 << 51),
    (second, 0xFEE0_0000 | RW, WRITE, 0x87, 0xFEE0_0000 | RW),
])  # fmt: skip
def test_leaf_that_others_change_meanwhile(
    build: Build, now: int, access: Access, code: int, after: int, audit: bool
) -> None:
    """The entry as it is now decides, and gets the bits; its other bits are what the others have written."""
    world = build(audit=audit, host_address_width=46)
    at = places(world)[1]
    world.memory.meanwhile[at] = lambda: world.put(at, now)
    outcome = world.dma(access=access)
    assert int(outcome.fault or 0) == code
    assert not world.memory.meanwhile, "nothing was exchanged"
    assert world.memory.read_u64(at) == after
    if not code:
        assert outcome.host_address == now & 0xF000 | ADDRESS & 0xFFF
        assert world.dma(access=access).host_address == outcome.host_address
    if audit:
        assert world.unit.audit() == []


# Upper entries


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(("build", "code"), [(first, 0x71), (second, 0x79)])
def test_upper_entry_that_is_made_absent_meanwhile(build: Build, code: int, level: int) -> None:
    world = build(audit=True)
    at = places(world)[level]
    world.memory.meanwhile[at] = lambda: world.put(at, 0)
    assert world.fault() == code
    assert world.memory.read_u64(at) == 0
    assert all(world.memory.read_u64(places(world)[below]) & (A1 | A2) == 0 for below in range(1, level))
    assert world.unit.audit() == []


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(("build", "rights", "accessed"), [(first, ALL1, A1), (second, RW, A2)])
def test_upper_entry_that_points_elsewhere_meanwhile(build: Build, rights: int, accessed: int, level: int) -> None:
    """The unit takes the new path; nothing that it caches depends on the old one."""
    world = build(audit=True)
    old = dict(places(world))
    top = world.page()
    new = (world.map_first if build is first else world.map)(top, level - 1, ADDRESS, OTHER | rights)
    world.memory.meanwhile[old[level]] = lambda: world.put(old[level], top | rights)
    assert world.dma().host_address == OTHER | ADDRESS & 0xFFF
    assert world.memory.read_u64(old[level]) == top | rights | accessed
    assert all(world.memory.read_u64(old[below]) & accessed == 0 for below in range(1, level))
    world.put(old[1], 0)
    assert world.unit.audit() == []
    world.put(new[1], 0)
    assert {stale.cache for stale in world.unit.audit()} == {"IOTLB"}


@pytest.mark.parametrize("build", [first, second])
def test_accessed_bits_that_others_set_meanwhile(build: Build) -> None:
    """A processor or another unit that uses the same tables."""
    world = build()
    for at in places(world).values():
        world.memory.meanwhile[at] = lambda at=at: world.change(at, add=A1 if build is first else A2)  # type: ignore[misc]
    assert world.code() == 0
    assert set(world.bits(places(world), A1 | A2).values()) == {A1 if build is first else A2}
    assert sorted(world.memory.exchanges) == sorted(places(world).values()), "each entry once"


# Memory that never stops changing


def changes_at_each_attempt(build: Build, level: int, code: int) -> None:
    """An entry that changes once less than the unit tries, and then as often as it tries."""
    for changes in (ATTEMPTS - 1, ATTEMPTS):
        world = build()
        at, left = places(world)[level], [changes]

        def change(address: int, world: ScalableWorld = world, at: int = at, left: list[int] = left) -> None:
            if address == at and left[0]:
                left[0] -= 1
                world.put(at, world.memory.read_u64(at) ^ 1 << 52)

        world.memory.always = change
        outcome = world.dma(access=WRITE)
        assert int(outcome.fault or 0) == (code if changes == ATTEMPTS else 0)
        assert outcome.recorded == (changes == ATTEMPTS)
        assert world.memory.exchanges.count(at) == ATTEMPTS
        world.memory.always = lambda _address: None
        assert world.code(access=WRITE) == 0


@pytest.mark.parametrize("level", [1, 3])
@raises(FaultReason.SFS_10)
def test_first_stage_entry_that_changes_at_each_attempt(level: int) -> None:
    """After ATTEMPTS attempts, the entry counts as one that cannot be updated. Bit 52 is ignored."""
    changes_at_each_attempt(first, level, 0x91)


@pytest.mark.parametrize("level", [1, 3])
@raises(FaultReason.SSS_6)
def test_second_stage_entry_that_changes_at_each_attempt(level: int) -> None:
    changes_at_each_attempt(second, level, 0x7D)


# Nested


def test_nested_table_that_becomes_read_only_meanwhile() -> None:
    """The second stage is asked again; where it keeps dirty bits, reading a table needs write permission (3.8.1)."""
    world = nested(pasid_entry=DIRTY)
    at = world.under[1][1]
    world.change(at, add=A2)
    world.memory.meanwhile[at] = lambda: world.change(at, clear=W)
    assert world.fault() == 0x76
    assert world.memory.read_u64(world.first[1]) & A1 == 0
    assert world.memory.read_u64(at) & (W | D2) == 0


@pytest.mark.parametrize(
    ("stage", "now", "code"), [(1, 0, 0x71), (2, 0, 0x79), (2, OTHER | RW, 0), (2, HOST | R, 0x85)]
)
def test_nested_leaf_that_others_change_meanwhile(stage: int, now: int, code: int) -> None:
    world = nested(pasid_entry=DIRTY)
    at = (world.first if stage == 1 else world.second)[1]
    world.memory.meanwhile[at] = lambda: world.put(at, now)
    outcome = world.dma(access=WRITE)
    assert int(outcome.fault or 0) == code
    assert world.memory.read_u64(at) == (now | A2 | D2 if not code else now)
    if not code:
        assert outcome.host_address == OTHER | ADDRESS & 0xFFF


@pytest.mark.parametrize("access", [READ, WRITE])
def test_nested_table_and_page_behind_one_second_stage_entry(access: Access) -> None:
    """The unit itself sets D in the entry as it updates the table; the update for the page does not lose it."""
    world = nested(pasid_entry=DIRTY)
    table = world.first[1] & -0x1000
    world.put(world.first[1], GUEST + table | ALL1)
    assert world.dma(access=access).host_address == table | ADDRESS & 0xFFF
    assert world.memory.read_u64(world.under[1][1]) & (A2 | D2) == A2 | D2


# Traces, caches of processors, and memory that cannot exchange


def test_trace_shows_the_second_walk() -> None:
    world = second()
    at = world.second[1]
    world.memory.meanwhile[at] = lambda: world.put(at, OTHER | RW)
    outcome = world.unit.translate(DmaRequest(NIC, ADDRESS, READ), trace=True)
    steps = [step for step in outcome.trace if getattr(step, "address", None) == at]
    assert [getattr(step, "raw", None) for step in steps] == [HOST | RW, HOST | RW, OTHER | RW, OTHER | RW | A2]
    assert "changed in memory" in str(steps[1])


def test_stale_items_are_named_once_when_a_walk_starts_again() -> None:
    world = second(audit=True)
    assert world.code() == 0
    world.put(world.second[2], 0)
    other = ADDRESS ^ 0x1000
    at = world.second[1] ^ 8
    world.put(at, HOST | RW)
    world.memory.meanwhile[at] = lambda: world.put(at, OTHER | RW)
    outcome = world.unit.translate(DmaRequest(NIC, other, READ))
    assert outcome.host_address == OTHER | ADDRESS & 0xFFF
    stale = [str(item) for item in outcome.stale if isinstance(item, StaleItem)]
    assert len(stale) == len(set(stale)) == 1


def behind_caches() -> tuple[ProcessorCache, ScalableWorld, RemappingUnit]:
    """The tables of `second`, behind the caches of processors, and a unit over these."""
    world = second()
    cpu = ProcessorCache(world.memory)
    return cpu, world, started(RemappingUnit(cpu, world.capabilities), world)


def started(unit: RemappingUnit, world: ScalableWorld) -> RemappingUnit:
    """The unit with the world's root table, translation on."""
    unit.mmio_write(RTADDR, world.root | SCALABLE, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    return unit


def test_exchange_sees_what_processors_have_not_flushed() -> None:
    cpu, world, unit = behind_caches()
    at = world.second[1]
    cpu.write_u64(at, OTHER | RW)
    assert unit.translate(DmaRequest(NIC, ADDRESS, WRITE)).host_address == OTHER | ADDRESS & 0xFFF
    assert cpu.read_u64(at) == OTHER | RW | A2 | D2
    assert world.memory.read_u64(at) == HOST | RW, "updates stay in the caches as well"
    cpu.flush_all()
    assert world.memory.read_u64(at) == OTHER | RW | A2 | D2


def test_memory_without_exchange_is_read_and_written() -> None:
    world = second()
    unit = started(RemappingUnit(PlainMemory(world.memory), world.capabilities), world)
    assert unit.translate(DmaRequest(NIC, ADDRESS, WRITE)).host_address == HOST | ADDRESS & 0xFFF
    assert world.bits(world.second, A2 | D2) == {4: A2, 3: A2, 2: A2, 1: A2 | D2}
    assert world.memory.exchanges == []


@pytest.mark.parametrize("cached", [False, True])
def test_exchange_compares_first(cached: bool) -> None:
    memory: FlatMemory | ProcessorCache = FlatMemory(0x1000)
    if cached:
        memory = ProcessorCache(FlatMemory(0x1000))
    memory.write_u64(8, 5)
    assert not memory.compare_exchange(8, 4, 9)
    assert memory.read_u64(8) == 5
    assert memory.compare_exchange(8, 5, 9)
    assert (memory.read_u64(0), memory.read_u64(8), memory.read_u64(16)) == (0, 9, 0)


# Posted-interrupt descriptors. PIR of vector 0x71 is the second quadword; ON and SN are in the fifth.

PIR, CONTROL = DESCRIPTOR + 8, DESCRIPTOR + 32
NOTIFICATION = Message(0xFEE0_9000, 0x40F2)


class Posting(Interrupting):
    """A world with a descriptor; entry 0 of the table posts vector 0x71 to it."""

    kind_of_memory = MeanwhileMemory
    memory: MeanwhileMemory

    def __init__(self, *, urgent: bool = False, **descriptor: Any) -> None:
        super().__init__(posted_interrupts=True)
        self.irte(0, POSTED_71 | urgent * URG)
        self.descriptor(**descriptor)


def test_descriptor_that_processors_change_meanwhile() -> None:
    """Each of the other's changes is kept, and decides."""
    world = Posting()
    world.memory.meanwhile[PIR] = lambda: world.put(PIR, 1 << 3)
    world.memory.meanwhile[CONTROL] = lambda: world.put(CONTROL, 0xA00 << 32 | 0xF3 << 16)
    assert world.code(0) == 0
    assert world.pir() == 1 << 0x71 | 1 << 67
    assert world.control() == 0xA00 << 32 | 0xF3 << 16 | 1
    assert world.unit.drain_events() == [Message(0xFEE0_A000, 0x40F3)]


def test_processor_that_takes_the_interrupts_meanwhile() -> None:
    """It clears ON, then takes PIR (5.2.5): the new interrupt needs a notification of its own."""
    world = Posting(pir=1 << 0x70, on=1)

    def take() -> None:
        world.put(CONTROL, world.control() & ~1)
        world.put(PIR, 0)

    world.memory.meanwhile[PIR] = take
    assert world.code(0) == 0
    assert (world.pir(), world.control() & 1) == (1 << 0x71, 1)
    assert world.unit.drain_events() == [NOTIFICATION]


@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize("bits", [1, 2])
def test_notification_that_is_not_wanted_any_more(bits: int, urgent: bool) -> None:
    """ON: another unit has sent it. SN: software suppresses it, unless the interrupt is urgent."""
    world = Posting(urgent=urgent)
    world.memory.meanwhile[CONTROL] = lambda: world.put(CONTROL, world.control() | bits)
    assert world.code(0) == 0
    assert world.pir() == 1 << 0x71
    sent = urgent and bits == 2
    assert world.unit.drain_events() == ([NOTIFICATION] if sent else [])
    assert world.control() & 3 == bits | sent


@raises(FaultReason.IR_28)
def test_descriptor_with_a_reserved_bit_meanwhile() -> None:
    world = Posting()

    def spoil() -> None:
        world.put(PIR, 1)
        world.put(CONTROL, world.control() | 1 << 2)

    world.memory.meanwhile[PIR] = spoil
    assert world.code(0) == 0x28
    assert world.pir() == 1 << 64


@pytest.mark.parametrize("at", [PIR, CONTROL])
@raises(FaultReason.IR_27)
def test_descriptor_that_changes_at_each_attempt(at: int) -> None:
    for changes in (ATTEMPTS - 1, ATTEMPTS):
        world = Posting()
        left = [changes]

        def change(address: int, world: Posting = world, left: list[int] = left) -> None:
            if address == at and left[0]:
                left[0] -= 1
                world.put(at, world.memory.read_u64(at) ^ 1 << 40)

        world.memory.always = change
        assert world.code(0) == (0x27 if changes == ATTEMPTS else 0)
        assert world.memory.exchanges.count(at) == ATTEMPTS
        assert len(world.unit.drain_events()) == (changes < ATTEMPTS)


def test_posting_to_memory_without_exchange() -> None:
    world = Posting()
    unit = RemappingUnit(PlainMemory(world.memory), world.capabilities)
    unit.mmio_write(IRTA, TABLE, 8)
    unit.mmio_write(GCMD, SIRTP, 4)
    unit.mmio_write(GCMD, IRE, 4)
    for sent in (True, False):
        posted = unit.remap_interrupt(request(0)).posted
        assert posted is not None and (posted.notification is not None) == sent
    assert (world.pir(), world.control() & 1) == (1 << 0x71, 1)
    assert unit.drain_events() == [NOTIFICATION]
    assert world.memory.exchanges == []
