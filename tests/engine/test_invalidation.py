"""Invalidation by register: what each command of CCMD and IOTLB drops and keeps, and the granularity reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iommu import SourceId
from tests.engine.world import CCMD, NIC, PS, READ, RW, WRITE, R, World, mapped

GLOBAL, DOMAIN, SELECTIVE = 1, 2, 3
A = 0x4000_0000
"""Where the tests map their pages: aligned to every page size."""


def stale_context(source_id: SourceId = NIC, did: int = 1) -> World:
    """A world in which the device's context entry is cached, but absent in memory."""
    world = World()
    world.context(source_id, did=did, tt=2)
    world.start()
    assert world.dma(0x5000, source_id=source_id).host_address == 0x5000
    world.context(source_id, did=did, tt=2, p=0)
    assert world.dma(0x5000, source_id=source_id).host_address == 0x5000
    return world


def stale_page(leaf: int = 1, did: int = 1, count: int = 1, levels: int = 4, **capabilities: Any) -> World:
    """A world with `count` pages from A on in the IOTLB, which memory no longer maps."""
    world = World(**capabilities)
    top = world.device(did=did, levels=levels)
    size = 1 << 3 + 9 * leaf
    pages = [A + n * size for n in range(count)]
    for address in pages:
        world.map(top, levels, address, address | RW | (PS if leaf > 1 else 0), leaf)
    world.start()
    for address in pages:
        assert world.dma(address).host_address == address
        world.map(top, levels, address, 0, leaf)
        assert world.dma(address).host_address == address
    return world


def cached(world: World, address: int = A) -> bool:
    """Whether a page that memory no longer maps is still cached."""
    return world.dma(address, READ).fault is None


# Context cache


@pytest.mark.parametrize("cirg", [GLOBAL, DOMAIN, SELECTIVE])
def test_context_command_drops_entries_and_reports_its_granularity(cirg: int) -> None:
    world = stale_context(did=7)
    assert world.invalidate_contexts(cirg, did=7, sid=NIC) == cirg
    assert world.fault(0x5000) == 0x02


def test_reserved_context_granularity_does_nothing() -> None:
    world = stale_context()
    assert world.invalidate_contexts(0, did=1, sid=NIC) == 0
    assert world.dma(0x5000).fault is None


def test_answer_of_an_earlier_command_does_not_stay() -> None:
    world = stale_context()
    assert world.invalidate_contexts(GLOBAL) == GLOBAL
    assert world.invalidate_contexts(0) == 0
    assert world.invalidate_pages(GLOBAL) == GLOBAL
    assert world.invalidate_pages(0) == 0


@pytest.mark.parametrize("other", [0, 2, 0x101, 0xFFFF])
def test_context_domain_command_keeps_other_domains(other: int) -> None:
    world = stale_context(did=1)
    assert world.invalidate_contexts(DOMAIN, did=other) == DOMAIN
    assert world.dma(0x5000).fault is None


@pytest.mark.parametrize("fm", range(4))
def test_function_mask_of_the_device_command(fm: int) -> None:
    """Each of the 16 source-id bits, under each mask."""
    ignored = {0: set(), 1: {2}, 2: {1, 2}, 3: {0, 1, 2}}[fm]
    source_id = SourceId(0x12, 0x15, 2)
    for bit in range(16):
        world = stale_context(source_id)
        assert world.invalidate_contexts(SELECTIVE, did=1, sid=source_id ^ 1 << bit, fm=fm) == SELECTIVE
        assert (world.dma(0x5000, source_id=source_id).fault == 0x02) == (bit in ignored)
    world = stale_context(source_id)
    world.invalidate_contexts(SELECTIVE, did=1, sid=source_id, fm=fm)
    assert world.dma(0x5000, source_id=source_id).fault == 0x02


def test_context_command_leaves_the_iotlb_alone() -> None:
    world = stale_page()
    for cirg in (GLOBAL, DOMAIN, SELECTIVE):
        world.invalidate_contexts(cirg, did=1, sid=NIC)
        assert cached(world)


def test_iotlb_command_leaves_the_context_cache_alone() -> None:
    world = stale_context()
    for iirg in (GLOBAL, DOMAIN, SELECTIVE):
        world.invalidate_pages(iirg, did=1, address=0x5000)
        assert world.dma(0x5000).fault is None


# IOTLB


@pytest.mark.parametrize("iirg", [GLOBAL, DOMAIN, SELECTIVE])
@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_iotlb_command_drops_pages_and_reports_its_granularity(iirg: int, leaf: int, levels: int) -> None:
    world = stale_page(leaf, did=7, levels=levels, address_width=57)
    assert world.invalidate_pages(iirg, did=7, address=A) == iirg
    assert not cached(world)


@pytest.mark.parametrize("iirg", [DOMAIN, SELECTIVE])
@pytest.mark.parametrize("other", [0, 2, 0x101, 0xFFFF])
def test_iotlb_command_keeps_other_domains(iirg: int, other: int) -> None:
    world = stale_page(did=1)
    assert world.invalidate_pages(iirg, did=other, address=A) == iirg
    assert cached(world)


def test_reserved_iotlb_granularity_does_nothing() -> None:
    world = stale_page()
    assert world.invalidate_pages(0, did=1, address=A) == 0
    assert cached(world)


@pytest.mark.parametrize("am", range(6))
def test_address_mask_covers_exactly_its_pages(am: int) -> None:
    """The address's bits below the mask do not matter."""
    for within in sorted({0, (1 << am) // 2, (1 << am) - 1}):
        world = stale_page(count=40)
        block = 8 >> am << am
        assert world.invalidate_pages(SELECTIVE, did=1, address=A + (block + within << 12), am=am) == SELECTIVE
        dropped = {n for n in range(40) if not cached(world, A + (n << 12))}
        assert dropped == set(range(block, block + (1 << am)))


@pytest.mark.parametrize(("leaf", "page"), [(2, 0), (2, 1), (2, 511), (3, 0), (3, 512), (3, 0x3FFFF)])
def test_one_4k_page_of_a_large_page_drops_it(leaf: int, page: int) -> None:
    world = stale_page(leaf)
    assert world.invalidate_pages(SELECTIVE, did=1, address=A + (page << 12)) == SELECTIVE
    assert not cached(world)


@pytest.mark.parametrize("leaf", [2, 3])
def test_neighbouring_large_page_stays(leaf: int) -> None:
    size = 1 << 3 + 9 * leaf
    world = stale_page(leaf, count=3)
    assert world.invalidate_pages(SELECTIVE, did=1, address=A + size, am=9) == SELECTIVE
    assert [cached(world, A + n * size) for n in range(3)] == [True, False, True]


@pytest.mark.parametrize(("am", "dropped"), [(9, 1), (10, 2), (11, 4)])
def test_address_mask_over_large_pages(am: int, dropped: int) -> None:
    world = stale_page(2, count=6)
    assert world.invalidate_pages(SELECTIVE, did=1, address=A, am=am) == SELECTIVE
    assert [cached(world, A + (n << 21)) for n in range(6)] == [n >= dropped for n in range(6)]


@pytest.mark.parametrize("largest", [0, 1, 9, 18, 36])
def test_address_mask_beyond_the_capability_is_refused(largest: int) -> None:
    world = stale_page(max_address_mask=largest)
    for am in (largest + 1, 63):
        assert world.invalidate_pages(SELECTIVE, did=1, address=A, am=am) == 0
        assert cached(world)
    assert world.invalidate_pages(SELECTIVE, did=1, address=A, am=largest) == SELECTIVE
    assert not cached(world)


@pytest.mark.parametrize("am", [0, 9])
def test_page_selective_without_the_capability_is_refused(am: int) -> None:
    world = stale_page(page_selective=False)
    assert world.invalidate_pages(SELECTIVE, did=1, address=A, am=am) == 0
    assert cached(world)
    assert world.invalidate_pages(DOMAIN, did=1) == DOMAIN
    assert not cached(world)


@pytest.mark.parametrize("ih", [0, 1])
def test_invalidation_hint_drops_the_leaf_all_the_same(ih: int) -> None:
    world = stale_page()
    assert world.invalidate_pages(SELECTIVE, did=1, address=A, ih=ih) == SELECTIVE
    assert not cached(world)


@pytest.mark.parametrize("drain", [0, 1 << 48, 1 << 49, 3 << 48])
@pytest.mark.parametrize("offered", [False, True])
def test_draining_changes_no_result(drain: int, offered: bool) -> None:
    world = mapped(drain_reads=offered, drain_writes=offered)
    assert world.dma(0x5000).fault is None
    world.write(world.iotlb, 1 << 63 | DOMAIN << 60 | drain | 1 << 32, 8)
    assert world.read(world.iotlb, 8) >> 57 & 3 == DOMAIN


# How a command is started


def halves_upper_last(world: World, offset: int, value: int) -> None:
    """As software should."""
    world.write(offset, value & 0xFFFF_FFFF)
    world.write(offset + 4, value >> 32)


def whole(world: World, offset: int, value: int) -> None:
    """In one access."""
    world.write(offset, value, 8)


@pytest.mark.parametrize("how", [halves_upper_last, whole])
def test_ccmd_in_halves_and_whole(how: Callable[[World, int, int], None]) -> None:
    world = stale_context(did=0x8001)
    how(world, CCMD, 1 << 63 | DOMAIN << 61 | 0x8001)
    assert world.read(CCMD, 8) >> 59 & 3 == DOMAIN
    assert world.read(CCMD + 4) == DOMAIN << 29 | DOMAIN << 27
    assert world.fault(0x5000) == 0x02


@pytest.mark.parametrize("how", [halves_upper_last, whole])
def test_iotlb_in_halves_and_whole(how: Callable[[World, int, int], None]) -> None:
    world = stale_page(did=0x8001)
    how(world, world.iva, A)
    how(world, world.iotlb, 1 << 63 | SELECTIVE << 60 | 0x8001 << 32)
    assert world.read(world.iotlb + 4) >> 25 & 3 == SELECTIVE
    assert world.read(world.iotlb + 4) >> 31 == 0
    assert not cached(world)


def test_writing_the_lower_half_starts_no_command() -> None:
    world = stale_context()
    world.write(CCMD + 4, GLOBAL << 29)
    world.write(CCMD, 0xFFFF_FFFF)
    assert world.dma(0x5000).fault is None
    world = stale_page()
    world.write(world.iotlb + 4, GLOBAL << 28)
    world.write(world.iotlb, 0xFFFF_FFFF)
    assert cached(world)


def test_command_without_its_start_bit_does_nothing() -> None:
    world = stale_context()
    world.write(CCMD, GLOBAL << 61, 8)
    assert world.dma(0x5000).fault is None
    world = stale_page()
    world.write(world.iotlb, GLOBAL << 60, 8)
    world.write(world.iva, A, 8)
    assert cached(world)


def test_each_command_is_carried_out_once() -> None:
    """A later write without the start bit does not repeat the one before."""
    world = stale_context()
    world.invalidate_contexts(GLOBAL)
    world.context(tt=2)
    world.dma(0x5000)
    world.context(tt=2, p=0)
    world.write(CCMD, 0)
    world.write(CCMD + 4, GLOBAL << 29)
    assert world.dma(0x5000).fault is None


def test_answer_cannot_be_written() -> None:
    world = World()
    world.write(CCMD, 3 << 59, 8)
    world.write(world.iotlb, 3 << 57, 8)
    assert world.read(CCMD, 8) >> 59 & 3 == 0
    assert world.read(world.iotlb, 8) >> 57 & 3 == 0


def test_commands_work_while_translation_is_off() -> None:
    world = stale_page()
    world.write(0x18, 0)
    assert world.invalidate_pages(GLOBAL) == GLOBAL
    world.write(0x18, 1 << 31)
    assert not cached(world)


# Setting the root table pointer


@pytest.mark.parametrize("esrtps", [False, True])
def test_root_table_pointer_and_the_caches(esrtps: bool) -> None:
    world = World(invalidate_on_root_pointer=esrtps)
    world.map(world.device(), 4, A, 0x9000 | RW)
    world.start()
    assert world.dma(A).host_address == 0x9000
    empty = world.page()
    world.write(0x20, empty, 8)
    assert world.dma(A).host_address == 0x9000
    world.latch(empty)
    outcome = world.dma(A)
    assert (outcome.fault, outcome.host_address) == ((0x01, None) if esrtps else (None, 0x9000))
    world.invalidate_contexts(GLOBAL)
    assert world.fault(A) == 0x01


def test_root_table_pointer_drops_the_iotlb_only_with_the_capability() -> None:
    for esrtps in (False, True):
        world = stale_page(invalidate_on_root_pointer=esrtps)
        world.latch(world.root)
        assert cached(world) != esrtps


def test_translation_off_and_on_keeps_the_caches() -> None:
    world = stale_page()
    world.write(0x18, 0)
    world.write(0x18, 1 << 31)
    assert cached(world)


def test_added_permission_needs_an_invalidation_only_where_something_was_cached() -> None:
    world = World()
    top = world.device()
    world.map(top, 4, A, 0x9000 | R)
    world.start()
    assert world.dma(A, READ).host_address == 0x9000
    world.map(top, 4, A, 0x9000 | RW)
    world.invalidate_pages(SELECTIVE, did=1, address=A)
    assert world.dma(A, WRITE).host_address == 0x9000


@pytest.mark.parametrize("bit", [48, 57, 63])
def test_invalidate_address_bits_above_the_guest_width_are_ignored(bit: int) -> None:
    """Layouts 1.18: hardware ignores IVA address bits at or above MGAW."""
    world = mapped(address_width=48)
    top = world.device()
    world.map(top, 4, 0x4000_0000, 0x9000 | RW)
    world.invalidate_contexts(1)
    assert world.dma(0x4000_0000).host_address == 0x9000
    world.map(top, 4, 0x4000_0000, 0)
    world.invalidate_pages(3, did=1, address=0x4000_0000 | 1 << bit)
    assert world.fault(0x4000_0000) == 0x05


@pytest.mark.parametrize("ttm", [1, 2, 3])
def test_context_command_outside_legacy_mode_is_ignored(ttm: int) -> None:
    """6.4: TTM not legacy: ignored, CAIG 00 (M)."""
    world = mapped()
    world.latch(world.root | ttm << 10)
    assert world.invalidate_contexts(1) == 0


@pytest.mark.parametrize("ttm", [1, 2, 3])
def test_iotlb_command_outside_legacy_mode_is_ignored(ttm: int) -> None:
    """11.4.6.3: IAIG 00. Back in legacy mode, the page is still cached."""
    world = stale_page()
    world.latch(world.root | ttm << 10)
    assert world.invalidate_pages(GLOBAL) == 0
    world.latch(world.root)
    assert cached(world)
