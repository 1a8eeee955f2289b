"""Protected memory regions (spec 11.4.8): DMA to them is blocked and not recorded, table accesses are not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.scalable_world import (
    ADDRESS,
    ALL1,
    SAME,
    ScalableWorld,
    first_stage,
    nested,
    pass_through,
    second_stage,
)
from tests.engine.world import READ, RW, TE, TRANSLATED, WRITE, World

PMEN, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT = 0x64, 0x68, 0x6C, 0x70, 0x78
LOW, HIGH = 0x4000_0000, 0x7_0000_0000
SPAN = 0x40_0000


def protect(world: World, *, low: int = LOW, high: int = HIGH, span: int = SPAN) -> None:
    """Protect two regions of 4 MiB."""
    world.write(PLMBASE, low)
    world.write(PLMLIMIT, low + span - 1)
    world.write(PHMBASE, high, 8)
    world.write(PHMLIMIT, high + span - 1, 8)
    world.write(PMEN, 1 << 31)
    assert world.read(PMEN) == 1 << 31 | 1


EDGES = [
    (LOW - 1, False), (LOW, True), (LOW + SPAN - 1, True), (LOW + SPAN, False), (0x1_0000_0000 + LOW, False),
    (HIGH - 1, False), (HIGH, True), (HIGH + SPAN - 1, True), (HIGH + SPAN, False), (0, False),
]  # fmt: skip


def blocked_quietly(world: World, address: int, **request: Any) -> bool:
    """Whether a request is blocked; if so, without a fault and a record."""
    outcome = world.dma(address, **request)
    assert (outcome.fault, outcome.recorded) == (None, False)
    assert world.records() == []
    return outcome.host_address is None


@pytest.mark.parametrize(("address", "inside"), EDGES)
@pytest.mark.parametrize("access", [READ, WRITE])
def test_while_translation_is_off(address: int, inside: bool, access: Any) -> None:
    world = ScalableWorld()
    assert not blocked_quietly(world, address, access=access)
    protect(world)
    assert blocked_quietly(world, address, access=access) == inside
    world.write(PMEN, 0)
    assert world.read(PMEN) == 0
    assert not blocked_quietly(world, address, access=access)


@pytest.mark.parametrize(("address", "inside"), EDGES)
def test_pass_through_and_translated_requests(address: int, inside: bool) -> None:
    for pasid in (None, SAME):
        world = pass_through()
        protect(world)
        assert blocked_quietly(world, address, pasid=pasid) == inside
    assert blocked_quietly(world, address, kind=TRANSLATED) == inside


@pytest.mark.parametrize("version", [0x20, 0x60])
def test_remapped_requests_from_version_2_on(version: int) -> None:
    for world in (
        first_stage(LOW | ALL1, version=version),
        second_stage(LOW | RW, version=version),
        nested(second=LOW | RW, version=version),
    ):
        assert not blocked_quietly(world, ADDRESS)
        protect(world)
        assert blocked_quietly(world, ADDRESS)


@pytest.mark.parametrize("version", [0x10, 0x60])
def test_the_host_address_counts(version: int) -> None:
    world = second_stage(address=LOW, version=version)
    protect(world)
    assert not blocked_quietly(world, LOW)


def test_table_accesses_are_exempt() -> None:
    """The tables of this world lie in the region, all of them; the page does not."""
    world = second_stage(LOW | RW, pasid_entry={"ssade": 1}, version=0x60)
    protect(world, low=0, high=HIGH)
    assert not blocked_quietly(world, ADDRESS)
    assert world.memory.log, "marks are written there too"


def test_limit_below_the_base_disables_a_region() -> None:
    for low, high in ((True, False), (False, True)):
        world = ScalableWorld()
        protect(world)
        world.write(PMEN, 0)
        if low:
            world.write(PLMLIMIT, LOW - 1)
        if high:
            world.write(PHMLIMIT, HIGH - 1, 8)
        world.write(PMEN, 1 << 31)
        assert blocked_quietly(world, LOW) == (not low)
        assert blocked_quietly(world, HIGH) == (not high)


def test_a_unit_without_the_registers() -> None:
    world = ScalableWorld(protected_low=False, protected_high=False)
    for offset in (PMEN, PLMBASE, PLMLIMIT):
        world.write(offset, 0xFFFF_FFFF)
        assert world.read(offset) == 0
    assert world.dma(LOW).host_address == LOW


def test_turned_on_while_translations_are_cached() -> None:
    world = pass_through()
    assert not blocked_quietly(world, LOW)
    protect(world)
    assert blocked_quietly(world, LOW)
    world.write(0x18, 0)
    assert blocked_quietly(world, LOW)
    world.write(0x18, TE)
    assert blocked_quietly(world, LOW)
