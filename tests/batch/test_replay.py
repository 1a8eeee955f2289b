"""A replayed stream leaves the registers, the memory and the outcomes that the scalar engine leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import FaultReason, FlatMemory, MemoryAccessError, Policy, RemappingUnit
from iommu.batch import NO_ADDRESS, NO_PASID, Replay, translator
from iommu.engine.quiet import uncached_copy
from iommu.snapshot.memory import PiecewiseMemory
from tests.batch import examples, test_legacy, test_scalable
from tests.batch.comparing import Asked, MakeUnit, scalar, started
from tests.engine.scalable_world import A1, A2, ADDRESS, D1, D2, HOST, nested, second_stage
from tests.engine.test_against_naive_scalable import ROOT, offer
from tests.engine.test_walk_against_naive import RandomTables as LegacyTables
from tests.engine.world import DISK, NIC, RW, mapped

SCALABLE = 1 << 10


def replayed(unit: RemappingUnit, asked: Sequence[Asked]) -> tuple[Replay, list[tuple[int, int]]]:
    """Replay requests. Returns it and the results."""
    replay = Replay(unit)
    pasids = [NO_PASID if each.pasid is None else each.pasid for each in asked]
    hosts, reasons = replay.run(
        [each.source_id for each in asked], [each.address for each in asked], [each.write for each in asked],
        None if all(each.pasid is None for each in asked) else pasids,
    )  # fmt: skip
    return replay, list(zip(hosts.tolist(), reasons.tolist(), strict=True))


def one_by_one(unit: RemappingUnit, asked: Sequence[Asked]) -> tuple[list[tuple[int, int]], int]:
    """The same by the scalar engine without caches: the results, and how many faults were recorded."""
    translation, results, recorded = uncached_copy(unit.translation), [], 0
    for each in asked:
        outcome = translation.translate(each.request())
        results.append(
            (NO_ADDRESS if outcome.host_address is None else outcome.host_address, int(outcome.fault or 0))
        )
        recorded += outcome.recorded
    return results, recorded


def registers(unit: RemappingUnit) -> list[int]:
    """FSTS, and all fault recording registers."""
    first, count = unit.capabilities.fault_record_offset, unit.capabilities.fault_records
    return [unit.mmio_read(0x34, 4), *(unit.mmio_read(first + 8 * n, 8) for n in range(2 * count))]


def compare(make: MakeUnit, memories: Sequence[FlatMemory], asked: Sequence[Asked], *, read_only: bool) -> None:
    """One unit gets the requests at once, the other one by one, each with its own memory."""
    units = [make(memory) for memory in memories]
    alone = scalar(make, memories[1], asked, read_only=read_only)
    expected, recorded = one_by_one(units[1], asked)
    if alone != expected:
        # The bits that one request has set decide for another one: a table serves as one of another kind as well.
        return
    replay, results = replayed(units[0], asked)
    assert results == expected
    assert registers(units[0]) == registers(units[1])
    assert units[0].drain_events() == units[1].drain_events()
    differing = (
        [at for at in range(0, memories[0].size, 8) if memories[0].read_u64(at) != memories[1].read_u64(at)]
        if memories[0].read(0, memories[0].size) != memories[1].read(0, memories[1].size)
        else []
    )
    assert not differing, [
        (hex(at), hex(memories[0].read_u64(at)), hex(memories[1].read_u64(at))) for at in differing[:4]
    ]
    seen = replay.statistics
    faults = Counter(FaultReason(reason) for _, reason in expected if reason)
    through = sum(host != NO_ADDRESS for host, _ in expected)
    assert (seen.requests, seen.translated, seen.faults) == (len(asked), through, faults)
    assert seen.dropped == len(asked) - through - sum(faults.values())
    assert (seen.recorded, seen.suppressed + seen.lost) == (recorded, sum(faults.values()) - recorded)


def check_scalable(
    seed: int, trouble: float, changes: dict[str, Any], types: tuple[int, ...], per_level: bool, read_only: bool,
    wanted: list[Asked], compresses: bool = False, records: int = 4,
) -> None:  # fmt: skip
    can = offer({**changes, "fault_records": records})
    tables = test_scalable.Pieces(seed, trouble, can, types)
    policy = Policy(permission_per_level=per_level, compress_faults=compresses)
    make: MakeUnit = lambda memory: started(RemappingUnit(memory, can, policy), ROOT | SCALABLE)  # noqa: E731
    one_by_one(make(_Apart(tables)), wanted)
    memories = [test_scalable.flat(tables, read_only=read_only) for _ in range(2)]
    compare(make, memories, wanted, read_only=read_only)


class _Apart:
    """The tables; what is written is kept apart."""

    def __init__(self, tables: test_scalable.Pieces) -> None:
        self.tables = tables

    def read_u64(self, address: int) -> int:
        return self.tables.read_u64(address)

    def read(self, address: int, length: int) -> bytes:
        return self.tables.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """It is lost."""


worlds = {**test_scalable.worlds, "compresses": st.booleans(), "records": st.sampled_from((1, 4, 64))}


@settings(max_examples=80)
@given(**worlds)
def test_scalable_mode(**world: Any) -> None:
    check_scalable(**world)


@pytest.mark.slow
@settings(max_examples=3_000)
@given(**worlds)
def test_scalable_mode_at_length(**world: Any) -> None:
    check_scalable(**world)


@settings(max_examples=40)
@given(**test_legacy.worlds, compresses=st.booleans())
def test_legacy_mode(compresses: bool, **world: Any) -> None:
    tables = LegacyTables(world["seed"], world["trouble"], world["offered"]["levels"])
    policy = Policy(compress_faults=compresses)
    make = test_legacy.units({**world["offered"], "fault_records": 4}, world["sizes"], policy)
    one_by_one(make(tables), world["wanted"])
    memories = [test_legacy.flat(tables) for _ in range(2)]
    compare(make, memories, world["wanted"], read_only=False)


def test_more_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator, "CHUNK", 7)
    pick = Random(2)
    for _ in range(10):
        example = examples.scalable(pick)
        check_scalable(**example)


def test_accessed_and_dirty_of_a_second_stage() -> None:
    world = second_stage(pasid_entry={"ssade": 1})
    replayed(world.unit, [Asked(NIC, ADDRESS, False)])
    assert world.bits(world.second, A2 | D2) == {4: A2, 3: A2, 2: A2, 1: A2}
    replay, _ = replayed(world.unit, [Asked(NIC, ADDRESS, True), Asked(NIC, ADDRESS, True)])
    assert world.bits(world.second, A2 | D2) == {4: A2, 3: A2, 2: A2, 1: A2 | D2}
    assert replay.statistics.marked == 1


def test_an_update_of_a_first_stage_entry_is_a_write_for_the_second_stage() -> None:
    world = nested(pasid_entry={"ssade": 1})
    replayed(world.unit, [Asked(NIC, ADDRESS, False)])
    assert world.bits(world.first, A1 | D1) == {4: A1, 3: A1, 2: A1, 1: A1}
    assert world.bits(world.under[1], A2 | D2) == {4: A2, 3: A2, 2: A2, 1: A2 | D2}
    assert world.bits(world.second, A2 | D2) == {4: A2, 3: A2, 2: A2, 1: A2}


def test_a_blocked_request_marks_only_the_tables_above_the_page() -> None:
    world = second_stage(HOST | 1, pasid_entry={"ssade": 1})
    assert replayed(world.unit, [Asked(NIC, ADDRESS, True)])[1] == [(NO_ADDRESS, 0x85)]
    assert world.bits(world.second, A2 | D2) == {4: A2, 3: A2, 2: A2, 1: 0}


def test_an_entry_that_cannot_be_written_is_a_fault() -> None:
    """Another memory than a flat one does not say so beforehand."""
    world = second_stage(pasid_entry={"ssade": 1})
    whole = world.memory.read(0, 0x10_0000)
    memory = PiecewiseMemory([(0, memoryview(bytearray(whole)))])
    leaf = world.second[1]

    def write(address: int, data: bytes, plain: Any = memory.write) -> None:
        if address == leaf:
            raise MemoryAccessError(address, len(data))
        plain(address, data)

    memory.write = write  # type: ignore[method-assign]
    unit = started(RemappingUnit(memory, world.capabilities), world.root | SCALABLE)
    replay, results = replayed(unit, [Asked(NIC, ADDRESS, False), Asked(NIC, ADDRESS + 0x1000, False)])
    assert results == [(NO_ADDRESS, 0x7D), (NO_ADDRESS, 0x79)]
    assert (replay.statistics.faults, replay.statistics.recorded) == ({0x7D: 1, 0x79: 1}, 2)
    assert [memory.read_u64(at) & A2 for level, at in world.second.items()] == [A2, A2, A2, 0]


def test_faults_are_recorded_until_the_registers_are_full() -> None:
    world = mapped(0x5000, 0x9000 | RW, fault_records=2)
    asked = [Asked(NIC, 0x5000, True), *(Asked(NIC, 0x6000 + 0x1000 * number, True) for number in range(1000))]
    replay, _ = replayed(world.unit, asked)
    assert [(record.source_id, record.address, record.reason) for record in world.records()] == [
        (NIC, 0x6000, 0x05),
        (NIC, 0x7000, 0x05),
    ]
    assert world.read(0x34) & 1, "PFO"
    seen = replay.statistics
    assert (seen.requests, seen.translated, seen.recorded, seen.lost) == (1001, 1, 2, 998)
    world.clear_record(0)
    world.clear_record(1)
    world.write(0x34, 1)
    replayed(world.unit, [Asked(DISK, 0x8000, False)])
    assert [record.source_id for record in world.records()] == [DISK]


def test_faults_of_a_source_that_is_pending_are_lost_with_compression() -> None:
    world = mapped(0x5000, 0x9000 | RW, fault_records=4, policy=Policy(compress_faults=True))
    asked = [Asked(source, 0x6000 + 0x1000 * n, True) for n in range(500) for source in (NIC, DISK)]
    replay, _ = replayed(world.unit, asked)
    assert [(record.source_id, record.address) for record in world.records()] == [(NIC, 0x6000), (DISK, 0x6000)]
    assert not world.read(0x34) & 1, "no overflow"
    assert (replay.statistics.recorded, replay.statistics.lost) == (2, 998)


def test_faults_of_a_device_with_fpd_are_not_recorded() -> None:
    world = mapped(0x5000, 0x9000 | RW, fault_records=4)
    world.device(DISK, fpd=1)
    replay, _ = replayed(world.unit, [Asked(DISK, 0x5000, True), Asked(NIC, 0x6000, True), Asked(0x500, 0, True)])
    assert [record.reason for record in world.records()] == [0x05, 0x01]
    assert (replay.statistics.suppressed, replay.statistics.recorded, replay.statistics.lost) == (1, 2, 0)


def test_requests_in_the_interrupt_range_are_reported_as_interrupts_are() -> None:
    world = mapped(interrupt_remapping=True, queued_invalidation=True)
    world.write(0xB8, 0x8000, 8)
    world.write(0x18, 1 << 31 | 1 << 24)
    world.write(0x18, 1 << 31 | 1 << 25)
    replay, _ = replayed(world.unit, [Asked(NIC, 0xFEE0_1000, True)])
    assert [(record.reason, record.address) for record in world.records()] == [(0x29, 0)]
    assert replay.statistics.faults == {FaultReason.IR_29: 1}


def test_a_million_faults_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is asked only as long as it can record."""
    world = mapped(fault_records=2)
    calls = []
    report = world.unit.faults.report

    def counting(*fault: Any) -> bool:
        calls.append(fault)
        return report(*fault)

    monkeypatch.setattr(world.unit.faults, "report", counting)
    replay = Replay(world.unit)
    replay.run(np.zeros(1 << 20, np.uint16), np.zeros(1 << 20, np.uint64), np.ones(1 << 20, np.bool_))
    assert (replay.statistics.lost, len(calls)) == ((1 << 20) - 2, 3)
