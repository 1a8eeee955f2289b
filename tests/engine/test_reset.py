"""Warm resets: sticky fields (ROS and RW1CS in 11.3) keep their values, all else is as after a power-good reset."""

from __future__ import annotations

import pytest

from iommu import RemappingUnit
from tests.engine.queueing import ICS, IECTL, IQA, IQERCD, IQH, IQT, QIE, Software, legacy, wait
from tests.engine.world import (
    CCMD,
    FEADDR,
    FECTL,
    FEDATA,
    FEUADDR,
    FSTS,
    GCMD,
    GSTS,
    RTADDR,
    SRTP,
    TE,
    World,
    mapped,
)

PRS, PQH, PQT, PQA, PECTL, IRTA = 0xDC, 0xC0, 0xC8, 0xD0, 0xE0, 0xB8


def faulted(**options: int) -> World:
    """A world with one more fault than records, and registers that are not as after a reset."""
    world = mapped(**options)
    for _ in range(world.capabilities.fault_records + 1):
        world.fault(0x6000)
    for offset, value in ((FECTL, 0), (FEDATA, 0x41), (FEADDR, 0xFEE0_0000), (FEUADDR, 1)):
        world.write(offset, value)
    return world


@pytest.mark.parametrize("warm", [False, True])
def test_faults_survive_a_warm_reset(warm: bool) -> None:
    """11.4.7.1, 11.4.7.6: FSTS and FRCD are sticky, field by field."""
    world = faulted(fault_records=3)
    before = [world.read(offset, 8) for offset in range(world.frcd, world.frcd + 48, 8)]
    assert world.read(FSTS) == 0b11
    assert all(high >> 63 for high in before[1::2])
    world.unit.warm_reset() if warm else world.unit.reset()
    after = [world.read(offset, 8) for offset in range(world.frcd, world.frcd + 48, 8)]
    assert (world.read(FSTS), after) == ((0b11, before) if warm else (0, [0] * 6))


def test_the_index_of_the_first_fault_survives() -> None:
    """FRI is ROS: here the first pending fault is in record 1."""
    world = mapped(fault_records=2)
    world.fault(0x6000)
    world.clear_record(0)
    world.fault(0x7000)
    assert world.read(FSTS) == 1 << 8 | 1 << 1
    world.unit.warm_reset()
    assert world.read(FSTS) == 1 << 8 | 1 << 1


def test_everything_else_is_reset() -> None:
    """RW, RO and WO fields have no S in the tables: switches, pointers, event registers."""
    world = faulted(fault_records=1)
    assert world.read(GSTS) == TE | SRTP
    world.unit.warm_reset()
    assert [world.read(offset) for offset in (GSTS, FEDATA, FEADDR, FEUADDR)] == [0, 0, 0, 0]
    assert (world.read(FECTL), world.read(RTADDR, 8), world.read(CCMD, 8)) == (1 << 31, 0, 0)
    assert world.dma(0x6000).host_address == 0x6000


def test_caches_are_empty_after_a_warm_reset() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    world.map(world.device(), 4, 0x5000, 0xA003)
    world.unit.warm_reset()
    world.start()
    assert world.dma(0x5000).host_address == 0xA000


def test_the_next_record_is_the_first_again() -> None:
    """7.2.1: the internal index is 0 while neither DMA nor interrupts are remapped. An old fault there: overflow."""
    world = mapped(fault_records=2)
    world.fault(0x6000)
    world.unit.warm_reset()
    world.start()
    world.fault(0x7000)
    assert (world.read(FSTS), world.record(0).address, world.record(1).f) == (0b11, 0x6000, 0)


def test_no_event_is_sent_or_pending_for_what_survived() -> None:
    """IP is not sticky. While a status bit is set, a further fault raises no event (11.4.7.2)."""
    world = mapped(fault_records=2)
    world.fault(0x6000)
    assert world.read(FECTL) == 3 << 30
    world.unit.warm_reset()
    assert world.read(FECTL) == 1 << 31
    world.write(FECTL, 0)
    world.start()
    world.fault(0x7000)
    assert world.unit.drain_events() == []


def test_a_driver_that_clears_old_faults_first_gets_events() -> None:
    """What a driver has to do after a warm reset: service the records it finds, then PFO, and unmask."""
    world = faulted(fault_records=2)
    world.unit.warm_reset()
    for n in range(2):
        world.clear_record(n)
    world.write(FSTS, 1)
    assert world.read(FSTS) & 0xFF == 0
    world.write(FECTL, 0)
    world.start()
    world.fault(0x7000)
    assert (world.record(0).address, len(world.unit.drain_events())) == (0x7000, 1)


def refused() -> Software:
    """A queue that has completed a wait descriptor with IF and refused a descriptor."""
    software = legacy()
    software.world.write(IECTL, 0)
    software.submit(wait(interrupt=1), (0xF, 0))
    return software


def test_a_queue_error_survives_and_still_stops_the_queue() -> None:
    """11.4.9.4, 11.4.9.9: IWC and IQERCD are sticky, IQE too; the queue's own registers are not."""
    software = refused()
    world = software.world
    assert (software.error, world.read(ICS)) == (3, 1)
    world.unit.warm_reset()
    assert (software.error, world.read(ICS), world.read(IQERCD, 8)) == (3, 1, 3)
    assert [world.read(offset, 8) for offset in (IQH, IQT, IQA)] == [0, 0, 0]
    assert world.read(IECTL) == 1 << 31
    world.write(IQA, software.base, 8)
    world.write(GCMD, QIE)
    world.put(software.base, *wait())
    world.write(IQT, 16, 8)
    assert (world.read(IQH, 8), world.read(GSTS)) == (0, QIE)
    software.clear()
    assert (world.read(FSTS), world.read(IQH, 8)) == (0, 16)


def test_the_page_request_status_survives_without_its_queue() -> None:
    """11.4.11.4: PRO and PPR are sticky; head, tail and address of the queue are not."""
    world = World(
        scalable_mode=True, second_stage=True, device_tlb=True, page_requests=True, queued_invalidation=True
    )
    for slot in world.unit.registers:
        if slot.offset in (PRS, PQH, PQT, PQA):
            slot.value = {PRS: 3, PQH: 0x20, PQT: 0x40, PQA: 0x5000}[slot.offset]
    world.unit.warm_reset()
    assert world.read(PRS) == 3
    assert [world.read(offset, 8) for offset in (PQH, PQT, PQA)] == [0, 0, 0]
    assert world.read(PECTL) == 1 << 31
    world.write(PRS, 3)
    assert world.read(PRS) == 0


def test_a_warm_reset_of_a_fresh_unit_is_a_reset() -> None:
    world = World(device_tlb=True)
    fresh = [slot.read() for slot in RemappingUnit(world.memory, world.capabilities).registers]
    world.unit.warm_reset()
    assert [slot.read() for slot in world.unit.registers] == fresh
    assert world.read(IRTA, 8) == 0
