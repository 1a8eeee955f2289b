"""Fields of scalable-mode entries that a unit lacks, bit by bit: reserved or ignored."""

from __future__ import annotations

import pytest

from tests.engine.scalable_world import (
    ADDRESS,
    BUILDERS,
    FIRST,
    HOST,
    PASS,
    SECOND,
    ScalableWorld,
    first_stage,
    pass_through,
    second_stage,
    without,
)
from tests.engine.world import NIC

ENTRY = (NIC, 0)


def codes(world: ScalableWorld, places: range | list[int]) -> set[int]:
    """The fault codes, 0 for none, when one of these bits at a time is flipped in the PASID-table entry."""
    found = set()
    for bit in places:
        world.flip(world.pasids[ENTRY], bit)
        world.unit.caches.invalidate_dma()
        found.add(world.code())
        world.flip(world.pasids[ENTRY], bit)
    return found


def test_rid_pasid_without_rps_is_reserved() -> None:
    """9.4, bit by bit."""
    for bit in range(20):
        assert second_stage(context={"rid_pasid": 1 << bit}, rid_pasid=False).fault() == 0x42


@pytest.mark.parametrize("pgtt", BUILDERS)
@pytest.mark.parametrize("width", range(4, 17, 2))
def test_domain_id_bits_beyond_nd_are_reserved(pgtt: int, width: int) -> None:
    """DID is bits 79:64 of the entry; CAP.ND says how many of them there are, as in legacy mode."""
    world = BUILDERS[pgtt](domain_id_bits=width)
    assert codes(world, range(64, 64 + width)) == {0}
    assert codes(world, range(64 + width, 80)) == ({0x5A} if width < 16 else set())


@pytest.mark.parametrize("pgtt", [FIRST, PASS])
def test_second_stage_fields_without_a_second_stage_are_reserved(pgtt: int) -> None:
    """9.6: AW is bits 4:2, SSPTPTR bits 63:12; both are reserved without ECAP.SSTS."""
    lacking = without("second_stage", "second_stage_dirty", "nested")
    world = first_stage(**lacking) if pgtt == FIRST else pass_through(**lacking)
    world.change(world.pasids[ENTRY], clear=7 << 2)
    world.unit.caches.invalidate_dma()
    assert world.dma().host_address == (HOST if pgtt == FIRST else ADDRESS)
    assert codes(world, [*range(2, 5), *range(12, 64)]) == {0x5A}


@pytest.mark.parametrize("pgtt", [SECOND, PASS])
def test_first_stage_fields_without_a_first_stage_are_reserved(pgtt: int) -> None:
    """9.6: SRE 128, ERE 129, FSPM 131:130, WPE 132, EAFE 135 and FSPTPTR 191:140 are reserved without ECAP.FSTS."""
    lacking = without("first_stage", "first_stage_5_level", "first_stage_1g", "extended_accessed", "nested")
    world = second_stage(**lacking) if pgtt == SECOND else pass_through(**lacking)
    assert world.dma().host_address == (HOST if pgtt == SECOND else ADDRESS)
    assert codes(world, [*range(128, 133), 135, *range(140, 192)]) == {0x5A}


@pytest.mark.parametrize("pgtt", BUILDERS)
def test_withdrawn_bits_are_ignored(pgtt: int) -> None:
    """9.6: NXE (133) and SMEP (134)."""
    assert codes(BUILDERS[pgtt](), [133, 134]) == {0}
