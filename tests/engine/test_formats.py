"""formats.py: what an entry may hold on a unit, doubts of the sheets, and the bits that explanations name."""

from __future__ import annotations

import copy
import pickle

import pytest

from iommu import Access, Capabilities, DmaRequest, FaultReason, Policy, SourceId
from iommu.engine.formats import Formats
from iommu.structures import ContextEntry, PasidEntry
from tests.engine.queueing import iotlb, pasid_cache, pasid_iotlb, scalable
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    ADDRESS,
    FIRST,
    NESTED,
    PASS,
    SAME,
    SECOND,
    ScalableWorld,
    first_stage,
    without,
)
from tests.engine.world import NIC, World


def reason_in_trace(world: World, address: int = 0x5000) -> str:
    """What the last step of a traced request says."""
    outcome = world.unit.translate(DmaRequest(NIC, address, Access.READ), trace=True)
    return str(outcome.trace[-1])


@raises(FaultReason.LCT_3)
def test_only_the_bits_that_are_reserved_are_named() -> None:
    """1.3: pass-through ignores the table pointer, bit 50 too; bit 4 is reserved."""
    world = World(host_address_width=48)
    world.context(tt=2, extra=1 << 50 | 1 << 4)
    world.start()
    assert reason_in_trace(world).endswith("0x0b LCT.3: reserved bit set in a present context entry (0x10)")


@raises(FaultReason.LCT_3)
def test_domain_id_bits_beyond_cap_nd_are_named() -> None:
    """1.3: domain-id bits above CAP.ND are reserved: DID is bits 87:72 of the entry."""
    world = World(domain_id_bits=8)
    world.device(did=0x105)
    world.start()
    assert f"({1 << 80:#x})" in reason_in_trace(world)


@raises(FaultReason.SPT_3)
def test_fields_of_an_absent_stage_are_named() -> None:
    """2.2: AW and SSPTPTR are reserved without ECAP.SSTS."""
    world = first_stage(second_stage=False, nested=False, second_stage_dirty=False)
    world.put(world.pasids[NIC, 0], world.memory.read_u64(world.pasids[NIC, 0]) | 1 << 2 | 0x3000)
    world.unit.caches.invalidate_dma()
    assert "(0x3004)" in reason_in_trace(world, ADDRESS)


@pytest.mark.parametrize(("aw", "levels"), [(0, None), (1, 3), (2, 4), (3, 5), (4, None), (7, None)])
def test_address_widths(aw: int, levels: int | None) -> None:
    """1.6: 001b is 3 levels, 010b 4, 011b 5; the unit must offer them (CAP.SAGAW)."""
    assert Formats(Capabilities(address_width=57), Policy()).second_stage_levels(aw) == levels
    assert Formats(Capabilities(levels=(4,)), Policy()).second_stage_levels(aw) == (4 if aw == 2 else None)


@pytest.mark.parametrize(
    ("kind", "stages"), [(0, None), (FIRST, (4, 0)), (SECOND, (0, 4)), (NESTED, (4, 4)), (PASS, (0, 0)), (5, None)]
)
def test_translation_types_of_scalable_mode(kind: int, stages: tuple[int, int] | None) -> None:
    """2.2: 001 first stage, 010 second stage, 011 nested, 100 pass-through, the others reserved."""
    entry = PasidEntry.make(P=1, AW=2) | kind << PasidEntry.PGTT.lsb
    assert Formats(Capabilities.full(), Policy()).stages(entry) == stages


# Which bits hardware reads (1.3, 1.6); the audit compares these.


def test_read_mask() -> None:
    formats = Formats(Capabilities(), Policy())
    context = formats.context.read_mask(ContextEntry.make(P=1))
    assert context & ContextEntry.AVAIL.mask == 0
    assert context & ContextEntry.SSPTPTR.mask == ContextEntry.SSPTPTR.mask
    assert formats.context.read_mask(ContextEntry.make(P=1, TT=2)) & ContextEntry.SSPTPTR.mask == 0
    assert formats.context.read_mask(ContextEntry.make(FPD=1, DID=3)) == 3
    leaf = formats.second_stage(accessed_dirty=False, memory_types=False)[1]
    assert leaf.read_mask(0x9003) == 0xF_FFFF_FFFF_F003 | 1 << 11 | 1 << 62
    assert leaf.read_mask(0x9000) == 3
    assert (
        formats.second_stage(accessed_dirty=True, memory_types=True)[1].read_mask(0x9003)
        == leaf.read_mask(0x9003) | 0x378
    )


# ECAP.PASID (2.1, D-36)


def passing(*, paside: int) -> ScalableWorld:
    """A unit without ECAP.PASID, and a device in pass-through."""
    world = ScalableWorld(**without("pasid", "page_requests", "supervisor_requests", "execute_requests"))
    world.scalable_context(paside=paside, pre=0)
    world.pasid_entry(0, pgtt=PASS, sre=0)
    return world.start()


@raises(FaultReason.SCT_3)
def test_pasids_cannot_be_enabled_on_a_unit_without_them() -> None:
    assert passing(paside=1).fault(0x5000) == 0x42


@raises(FaultReason.SCT_6)
def test_unit_without_pasids_serves_no_request_with_one() -> None:
    world = passing(paside=0)
    assert world.dma(0x5000).host_address == 0x5000
    assert world.fault(0x5000, pasid=SAME) == 0x45


# Fields that the granularity of a descriptor does not use


@pytest.mark.parametrize(
    "unused",
    [
        iotlb(1, did=1),
        iotlb(1, address=0x1000),
        iotlb(2, ih=1),
        iotlb(2, am=1),
        pasid_iotlb(2, did=1, ih=1),
        pasid_iotlb(2, did=1, am=1),
        pasid_iotlb(2, did=1, address=0x1000),
        pasid_cache(0, pasid=1),
        pasid_cache(3, did=1),
    ],
)
def test_unused_fields_of_a_descriptor_are_ignored(unused: tuple[int, int]) -> None:
    """6.5.2.2 to 6.5.2.4."""
    scalable().done(unused)


# Requests can be copied


def test_source_ids_and_requests_can_be_copied_and_pickled() -> None:
    request = DmaRequest(SourceId(3, 31, 7), 0x5000, Access.WRITE, 4, pasid=9)
    for again in (copy.copy(request), copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert again == request
        assert (type(again.source_id), str(again.source_id)) == (SourceId, "03:1f.7")
