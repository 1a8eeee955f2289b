"""Snooping and memory types, as given by the tables (spec 3.6.5, 3.7.4, 3.8.4; sheet 1.6, layouts 2.4, 2.6, 2.7)."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import Attributes, MemoryType, Outcome
from iommu.registers import MTRRCAP, MTRRDEF
from tests.engine.scalable_world import (
    ADDRESS,
    ALL1,
    GUEST_PAGE,
    HOST,
    PASS,
    ScalableWorld,
    first_stage,
    nested,
    second_stage,
)
from tests.engine.world import PS, RW, World

SNP, IPAT = 1 << 11, 1 << 6
PGSNP, CD, EMTE = 88, 89, 90
TYPES = [0, 6, 1, 5, 6, 4, 7, 0]


def typed(world: ScalableWorld, *flags: int) -> ScalableWorld:
    """The PASID-table entry gets a PAT of TYPES, and flags."""
    at = next(iter(world.pasids.values()))
    world.change(at + 8, add=sum(kind << 32 + 4 * n for n, kind in enumerate(TYPES)))
    for bit in flags:
        world.flip(at, bit)
    return world


def both(world: ScalableWorld | World, **request: Any) -> Attributes:
    """The attributes of a request, which are the same from the tables and from the caches."""
    found: list[Outcome] = [world.dma(ADDRESS, **request) for _ in range(2)]
    assert found[0].host_address is not None
    assert found[0].attributes == found[1].attributes
    return found[0].attributes


def test_attributes_are_plain_by_default() -> None:
    assert both(first_stage(memory_types=False)) == Attributes()
    assert both(second_stage(memory_types=False)) == Attributes()
    assert both(nested(memory_types=False)) == Attributes()


@pytest.mark.parametrize("offered", [True, False])
def test_snoop_of_a_legacy_page(offered: bool) -> None:
    """SNP counts with ECAP.SC, and is reserved without (0x0C)."""
    world = World(snoop_control=offered)
    top = world.page()
    world.context(table=top)
    world.map(top, 4, ADDRESS, HOST | RW | SNP)
    world.map(top, 4, ADDRESS + 0x1000, HOST | RW)
    world.start()
    for _ in range(2):
        outcome = world.dma(ADDRESS)
        assert outcome.attributes == Attributes(snooped=offered)
        assert outcome.fault == (None if offered else 0x0C)
        assert world.dma(ADDRESS + 0x1000).attributes == Attributes()


def test_snoop_of_a_second_stage_page() -> None:
    assert both(second_stage(HOST | RW | SNP)).snooped
    assert not both(second_stage(HOST | RW)).snooped
    assert both(second_stage(0x4000_0000 | RW | SNP | PS, leaf=3)).snooped


@pytest.mark.parametrize("build", [first_stage, second_stage, nested])
def test_snoop_of_a_pasid(build: Any) -> None:
    assert both(build(pasid_entry={"pgsnp": 1})).snooped


def test_snoop_of_a_nested_page_by_its_second_stage() -> None:
    assert both(nested(second=HOST | RW | SNP)).snooped
    assert not both(nested()).snooped


def test_snoop_and_cache_disable_of_pass_through() -> None:
    world = ScalableWorld()
    world.pasid_entry(pgtt=PASS, pgsnp=1)
    world.start()
    assert both(world) == Attributes(snooped=True)
    world = ScalableWorld()
    world.pasid_entry(pgtt=PASS)
    world.flip(next(iter(world.pasids.values())), CD)
    world.start()
    assert both(world) == Attributes(uncacheable=True)


@pytest.mark.parametrize("pat", [0, 1])
@pytest.mark.parametrize("pcd", [0, 1])
@pytest.mark.parametrize("pwt", [0, 1])
@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_first_stage_type_is_chosen_from_pat(pat: int, pcd: int, pwt: int, leaf: int) -> None:
    """PAT is bit 7 of a small page's entry and bit 12 of a large one's."""
    host = HOST if leaf == 1 else 0x4000_0000 | PS
    entry = host | ALL1 | pat << (7 if leaf == 1 else 12) | pcd << 4 | pwt << 3
    attributes = both(typed(first_stage(entry, leaf=leaf)))
    assert attributes == Attributes(first_stage=TYPES[4 * pat + 2 * pcd + pwt])


@pytest.mark.parametrize("emt", range(8))
@pytest.mark.parametrize("emte", [True, False])
def test_second_stage_type_counts_with_emte(emt: int, emte: bool) -> None:
    world = typed(second_stage(HOST | RW | emt << 3 | IPAT), *([EMTE] if emte else []))
    expected = Attributes(second_stage=emt, ignores_first_stage=True) if emte else Attributes()
    assert both(world) == expected


def test_nested_page_has_both_types() -> None:
    world = typed(nested(GUEST_PAGE | ALL1 | 1 << 3, HOST | RW | MemoryType.WB << 3 | SNP), EMTE, CD)
    assert both(world) == Attributes(
        snooped=True, first_stage=MemoryType.WB, second_stage=MemoryType.WB, uncacheable=True
    )


def test_memory_type_ranges_are_kept_where_there_are_memory_types() -> None:
    """ECAP.MTS=0: all of them read as 0 (layouts 1.14)."""
    for offered in (True, False):
        world = World(memory_types=offered)
        world.write(MTRRDEF.offset, 0xC06)
        assert world.read(MTRRDEF.offset) == (0xC06 if offered else 0)
        capability = MTRRCAP(world.read(MTRRCAP.offset, 8))
        assert (capability.VCNT, capability.FIX) == ((10, 1) if offered else (0, 0))
