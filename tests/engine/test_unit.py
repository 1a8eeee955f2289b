"""unit.py: global commands and their status, the latch of the root table, reset."""

from __future__ import annotations

import pytest

from iommu import Capabilities, FlatMemory, RemappingUnit
from tests.engine.world import FECTL, FSTS, GCMD, GSTS, RTADDR, RW, SRTP, TE, World, mapped

RTPS = 1 << 30


def test_translation_is_off_until_enabled() -> None:
    world = World()
    assert world.read(GSTS) == 0
    world.latch(world.root)
    assert (world.read(GSTS), world.dma(0x5000).host_address) == (RTPS, 0x5000)
    world.write(GCMD, TE)
    assert (world.read(GSTS), world.fault(0x5000)) == (TE | RTPS, 0x01)
    world.write(GCMD, 0)
    assert (world.read(GSTS), world.dma(0x5000).host_address) == (RTPS, 0x5000)


def test_one_shot_command_that_is_not_given_again_keeps_its_status() -> None:
    world = World()
    world.start()
    for command in (TE, TE, 0, TE):
        world.write(GCMD, command)
        assert world.read(GSTS) == command | RTPS


def test_root_table_command_keeps_translation_on() -> None:
    """Software writes GSTS without the one-shot bits, so TE stays set."""
    world = mapped()
    assert world.dma(0x5000).fault is None
    world.latch(world.root)
    assert world.read(GSTS) == TE | RTPS
    assert world.dma(0x5000).fault is None


def test_root_table_address_takes_effect_with_the_command() -> None:
    world = mapped(fault_records=8)
    world.write(RTADDR, world.page(), 8)
    assert world.dma(0x5000).host_address == 0x9000
    world.write(GCMD, TE)
    world.invalidate_contexts(1)
    assert world.dma(0x5000).host_address == 0x9000
    world.write(GCMD, TE | SRTP)
    world.invalidate_contexts(1)
    assert world.fault(0x5000) == 0x01


@pytest.mark.parametrize("ttm", [1, 2, 3])
def test_table_mode_takes_effect_with_the_command(ttm: int) -> None:
    world = mapped()
    world.write(RTADDR, world.root | ttm << 10, 8)
    world.invalidate_contexts(1)
    assert world.dma(0x5000).host_address == 0x9000
    world.write(GCMD, TE | SRTP)
    assert world.fault(0x5000) == 0x30
    world.write(RTADDR, world.root, 8)
    assert world.fault(0x5000) == 0x30
    world.write(GCMD, TE | SRTP)
    assert world.dma(0x5000).host_address == 0x9000


def test_root_table_address_in_two_halves() -> None:
    world = mapped()
    world.write(RTADDR + 4, 0x12)
    world.write(RTADDR, 0x3456_7000)
    assert world.read(RTADDR, 8) == 0x12_3456_7000
    world.write(GCMD, TE | SRTP)
    world.invalidate_contexts(1)
    assert world.fault(0x5000) == 0x08


@pytest.mark.parametrize("offered", [False, True])
def test_write_buffer_flush_is_done_at_once(offered: bool) -> None:
    world = World(write_buffer_flush=offered)
    world.start()
    world.write(GCMD, TE | 1 << 27)
    assert world.read(GSTS) == TE | RTPS


@pytest.mark.parametrize("bit", [*range(23), 23, 24, 25, 26, 28, 29])
def test_commands_that_are_not_offered_show_no_status(bit: int) -> None:
    """Reserved bits, and queue, interrupt remapping and advanced logging, which the capabilities deny."""
    world = mapped(queued_invalidation=False, interrupt_remapping=False)
    world.write(GCMD, TE | 1 << bit)
    assert world.read(GSTS) == TE | RTPS
    assert world.dma(0x5000).host_address == 0x9000


def test_reset_is_a_new_unit_over_the_same_memory() -> None:
    world = mapped(fault_records=2)
    for _ in range(3):
        world.fault(0x6000)
    world.write(FECTL, 0)
    world.unit.reset()
    assert world.unit.drain_events() == []
    assert (world.read(GSTS), world.read(FSTS), world.read(FECTL), world.read(RTADDR, 8)) == (0, 0, 1 << 31, 0)
    assert (world.read(world.frcd, 8), world.read(world.frcd + 8, 8)) == (0, 0)
    assert world.dma(0x6000).host_address == 0x6000
    world.start()
    assert world.dma(0x5000).host_address == 0x9000
    world.fault(0x6000)
    assert world.record(0).f == 1


def test_two_units_over_one_memory_share_nothing_else() -> None:
    world = mapped()
    other = RemappingUnit(world.memory, world.capabilities)
    assert other.mmio_read(GSTS, 4) == 0
    world.fault(0x6000)
    assert other.mmio_read(FSTS, 4) == 0


def test_default_capabilities() -> None:
    unit = RemappingUnit(FlatMemory(1 << 20))
    assert unit.capabilities == Capabilities()
    assert unit.mmio_read(0x08, 8) == Capabilities().cap
    assert unit.mmio_read(0x10, 8) == Capabilities().ecap


def test_requests_write_no_memory() -> None:
    world = mapped()
    before = world.memory.read(0, 1 << 16)
    for address in (0x5000, 0x6000, 1 << 50):
        world.dma(address)
    assert world.memory.read(0, 1 << 16) == before


def test_second_page_after_the_first() -> None:
    world = mapped()
    top = world.device()
    world.map(top, 4, 0x5000, 0x9000 | RW)
    world.map(top, 4, 0x6000, 0xA000 | RW)
    assert [world.dma(address).host_address for address in (0x5000, 0x6FFF)] == [0x9000, 0xAFFF]


def test_commands_given_together() -> None:
    """Software changes one bit at a time. Given two at once, the unit sets the pointer before it turns on."""
    world = World()
    world.write(RTADDR, world.root, 8)
    world.write(GCMD, TE | SRTP)
    assert (world.read(GSTS), world.fault(0x5000)) == (TE | RTPS, 0x01)
