"""fast_path.py: a unit with the fast path and one without it, side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Access, DmaRequest, Outcome, Policy, RemappingUnit
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import Root
from iommu.engine.invalidation.selector import Selector, pages_around
from iommu.engine.request import identity
from iommu.engine.translation.legacy import LegacyMode
from tests.engine.scalable_world import ADDRESS, ALL1, HOST, ScalableWorld, first_stage, nested, second_stage
from tests.engine.world import ABSENT, NIC, PS, READ, RW, WRITE, World, held

BASE = ADDRESS & ~0x1F_FFFF
NEIGHBOURS = [ADDRESS + 0x1000 * n for n in range(4)]
LARGE = BASE + 0x20_0000
"""A large page; the 2 MiB after it hold a small one whose table cannot be read."""
ELSEWHERE = [LARGE + 0x5123, LARGE + 0x20_0000, 0xFEE0_0000, 0xFEF0_0000]

A1, D1, EA = 1 << 5, 1 << 6, 1 << 10
A2, D2, SNP = 1 << 8, 1 << 9, 1 << 11
FIRST_LEAVES = st.builds(
    lambda host, bits: host | bits,
    st.sampled_from((0x9000, 0xA000, 0xFEE0_0000, 1 << 50)),
    st.integers(0, 0x7FF).map(lambda bits: bits | 1)
    | st.sampled_from((0, ALL1, ALL1 | A1, ALL1 | A1 | D1, ALL1 | A1 | D1 | EA, ALL1 | A1 | 1 << 63, 1 | A1 | 4)),
)
SECOND_LEAVES = st.builds(
    lambda host, bits: host | bits,
    st.sampled_from((0x9000, 0xA000, 0xFEE0_0000, 1 << 50)),
    st.integers(0, 0xFFF) | st.sampled_from((0, 1, 2, 3, 3 | A2, 3 | A2 | D2, 3 | SNP, 1 | A2, 2 | A2 | D2)),
)
BUILDERS: dict[str, tuple[Any, Any, int]] = {
    "legacy": (None, SECOND_LEAVES, RW),
    "first stage": (first_stage, FIRST_LEAVES, ALL1 | A1 | D1),
    "second stage": (second_stage, SECOND_LEAVES, RW),
    "nested": (nested, FIRST_LEAVES, ALL1 | A1 | D1),
}


def build(kind: str, leaves: list[int], options: dict[str, Any], *, fast: bool) -> World:
    """A world whose neighbouring small pages have these entries; one large page; a table in absent memory."""
    builder, _, rights = BUILDERS[kind]
    if builder is None:
        world = World(host_address_width=50, snoop_control=True, fault_records=4)
        places = world.map(world.device(), 4, ADDRESS, HOST | RW)
        world.start()
    else:
        world = builder(pasid_entry=options, fault_records=4, host_address_width=50)
        places = world.second if kind == "second stage" else world.first
    for number, leaf in enumerate(leaves):
        world.put(places[1] + 8 * number, leaf)
    world.put(places[2] + 8, 0x4000_0000 | rights | PS)
    world.put(places[2] + 16, ABSENT | rights)
    if not fast:
        world.unit._translate = world.unit.translation.translate
    return world


def request(address: int, access: Access, length: int, pasid: int | None, privileged: bool) -> DmaRequest:
    """A request as a device could send it."""
    return DmaRequest(NIC, address, access if length else READ, length, pasid, privileged and pasid is not None)


requests = st.builds(
    request,
    st.sampled_from((*NEIGHBOURS, *NEIGHBOURS, *ELSEWHERE)),
    st.sampled_from(Access),
    st.sampled_from((1, 1, 4, 0)),
    st.sampled_from((None, None, 0)),
    st.booleans(),
)


class Drop(NamedTuple):
    """A page-selective invalidation of one of the neighbours, of the page alone or of what leads to it, too."""

    number: int
    leaf_only: int


drops = st.builds(Drop, st.integers(0, 3), st.integers(0, 1))


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_fast_path_and_full_translation_agree(kind: str, data: st.DataObject) -> None:
    leaves = data.draw(st.lists(BUILDERS[kind][1], min_size=4, max_size=4))
    options = {name: data.draw(st.booleans()) for name in ("wpe", "eafe", "ssade")}
    fast, full = (build(kind, leaves, options, fast=path) for path in (True, False))
    for step in data.draw(st.lists(requests | drops, min_size=4, max_size=16)):
        if isinstance(step, Drop):
            address = NEIGHBOURS[step.number]
            for world in (fast, full):
                for pasid in (None, 0):
                    pages = pages_around(address, 0)
                    named = Selector.translations(1, pasid, addresses=pages, leaf_only=bool(step.leaf_only))
                    world.unit.invalidate(named)
        else:
            assert fast.unit.translate(step) == full.unit.translate(step)
    assert state(fast) == state(full)


def state(world: World) -> tuple[Any, ...]:
    """Memory, registers and what is in the caches."""
    unit = world.unit
    return world.memory.read(0, 1 << 20), [slot.value for slot in unit.registers], held(unit.caches)


def test_fast_path_is_taken() -> None:
    """Otherwise the test above would compare the full translation with itself."""
    for kind in ("legacy", "first stage", "second stage"):
        marked = ALL1 | A1 | D1 if kind == "first stage" else RW
        world = build(kind, [host | marked for host in (0x9000, 0xA000, 0xB000, 0xC000)], {}, fast=True)
        for address in NEIGHBOURS[:2]:
            world.dma(address, WRITE)
        world.unit.translation.translate = None  # type: ignore[method-assign, assignment]
        assert [world.dma(address, WRITE).host_address for address in NEIGHBOURS] == [0x9000, 0xA000, 0xB000, 0xC000]


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_small_caches_change_no_outcome(capacity: int) -> None:
    """Entries are evicted; no outcome depends on that while memory does not change."""
    world = ScalableWorld(policy=Policy(cache_capacity=capacity))
    top = world.page()
    for pasid in range(3):
        world.pasid_entry(pasid, pgtt=1, first=top, did=1 + pasid)
    for number, address in enumerate(NEIGHBOURS):
        world.map_first(top, 4, address, HOST + 0x1000 * number | ALL1)
    world.map_first(top, 4, 0x5000, HOST | ALL1)
    world.start()
    for _ in range(2):
        for asked in (None, 1, 2):
            for number, address in enumerate(NEIGHBOURS):
                assert world.dma(address, pasid=asked).host_address == HOST + 0x1000 * number
            assert world.dma(0x5000, pasid=asked).host_address == HOST


def test_small_caches_change_no_outcome_in_legacy_mode() -> None:
    world = World(policy=Policy(cache_capacity=1))
    top = world.page()
    devices = [type(NIC)(0, 4, function) for function in range(3)]
    for device in devices:
        world.context(device, table=top)
    world.map(top, 4, 0x5000, HOST | RW)
    world.map(top, 4, 0x6000, HOST | RW)
    world.start()
    for _ in range(2):
        for device in devices:
            assert [world.dma(address, READ, device).host_address for address in (0x5000, 0x6000)] == [HOST] * 2
    assert len(list(world.unit.caches.contexts)) == 1


# Where the fast path could go wrong: each of these once did.


@pytest.mark.parametrize("kind", ["legacy", "first stage", "second stage"])
def test_page_cached_by_a_traced_request_has_the_right_size(kind: str) -> None:
    """Bit 7 of a small page's entry is PAT, or ignored: never the size."""
    marked = (ALL1 | A1 | D1 if kind == "first stage" else RW) | 1 << 7
    world = build(kind, [0x9000 | marked, 0xA000 | marked, 0xB000 | marked, 0xC000 | marked], {}, fast=True)
    traced = world.unit.translate(DmaRequest(NIC, NEIGHBOURS[0], READ), trace=True)
    steps = len(traced.trace)
    assert [world.dma(address, READ).host_address for address in NEIGHBOURS] == [0x9000, 0xA000, 0xB000, 0xC000]
    assert len(traced.trace) == steps


def test_address_beyond_fewer_levels() -> None:
    """1.5: the context has fewer levels now, and only it was invalidated: what its domain has cached is beyond it."""
    world = World()
    high = 1 << 40
    world.map(world.device(did=5), 4, high, 0x9000 | RW)
    world.start()
    assert world.dma(high).host_address == 0x9000
    lesser = world.page()
    world.context(table=lesser, did=5, levels=3)
    world.map(lesser, 3, 0x5000, 0xB000 | RW)
    world.invalidate_contexts(3, did=5, sid=NIC)
    assert world.dma(0x5000).host_address == 0xB000
    assert world.fault(high) == 0x04
    assert world.fault(high + 0x1000) == 0x04


@pytest.mark.parametrize("neighbour", [0, 0x1000])
def test_address_that_is_not_canonical_for_the_other_device(neighbour: int) -> None:
    """2.5.1: two devices share a tag, and only one has five levels."""
    world = ScalableWorld()
    five, four = world.page(), world.page()
    other, high = type(NIC)(0, 5, 0), 1 << 50
    world.pasid_entry(5, pgtt=1, first=five, first_levels=5)
    world.pasid_entry(5, other, pgtt=1, first=four)
    for page in (high, high + 0x1000):
        world.map_first(five, 5, page, HOST | ALL1 | A1)
    world.map_first(four, 4, 0x5000, HOST | ALL1 | A1)
    world.start()
    assert world.dma(high, pasid=5).host_address == HOST
    assert world.dma(0x5000, READ, other, pasid=5).host_address == HOST
    assert world.fault(high + neighbour, READ, other, pasid=5) == 0x80


def test_evicted_pasid_context_is_read_again() -> None:
    world = ScalableWorld(policy=Policy(cache_capacity=1))
    tops = world.page(), world.page()
    for pasid, top in enumerate(tops):
        world.pasid_entry(pasid, pgtt=1, first=top, did=1 + pasid)
        world.map_first(top, 4, ADDRESS, HOST | ALL1 | A1 | D1)
    world.start()
    assert world.dma().host_address == HOST
    world.dma(ADDRESS + 0x10_0000, pasid=1)
    world.put(world.pasids[NIC, 0], 0)
    assert world.fault() == 0x59


def test_overridden_part_sees_every_request() -> None:
    """A unit with an overridden part does not use the fast path."""

    class Shifted(LegacyMode):
        def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
            return identity(page.host ^ 0x1000)

    class Departing(RemappingUnit):
        LegacyMode = Shifted

    world = World()
    world.map(world.device(), 4, 0x5000, 0x9000 | RW)
    world.unit = Departing(world.memory, world.capabilities)
    world.start()
    assert [world.dma(0x5000).host_address for _ in range(3)] == [0x8000] * 3


def test_page_takes_one_entry_in_caching_mode_too() -> None:
    """A page takes one entry of the cache, with and without caching mode."""
    held = []
    for caching_mode in (False, True):
        world = World(policy=Policy(cache_capacity=4), caching_mode=caching_mode)
        top = world.device()
        for number in range(4):
            world.map(top, 4, 0x5000 + 0x20_0000 * number, 0x9000 | RW)
        world.start()
        for number in range(4):
            world.dma(0x5000 + 0x20_0000 * number)
        held.append(len(world.unit.caches.iotlb.pages_of(1, None).small))
    assert held == [4, 4]
