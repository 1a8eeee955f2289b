"""faults.py: what is recorded, where, what FPD suppresses, overflow, and the fault event."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import AddressType, Message, Policy, SourceId
from tests.engine.interrupting import IRE, IRTA, SIRTP
from tests.engine.world import (
    ABSENT,
    DISK,
    FEADDR,
    FECTL,
    FEDATA,
    FEUADDR,
    FSTS,
    GCMD,
    NIC,
    READ,
    RW,
    TE,
    TM,
    TRANSLATED,
    TRANSLATION_REQUEST,
    WRITE,
    R,
    W,
    World,
    mapped,
)

PFO, PPF, IQE, IM, IP = 1 << 0, 1 << 1, 1 << 4, 1 << 31, 1 << 30
RECORDS = [1, 2, 8]


def blank(records: int = 1, policy: Policy | None = None, **capabilities: Any) -> World:
    """A world in which every device's context entry is absent: each request faults with 0x02."""
    world = World(fault_records=records, policy=policy, **capabilities)
    world.context_address(NIC)
    return world.start()


def sources(count: int, first: int = 0) -> list[SourceId]:
    """Different devices of bus 0."""
    return [SourceId.of(first + n) for n in range(count)]


def fri(world: World) -> int:
    """FSTS.FRI."""
    return world.read(FSTS) >> 8 & 0xFF


# FPD


def context_faults() -> dict[int, dict[str, Any]]:
    """For each qualified fault the context entry, the page entry and the request that raise it."""
    return {
        0x02: {"context": {"p": 0}},
        0x03: {"context": {"tt": 3}},
        0x04: {"request": {"address": 1 << 48}},
        0x05: {"entry": R},
        0x06: {"entry": W, "request": {"access": READ}},
        0x07: {"table": ABSENT | RW},
        0x0B: {"context": {"extra": 1 << 127}},
        0x0C: {"entry": RW | TM},
        0x0D: {"request": {"kind": TRANSLATION_REQUEST}},
        0x0E: {"entry": RW | 0xFEE0_0000},
    }


def faulty(code: int, fpd: int) -> tuple[World, dict[str, Any]]:
    """A world and a request for it that raises `code` at NIC's context with that FPD."""
    recipe = context_faults()[code]
    world = World()
    top = world.page()
    world.context(table=top, fpd=fpd, **recipe.get("context", {}))
    places = world.map(top, 4, 0, recipe.get("entry", 0x9000 | RW))
    if "table" in recipe:
        world.put(places[2], recipe["table"])
    return world.start(), recipe.get("request", {})


@pytest.mark.parametrize("code", context_faults())
def test_fpd_suppresses_a_qualified_fault(code: int) -> None:
    world, request = faulty(code, fpd=1)
    outcome = world.dma(**request)
    assert (outcome.fault, outcome.recorded, outcome.host_address) == (code, False, None)
    assert (world.records(), world.read(FSTS)) == ([], 0)
    assert world.read(FECTL) == IM


@pytest.mark.parametrize("code", context_faults())
def test_without_fpd_a_qualified_fault_is_recorded(code: int) -> None:
    world, request = faulty(code, fpd=0)
    outcome = world.dma(**request)
    assert (outcome.fault, outcome.recorded) == (code, True)
    assert world.record().reason == code
    assert world.read(FSTS) == PPF


@pytest.mark.parametrize("code", [0x04, 0x05, 0x06, 0x0D])
def test_fpd_of_a_cached_context_entry(code: int) -> None:
    """A request that goes through fills the cache first; FPD is then taken from the cached copy."""
    recipe = context_faults()[code]
    for fpd in (0, 1):
        world = World()
        at = world.device(fpd=fpd)
        world.map(at, 4, 0, 0x9000 | recipe.get("entry", RW))
        world.map(at, 4, 0x1000, 0xA000 | RW)
        world.start()
        assert world.dma(0x1000).fault is None
        world.put(world.context_address(NIC), 0, 0)
        assert world.dma(**recipe.get("request", {})).recorded == (fpd == 0)


@pytest.mark.parametrize("fpd", [0, 1])
def test_fpd_does_not_suppress_unqualified_faults(fpd: int) -> None:
    """0x01, 0x08, 0x09, 0x0A, 0x30 and 0x31, with a context entry whose FPD would suppress them."""
    recorded = []
    world = mapped(fault_records=16, tt=0)
    context = world.context(fpd=fpd)
    entry = world.memory.read_u64(world.root)
    for value in (entry & ~1, ABSENT | 1, entry | 2):
        world.put(world.root, value)
        recorded.append(int(world.dma(0x5000).fault or 0))
    world.put(world.root, entry)
    assert world.memory.read_u64(context) & 2 == fpd << 1
    recorded.append(int(world.dma(0x5000, pasid=1).fault or 0))
    world.latch(world.root | 3 << 10)
    recorded.append(int(world.dma(0x5000).fault or 0))
    world.latch(ABSENT)
    recorded.append(int(world.dma(0x5000).fault or 0))
    assert recorded == [0x01, 0x09, 0x0A, 0x31, 0x30, 0x08]
    assert [record.reason for record in world.records()] == recorded


def test_there_is_no_fpd_in_a_root_entry() -> None:
    world = blank()
    world.put(world.root, 2)
    assert world.dma().recorded
    assert world.record().reason == 0x01


# The fields of a record


@pytest.mark.parametrize("access", [READ, WRITE])
@pytest.mark.parametrize("source_id", [NIC, SourceId(255, 31, 7), SourceId(0, 0, 0), SourceId(128, 1, 2)])
def test_record_of_a_plain_request(access: Any, source_id: SourceId) -> None:
    world = World()
    world.start()
    world.dma(0x12_3456_7ABC, access, source_id)
    record = world.record()
    assert (record.f, record.reason, record.source_id, record.address) == (1, 0x01, source_id, 0x12_3456_7000)
    assert (record.t1, record.t2) == (1 if access == READ else 0, 0)
    assert (record.pasid_present, record.pasid, record.privileged, record.execute, record.address_type) == (0,) * 5


@pytest.mark.parametrize("width", [39, 48, 57])
def test_address_bits_above_the_guest_width_are_recorded_as_0(width: int) -> None:
    world = World(address_width=width)
    world.start()
    for bit in range(64):
        if 20 <= bit < 32:
            continue  # keeps clear of the interrupt range
        world.dma(1 << bit)
        assert world.record().address == (1 << bit if 12 <= bit < width else 0)
        assert world.read(world.frcd, 8) & 0xFFF == 0
        world.clear_record()


def test_record_of_an_address_beyond_the_limit() -> None:
    world = mapped(address_width=39, levels=(4,))
    assert world.fault(0xFFFF_FF80_0000_5000) == 0x04
    assert world.record().address == 0x5000


@pytest.mark.parametrize("privileged", [0, 1])
@pytest.mark.parametrize("pasid", [0, 0x12345, 0xFFFFF])
def test_record_of_a_request_with_a_pasid(pasid: int, privileged: int) -> None:
    world = blank()
    world.dma(0x5000, READ, pasid=pasid, privileged=bool(privileged))
    record = world.record()
    assert (record.pasid_present, record.pasid, record.privileged, record.reason) == (1, pasid, privileged, 0x31)


def test_reserved_bits_of_a_record_are_0() -> None:
    world = blank()
    world.dma((1 << 47) - 1, READ, pasid=0xFFFFF, privileged=True)
    assert world.read(world.frcd + 8, 8) & 0x0FFF_0000 == 0


# Order, overflow, clearing


@pytest.mark.parametrize("count", RECORDS)
def test_records_fill_in_order_and_then_overflow(count: int) -> None:
    world = blank(count)
    for n, source_id in enumerate(sources(count)):
        assert world.dma(n << 12, source_id=source_id).recorded
        assert world.read(FSTS) == PPF
    assert [record.source_id for record in world.records()] == sources(count)
    assert [record.address for record in world.records()] == [n << 12 for n in range(count)]
    lost = world.dma(0, source_id=DISK)
    assert (lost.fault, lost.recorded) == (0x02, False)
    assert world.read(FSTS) == PPF | PFO
    assert [record.source_id for record in world.records()] == sources(count)


@pytest.mark.parametrize("count", RECORDS)
def test_index_wraps_and_fri_names_the_first_pending_record(count: int) -> None:
    world = blank(count)
    for n in range(3 * count + 1):
        assert world.dma(n << 12).recorded
        assert fri(world) == n % count
        assert [record.address for record in world.records()] == [n << 12]
        world.clear_record(n % count)
        assert world.read(FSTS) & (PPF | PFO) == 0


@pytest.mark.parametrize("count", [2, 8])
def test_fri_stays_while_faults_are_pending(count: int) -> None:
    world = blank(count)
    world.dma(0)
    world.clear_record(0)
    for n in range(1, count):
        world.dma(n << 12)
        assert fri(world) == 1
    world.dma(0)
    assert fri(world) == 1
    assert len(world.records()) == count


@pytest.mark.parametrize("count", RECORDS)
def test_overflow_loses_everything_until_it_is_cleared(count: int) -> None:
    world = blank(count)
    for n in range(count + 1):
        world.dma(n << 12)
    for n in range(count):
        world.clear_record(n)
        assert not world.dma(0xABC_D000).recorded
    assert (world.records(), world.read(FSTS) & (PPF | PFO)) == ([], PFO)
    world.write(FSTS, PFO)
    assert world.read(FSTS) & (PPF | PFO) == 0
    assert world.dma(0x777_7000).recorded
    assert world.record(0).address == 0x777_7000
    assert fri(world) == 0


@pytest.mark.parametrize("count", RECORDS)
def test_overflow_is_set_again_while_the_record_at_the_index_is_in_use(count: int) -> None:
    world = blank(count)
    for n in range(count + 1):
        world.dma(n << 12)
    world.write(FSTS, PFO)
    assert world.read(FSTS) & PFO == 0
    assert not world.dma().recorded
    assert world.read(FSTS) & PFO == PFO


def test_only_the_record_at_the_index_can_be_used() -> None:
    """The record at the index decides, not whether some record is free."""
    world = blank(2)
    world.dma(0x1000)
    world.dma(0x2000)
    world.clear_record(1)
    assert not world.dma(0x3000).recorded
    assert world.read(FSTS) & PFO


@pytest.mark.parametrize("interrupting", [False, True])
def test_index_goes_back_to_0_when_nothing_is_remapped(interrupting: bool) -> None:
    """7.2.1: TES and IRES are both 0. While interrupts are still remapped the next register is used."""
    world = World(fault_records=4, interrupt_remapping=True)
    world.write(IRTA, 0, 8)
    world.start()
    world.fault(0x1000)
    world.clear_record(0)
    world.write(GCMD, interrupting * (SIRTP | IRE))
    world.write(GCMD, interrupting * IRE | TE)
    world.fault(0x2000)
    assert [world.record(n).f for n in range(2)] == ([0, 1] if interrupting else [1, 0])


def test_index_that_goes_back_to_a_pending_record_overflows() -> None:
    """7.2.1: the first register is in use, so the fault is lost, although the second is free."""
    world = blank(2)
    world.dma(0x1000)
    world.write(GCMD, 0)
    world.start()
    assert not world.dma(0x2000).recorded
    assert [record.address for record in world.records()] == [0x1000]
    assert world.read(FSTS) & PFO


@pytest.mark.parametrize("count", RECORDS)
def test_cleared_record_keeps_its_contents(count: int) -> None:
    world = blank(count)
    world.dma(0x5000, READ)
    before = world.record()
    world.clear_record()
    assert world.record() == before._replace(f=0)


@pytest.mark.parametrize(("offset", "value", "size", "clears"), [
    (12, 1 << 31, 4, True), (12, 0xFFFF_FFFF, 4, True), (8, 1 << 63, 8, True), (8, (1 << 64) - 1, 8, True),
    (12, 0x7FFF_FFFF, 4, False), (12, 0, 4, False), (8, 0x7FFF_FFFF_FFFF_FFFF, 8, False), (8, 0xFFFF_FFFF, 4, False),
    (0, 0xFFFF_FFFF, 4, False), (4, 0xFFFF_FFFF, 4, False), (0, (1 << 64) - 1, 8, False),
])  # fmt: skip
def test_only_writing_1_to_f_clears_a_record(offset: int, value: int, size: int, clears: bool) -> None:
    world = blank(8)
    for n in range(2):
        world.dma(0x5000 + (n << 12), READ)
    before = world.record(0), world.record(1)
    world.write(world.frcd + offset, value, size)
    assert world.record(0) == before[0]._replace(f=0 if clears else 1)
    assert world.record(1) == before[1]
    assert world.read(FSTS) & PPF
    world.clear_record(1)
    assert bool(world.read(FSTS) & PPF) == (not clears)


def test_status_bits_that_cannot_be_written() -> None:
    world = blank(2)
    world.dma()
    world.dma()
    world.dma()
    assert world.read(FSTS) == PPF | PFO
    world.write(FSTS, 0xFFFF_FFFF & ~PFO)
    assert world.read(FSTS) == PPF | PFO
    world.write(FSTS, 0)
    assert world.read(FSTS) == PPF | PFO
    world.write(FSTS, PFO)
    assert world.read(FSTS) == PPF


# Compression


@pytest.mark.parametrize("count", RECORDS)
def test_no_compression_by_default(count: int) -> None:
    world = blank(count)
    for _ in range(count):
        assert world.dma().recorded
    assert not world.dma().recorded
    assert world.read(FSTS) & PFO


@pytest.mark.parametrize("count", RECORDS)
def test_compression_drops_without_overflow(count: int) -> None:
    world = blank(count, Policy(compress_faults=True))
    assert world.dma(0x1000).recorded
    for _ in range(count + 2):
        assert not world.dma(0x2000, READ).recorded
    assert world.read(FSTS) == PPF
    assert [record.address for record in world.records()] == [0x1000]
    world.clear_record()
    assert world.dma(0x3000).recorded


def test_compression_is_by_source_id() -> None:
    world = blank(2, Policy(compress_faults=True))
    assert world.dma(source_id=NIC).recorded
    assert world.dma(source_id=DISK).recorded
    assert not world.dma(source_id=NIC).recorded
    assert world.read(FSTS) == PPF
    assert not world.dma(source_id=SourceId(0, 9, 0)).recorded
    assert world.read(FSTS) == PPF | PFO


# The fault event


def with_message(world: World, *, masked: bool = False) -> World:
    """Programs the event's address and data."""
    world.write(FEADDR, 0xFEE0_1000)
    world.write(FEDATA, 0x41)
    world.write(FECTL, IM if masked else 0)
    return world


MESSAGE = Message(0xFEE0_1000, 0x41)


def test_first_fault_sends_the_event_at_once() -> None:
    world = with_message(blank(8))
    assert world.unit.drain_events() == []
    world.dma()
    assert world.unit.drain_events() == [MESSAGE]
    assert world.unit.drain_events() == []
    assert world.read(FECTL) == 0


def test_further_faults_send_nothing_while_one_is_pending() -> None:
    world = with_message(blank(2))
    for _ in range(4):
        world.dma()
    assert world.unit.drain_events() == [MESSAGE]
    world.clear_record(0)
    world.write(FSTS, PFO)
    world.dma()
    assert world.unit.drain_events() == []
    world.clear_record(0)
    world.clear_record(1)
    world.dma()
    assert world.unit.drain_events() == [MESSAGE]


def test_masked_event_waits_until_unmasked() -> None:
    world = with_message(blank(), masked=True)
    world.dma()
    assert (world.unit.drain_events(), world.read(FECTL)) == ([], IM | IP)
    world.write(FECTL, IM)
    assert (world.unit.drain_events(), world.read(FECTL)) == ([], IM | IP)
    world.write(FECTL, 0)
    assert (world.unit.drain_events(), world.read(FECTL)) == ([MESSAGE], 0)
    world.write(FECTL, 0)
    assert world.unit.drain_events() == []


def test_event_is_masked_after_reset() -> None:
    world = blank()
    world.dma()
    assert (world.unit.drain_events(), world.read(FECTL)) == ([], IM | IP)


def test_message_is_taken_from_the_registers_when_it_is_sent() -> None:
    world = with_message(blank(), masked=True)
    world.dma()
    world.write(FEDATA, 0x55)
    world.write(FEADDR, 0xFEE0_2000)
    world.write(FECTL, 0)
    assert world.unit.drain_events() == [Message(0xFEE0_2000, 0x55)]


def test_held_event_is_withdrawn_when_all_is_serviced() -> None:
    world = with_message(blank(2), masked=True)
    world.dma()
    world.dma()
    world.clear_record(0)
    assert world.read(FECTL) == IM | IP
    world.clear_record(1)
    assert world.read(FECTL) == IM
    world.write(FECTL, 0)
    assert world.unit.drain_events() == []


def test_pending_bit_cannot_be_written() -> None:
    world = with_message(blank())
    world.write(FECTL, IP)
    assert (world.read(FECTL), world.unit.drain_events()) == (0, [])
    world.write(FECTL, IM | IP)
    assert world.read(FECTL) == IM
    world.dma()
    world.write(FECTL, IM)
    assert world.read(FECTL) == IM | IP


def test_masking_again_after_the_event_holds_the_next_one() -> None:
    world = with_message(blank())
    world.dma()
    world.write(FECTL, IM)
    assert world.read(FECTL) == IM
    world.clear_record()
    world.dma()
    assert (world.unit.drain_events(), world.read(FECTL)) == ([MESSAGE], IM | IP)


def test_overflow_alone_raises_no_event() -> None:
    world = with_message(blank(), masked=True)
    world.dma()
    world.dma()
    assert world.read(FSTS) & PFO
    world.clear_record()
    assert world.read(FECTL) == IM | IP
    world.write(FSTS, PFO)
    assert world.read(FECTL) == IM


def test_no_second_message_while_an_overflow_is_pending() -> None:
    """11.4.7.2: PFO is one of the statuses that keep further messages back (3.3: EDC, QM, VB)."""
    world = with_message(blank())
    world.dma()
    world.dma()
    world.clear_record()
    world.unit.faults.set_status(IQE)
    assert world.unit.drain_events() == [MESSAGE]
    world.write(FSTS, PFO | IQE)
    world.dma()
    assert world.unit.drain_events() == [MESSAGE]


def test_suppressed_fault_raises_no_event() -> None:
    world = with_message(World())
    world.context(p=0, fpd=1)
    world.start().dma()
    assert world.unit.drain_events() == []


def test_compressed_fault_raises_no_event() -> None:
    world = with_message(blank(2, Policy(compress_faults=True)))
    world.dma()
    world.dma()
    assert world.unit.drain_events() == [MESSAGE]


def test_event_data_and_address_registers_keep_their_fields_only() -> None:
    world = World()
    for offset in (FEDATA, FEADDR, FEUADDR):
        world.write(offset, 0xFFFF_FFFF)
    assert world.read(FEDATA) == 0xFFFF
    assert world.read(FEADDR) == 0xFFFF_FFFC
    world.write(FECTL, 0x3FFF_FFFF)
    assert world.read(FECTL) & (IM | IP) == 0


@pytest.mark.parametrize("kind", [TRANSLATION_REQUEST, TRANSLATED])
def test_record_has_no_address_type_without_device_tlbs(kind: AddressType) -> None:
    """3.1: AT is zero without ECAP.DT."""
    world = mapped(device_tlb=False)
    assert world.fault(0x5000, kind=kind) == 0x0D
    assert world.record().address_type == 0


def test_message_has_the_upper_half_of_its_address() -> None:
    """3.3: FEUADDR, which x2APIC destinations need."""
    world = with_message(blank())
    world.write(FEUADDR, 0x1200)
    world.dma()
    assert world.unit.drain_events() == [Message(0x1200_FEE0_1000, 0x41)]


def test_event_again_after_everything_is_cleared() -> None:
    world = with_message(blank())
    for _ in range(2):
        world.dma()
        assert world.unit.drain_events() == [MESSAGE]
        world.clear_record(0)
        assert world.read(FSTS) == 0
