"""trace.py: the steps of a walk, and that taking them down changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Access, Capabilities, DmaRequest, FaultReason, FlatMemory, Outcome, RemappingUnit, SourceId
from iommu.engine.entry_format import PagingFormat
from iommu.engine.trace import Step
from iommu.engine.translation.second_stage import SecondStage
from iommu.registers import GCMD, PMEN
from iommu.structures import FirstStageMapper, PageAllocator, SecondStageMapper
from tests.engine.world import NIC, READ, RTADDR, RW, WRITE, R, World, held, mapped


def steps(world: World, address: int, access: Access = WRITE, **request: Any) -> tuple[Step, ...]:
    outcome = world.unit.translate(DmaRequest(NIC, address, access, **request), trace=True)
    assert all(isinstance(step, Step) for step in outcome.trace)
    return outcome.trace  # type: ignore[return-value]


def test_every_entry_of_a_walk_in_order() -> None:
    """Spec 3.4.2, 3.7: root entry, context entry, four levels; indexes are nine bits of the address each."""
    world = World()
    top = world.device()
    places = world.map(top, 4, 0x12_3456_7000, 0x9000 | RW)
    world.start()
    found = steps(world, 0x12_3456_7008)
    context = world.context_address(NIC)
    assert [step.structure for step in found] == [
        "request",
        "root entry",
        "context entry",
        "second-stage entry, level 4",
        "second-stage entry, level 3",
        "second-stage entry, level 2",
        "second-stage entry, level 1",
    ]
    assert [step.address for step in found] == [None, world.root, context, places[4], places[3], places[2], places[1]]
    assert [step.section for step in found] == ["3.4", "9.1", "9.3", "9.8", "9.8", "9.8", "9.8"]
    for step in found[1:]:
        assert step.address is not None and step.raw is not None and step.view is not None
        assert step.view.raw == step.raw
        assert world.memory.read_u64(step.address) == step.raw & (1 << 64) - 1
        assert (step.cached, step.fault) == (False, None)
    assert "4 KiB page 0x9000" in found[-1].checked


def test_without_tracing_there_is_no_trace() -> None:
    assert mapped().dma(0x5000).trace == ()


def test_cache_hits_are_steps() -> None:
    world = mapped()
    steps(world, 0x5000)
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x6000, 0xA000 | RW)
    again, neighbour = steps(world, 0x5000), steps(world, 0x6000)
    assert [(step.structure, step.cached) for step in again[1:]] == [("context cache", True), ("IOTLB", True)]
    assert [step.structure for step in neighbour[1:]] == [
        "context cache",
        "second-stage structure cache",
        "second-stage entry, level 1",
    ]


def test_a_stale_translation_shows_that_memory_was_not_read() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x5000, 0)
    last = steps(world, 0x5000)[-1]
    assert (last.structure, last.cached, last.address) == ("IOTLB", True, None)


@pytest.mark.parametrize(
    ("entry", "address", "access", "reason", "structure", "said"),
    [
        (0x9000 | R, 0x5000, WRITE, FaultReason.LGN_2, "second-stage entry, level 1", "write without"),
        (0, 0x5000, READ, FaultReason.LGN_3, "second-stage entry, level 1", "read without"),
        (0x9000 | RW | 1 << 11, 0x5000, READ, FaultReason.LSL_2, "second-stage entry, level 1", "(0x800)"),
        (0x9000 | RW, 1 << 48, READ, FaultReason.LGN_1, "context entry", "beyond"),
        (0xFEE0_0000 | RW, 0x5000, READ, FaultReason.LGN_4, "second-stage entry, level 1", "interrupt range"),
    ],
)
def test_last_step_says_why_it_was_blocked(
    entry: int, address: int, access: Access, reason: FaultReason, structure: str, said: str
) -> None:
    *before, last = steps(mapped(entry=entry), address, access)
    assert (last.fault, last.structure) == (reason, structure)
    assert said in last.checked
    assert all(step.fault is None for step in before)


def test_what_cannot_be_read_is_a_step_without_value() -> None:
    world = World()
    world.start(1 << 40)
    last = steps(world, 0x5000)[-1]
    assert (last.structure, last.address, last.raw, last.fault) == ("root entry", 1 << 40, None, FaultReason.LRT_1)


def test_requests_that_reach_no_table() -> None:
    world = World()
    (off,) = steps(world, 0x5000)
    assert "translation is off" in off.checked
    world.start()
    (message,) = steps(world, 0xFEE0_0000, length=4)
    assert "message" in message.checked
    world.write(RTADDR, world.root | 2 << 10, 8)
    world.write(GCMD.offset, GCMD.make(TE=1, SRTP=1))
    (wrong,) = steps(world, 0x5000)
    assert wrong.fault is FaultReason.RTA_1


def test_protected_memory_is_a_step() -> None:
    world = mapped(protected_low=True)
    world.write(PMEN.offset, 1 << 31)
    last = steps(world, 0x5000)[-1]
    assert (last.structure, last.section, last.fault) == ("protected memory", "11.4.8", None)


def test_steps_as_text() -> None:
    world = mapped(entry=0x9000 | R)
    text = [str(step) for step in steps(world, 0x5000)]
    assert text[1] == f"root entry  {world.root:#x}  0x{0x3001:032x}  present, nothing reserved; context table 0x3000"
    assert text[-1].endswith("0x0000000000009001  0x05 LGN.2: write without write permission")


class Stubborn(SecondStage):
    """An override like those of qemu.vtd.quirks."""

    def read_entry(self, entry_format: PagingFormat, where: int, snooped: int) -> int:
        return super().read_entry(entry_format, where, snooped) & ~(1 << 11)


def test_a_unit_that_departs_from_the_specification_is_traced_as_it_is() -> None:
    class Odd(RemappingUnit):
        SecondStage = Stubborn

    world = mapped(entry=0x9000 | RW | 1 << 11)
    world.unit = Odd(world.memory, world.capabilities)
    world.start()
    assert steps(world, 0x5000)[-1].raw == 0x9003


def test_tracing_and_auditing_together() -> None:
    world = mapped()
    world.unit = RemappingUnit(world.memory, world.capabilities, audit=True)
    world.start()
    assert world.dma(0x5000).host_address == 0x9000
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x5000, 0xA000 | RW)
    outcome = world.unit.translate(DmaRequest(NIC, 0x5000, WRITE), trace=True)
    assert (outcome.host_address, len(outcome.stale)) == (0x9000, 1)
    assert [str(step).split("  ")[0] for step in outcome.trace] == ["request", "context cache", "IOTLB"]


# Scalable mode.


def nested_unit(*, mark: bool) -> tuple[RemappingUnit, FirstStageMapper, SecondStageMapper]:
    """Domain 1: a first stage at guest 0x100000 and up, within a second stage that maps the memory to itself."""
    memory = FlatMemory(8 << 20)
    second = SecondStageMapper(memory, PageAllocator(0x20_0000, 0x30_0000))
    second.map(0, 0, 8 << 20, page_size=4096)
    first = FirstStageMapper(memory, PageAllocator(0x10_0000, 0x20_0000))
    first.map(0x5000, 0x40_0000, 0x4000, accessed=not mark, dirty=not mark)
    for table in range(0x10_0000, 0x11_0000, 8):
        entry = memory.read_u64(table)
        if entry & 1 and not mark:
            memory.write_u64(table, entry | 1 << 5)
    put = memory.write_u64
    put(0x1000, 0x2001)
    put(0x2000 + 32 * NIC.devfn, 0x3001)
    put(0x3000, 0x4001)
    # P, four levels of second stage, nested; domain 1, walk snooped; the first stage.
    put(0x4000, second.root | 2 << 2 | 3 << 6 | 1)
    put(0x4008, 1 | 1 << 23)
    put(0x4010, first.root)
    unit = RemappingUnit(memory, Capabilities.full())
    unit.mmio_write(RTADDR, 0x1000 | 1 << 10, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return unit, first, second


def trace_of(unit: RemappingUnit, address: int) -> tuple[Step, ...]:
    return unit.translate(DmaRequest(NIC, address, WRITE), trace=True).trace  # type: ignore[return-value]


def test_nested_walk_says_which_table_each_second_stage_entry_is_for() -> None:
    unit, first, _ = nested_unit(mark=False)
    found = trace_of(unit, 0x5000)
    assert [step.structure for step in found[1:5]] == [
        "half root entry",
        "context entry",
        "PASID directory entry",
        "PASID table entry",
    ]
    assert [step.section for step in found[1:5]] == ["9.2", "9.4", "9.5", "9.6"]
    assert [step.address for step in found[1:5]] == [0x1000, 0x2000 + 32 * NIC.devfn, 0x3000, 0x4000]
    walk = [step.structure for step in found[5:]]
    for_top = f" of the first-stage table at {first.root:#x}"
    assert walk[:5] == [
        *(f"second-stage entry, level {level}{for_top}" for level in (4, 3, 2, 1)),
        "first-stage entry, level 4",
    ]
    assert walk[-1] == "second-stage entry, level 1"
    assert [name for name in walk if name.startswith("first-stage entry")] == [
        f"first-stage entry, level {level}" for level in (4, 3, 2, 1)
    ]


def test_accessed_and_dirty_are_steps() -> None:
    unit, first, _ = nested_unit(mark=True)
    updates = [step for step in trace_of(unit, 0x5000) if step.structure == "update"]
    page = first.lookup(0x5000)
    assert page is not None
    assert (updates[-1].address, updates[-1].raw) == (page.where, page.entry.raw)
    assert page.entry.raw & 0x60 == 0x60
    assert updates[-1].section == "3.6.2"


def test_nested_fault_is_at_the_entry_that_caused_it() -> None:
    unit, first, second = nested_unit(mark=False)
    second.unmap(0x40_0000, 4096)
    last = trace_of(unit, 0x5000)[-1]
    assert (last.fault, last.structure) == (FaultReason.SSS_2, "second-stage entry, level 1")
    first.unmap(0x6000, 4096)
    last = trace_of(unit, 0x6000)[-1]
    assert (last.fault, last.structure) == (FaultReason.SFS_2, "first-stage entry, level 1")


# Tracing changes nothing.


def without_trace(outcome: Outcome) -> Outcome:
    assert outcome.trace
    return outcome.replace(trace=())


ADDRESSES = st.sampled_from([0x5000, 0x5FFF, 0x6000, 0x8000, 0x9000, 1 << 40, 1 << 47, 1 << 50, 0xFEE0_0000])


@settings(max_examples=60, deadline=None)
@given(
    nested=st.booleans(),
    requests=st.lists(st.tuples(ADDRESSES, st.sampled_from(list(Access))), min_size=1, max_size=12),
    traced=st.integers(0, (1 << 12) - 1),
)
def test_outcomes_memory_faults_and_caches_are_those_of_an_untraced_walk(
    nested: bool, requests: list[tuple[int, Access]], traced: int
) -> None:
    def make() -> RemappingUnit:
        return nested_unit(mark=True)[0] if nested else mapped(fault_records=8).unit

    one, other = make(), make()
    for number, (address, access) in enumerate(requests):
        request = DmaRequest(SourceId(0, 4, 0), address, access)
        outcome = one.translate(request, trace=True) if traced >> number & 1 else one.translate(request)
        assert outcome.replace(trace=()) == other.translate(request)
    assert isinstance(one.memory, FlatMemory) and isinstance(other.memory, FlatMemory)
    assert one.memory.read(0, 8 << 20) == other.memory.read(0, 8 << 20)
    assert [slot.value for slot in one.registers] == [slot.value for slot in other.registers]
    assert _contents(one) == _contents(other)


def _contents(unit: RemappingUnit) -> list[Any]:
    """The contents of the caches, in whatever containers."""
    return list(held(unit.caches).values())
