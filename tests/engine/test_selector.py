"""invalidation/selector.py: what commands name, in words, and that every cache drops what is named (6.5)."""

from __future__ import annotations

import pytest

from iommu import Access, CacheName, Capabilities, DmaRequest, FlatMemory, InterruptRequest, RemappingUnit, Selector
from iommu.engine.device import Device
from tests.engine.queueing import Descriptor, Software, context, iotlb, legacy, pasid_cache, pasid_iotlb, scalable
from tests.engine.scalable_world import ADDRESS, HOST, first_stage, second_stage
from tests.engine.world import CCMD, DISK, NIC, READ, RW, World, mapped

PAGE = range(0x5000, 0x6000)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (Selector.contexts(), "context-cache invalidation of everything"),
        (Selector.contexts(7), "context-cache invalidation of domain 7"),
        (Selector.contexts(source_id=NIC), "context-cache invalidation of 00:04.0"),
        (Selector.contexts(0, source_id=NIC), "context-cache invalidation of 00:04.0 with domain-id 0"),
        (Selector.pasids(), "PASID-cache invalidation of everything"),
        (Selector.pasids(7), "PASID-cache invalidation of domain 7"),
        (Selector.pasids(7, 3), "PASID-cache invalidation of PASID 0x3 in domain 7"),
        (Selector.translations(), "IOTLB invalidation of everything"),
        (Selector.translations(7), "IOTLB invalidation of domain 7"),
        (Selector.translations(7, 3), "PASID-based IOTLB invalidation of PASID 0x3 in domain 7"),
        (
            Selector.translations(7, addresses=PAGE, leaf_only=True),
            "IOTLB invalidation of the page 0x5000 in domain 7",
        ),
        (
            Selector.translations(7, 3, addresses=range(0x20_0000, 0x40_0000)),
            "PASID-based IOTLB invalidation of 512 pages from 0x200000 on in PASID 0x3 of domain 7, "
            "upper entries too (IH=0)",
        ),
        (Selector.interrupts(), "interrupt-entry-cache invalidation of everything"),
        (Selector.interrupts(5), "interrupt-entry-cache invalidation of index 5"),
        (Selector.interrupts(21, 2), "interrupt-entry-cache invalidation of index 20 to 23"),
        (
            Selector(cache=CacheName.DEVICE_TLB, source_id=NIC, addresses=PAGE),
            "device-TLB invalidation of 0x5000, after that of the IOTLB",
        ),
        (
            Selector(cache=CacheName.CONTEXTS, source_id=NIC, then=Selector.translations(7)),
            "context-cache invalidation of 00:04.0, then the IOTLB of domain 7",
        ),
    ],
)
def test_selector_in_words(named: Selector, words: str) -> None:
    assert str(named) == words


def seen(unit: RemappingUnit) -> list[Selector]:
    """What the unit's commands name from now on."""
    found: list[Selector] = []
    drop = unit.caches.invalidate

    def invalidate(named: Selector) -> None:
        found.append(named)
        drop(named)

    unit.caches.invalidate = invalidate  # type: ignore[method-assign]
    return found


BIG = range(0x4000_0000, 0x4004_0000)
DESCRIPTORS: list[tuple[Descriptor, Selector]] = [
    (context(1), Selector.contexts()),
    (context(2, did=7), Selector.contexts(7)),
    (context(3, did=7, sid=NIC, fm=2), Selector.contexts(7, source_id=NIC, ignored=0b110)),
    (iotlb(1), Selector.translations()),
    (iotlb(2, did=7), Selector.translations(7)),
    (iotlb(3, did=7, address=BIG.start + 0x3000, am=6), Selector.translations(7, addresses=BIG)),
    (iotlb(3, did=7, address=0x5000, ih=1), Selector.translations(7, addresses=PAGE, leaf_only=True)),
]
"""6.5.2.1, 6.5.2.3: fields as in the sheet on layouts, and what they name by 4.3 of the sheet on semantics."""
WITH_PASID: list[tuple[Descriptor, Selector]] = [
    (pasid_iotlb(2, did=7, pasid=3), Selector.translations(7, 3)),
    (pasid_iotlb(3, did=7, pasid=3, address=0x5000), Selector.translations(7, 3, addresses=PAGE)),
    (pasid_cache(0, did=7), Selector.pasids(7)),
    (pasid_cache(1, did=7, pasid=3), Selector.pasids(7, 3)),
    (pasid_cache(3), Selector.pasids()),
]


@pytest.mark.parametrize(("descriptor", "named"), DESCRIPTORS)
def test_selector_of_a_descriptor(descriptor: Descriptor, named: Selector) -> None:
    software = legacy()
    found = seen(software.world.unit)
    software.done(descriptor)
    assert found == [named]


@pytest.mark.parametrize(("descriptor", "named"), WITH_PASID)
def test_selector_of_a_scalable_mode_descriptor(descriptor: Descriptor, named: Selector) -> None:
    software = scalable()
    found = seen(software.world.unit)
    software.done(descriptor)
    assert found == [named]


def test_selector_of_a_register_command() -> None:
    world = World()
    found = seen(world.unit)
    world.invalidate_contexts(3, did=7, sid=NIC, fm=2)
    world.invalidate_pages(3, did=7, address=0x5000, ih=1)
    assert found == [DESCRIPTORS[2][1], DESCRIPTORS[6][1]]


# Domain-id bits that the unit does not have (CAP.ND)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(("did", "host"), [(0x106, 0x9000), (0x105, 0xA000)])
def test_domain_id_bits_beyond_cap_nd_are_ignored_for_the_iotlb(did: int, host: int, queued: bool) -> None:
    """CAP.ND = 2, eight bits: domain 0x105 is domain 5."""
    world = mapped(did=5, domain_id_bits=8)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    assert world.dma(0x5000).host_address == 0x9000
    world.map(top, 4, 0x5000, 0xA000 | RW)
    if queued:
        Software(world).done(iotlb(2, did=did))
    else:
        world.invalidate_pages(2, did=did)
    assert world.dma(0x5000).host_address == host


def test_domain_id_bits_beyond_cap_nd_are_ignored_for_contexts() -> None:
    for did, dropped in ((0x106, False), (0x105, True)):
        world = mapped(did=5, domain_id_bits=8)
        world.dma(0x5000)
        world.write(CCMD, 1 << 63 | 2 << 61 | did, 8)
        assert (list(world.unit.caches.contexts) == []) == dropped


def test_domain_id_bits_beyond_cap_nd_are_ignored_in_scalable_mode() -> None:
    for did, dropped in ((0x102, False), (0x101, True)):
        world = first_stage(domain_id_bits=8)
        software = scalable(world)
        world.dma()
        assert len(list(world.unit.caches.pasids)) == 1
        software.done(pasid_cache(1, did=did))
        assert (list(world.unit.caches.pasids) == []) == dropped
        world.put(world.first[1], 0)
        software.done(pasid_cache(3), pasid_iotlb(3, did=did, address=ADDRESS))
        assert (world.dma().host_address is None) == dropped


# Carried out without a register or a queue


def test_each_cache_drops_what_is_named() -> None:
    world = second_stage()
    unit = world.unit
    world.dma()
    unit.invalidate(Selector.contexts(source_id=DISK))
    unit.invalidate(Selector.pasids(2))
    unit.invalidate(Selector.translations(2))
    assert len(list(unit.caches.scalable_contexts)) == len(list(unit.caches.pasids)) == 1
    assert unit.caches.iotlb.find(1, None, ADDRESS) is not None
    unit.invalidate(Selector.contexts(source_id=NIC))
    unit.invalidate(Selector.pasids(1, 0))
    unit.invalidate(Selector.translations(1, addresses=range(ADDRESS, ADDRESS + 0x1000)))
    assert list(unit.caches.scalable_contexts) == list(unit.caches.pasids) == []
    assert unit.caches.iotlb.find(1, None, ADDRESS) is None


def test_interrupt_entries_are_dropped_by_index() -> None:
    memory = FlatMemory(1 << 20)
    unit = RemappingUnit(memory, Capabilities())
    memory.write_u64(0x9000, 0x41 << 16 | 1)
    unit.mmio_write(0xB8, 0x9000, 8)
    unit.mmio_write(0x18, 1 << 24, 4)
    unit.mmio_write(0x18, 1 << 25, 4)
    request = InterruptRequest(NIC, 0xFEE0_0010, 0)
    for named, dropped in ((Selector.interrupts(4, 2), False), (Selector.interrupts(3, 2), True)):
        memory.write_u64(0x9000, 0x41 << 16 | 1)
        assert unit.remap_interrupt(request).remapped is not None
        memory.write_u64(0x9000, 0)
        unit.invalidate(named)
        assert (unit.remap_interrupt(request).fault is not None) == dropped


def test_following_device_tlb_invalidation_is_carried_out() -> None:
    world = World(device_tlb=True)
    world.map(world.device(tt=1), 4, 0x5000, 0x9000 | RW)
    device = Device(world.start().unit, NIC)
    device.read(0x5000)
    assert len(device.tlb) == 1
    flush = Selector(cache=CacheName.DEVICE_TLB, source_id=NIC, addresses=PAGE)
    world.unit.invalidate(Selector(cache=CacheName.TRANSLATIONS, domain_id=1, then=flush))
    assert device.tlb == []
    assert world.unit.caches.iotlb.find(1, None, 0x5000) is None
    world.unit.invalidate(Selector(cache=CacheName.DEVICE_TLB, source_id=DISK, addresses=PAGE))


def test_owed_invalidations_drop_everything_stale() -> None:
    """Whatever entry changes, issuing all that is owed leaves nothing stale, in every mode."""
    for builder in (first_stage, second_stage):
        world = builder(audit=True)
        world.dma()
        for where in (world.contexts[NIC], world.pasids[NIC, 0], world.directory_address()):
            world.put(where, world.memory.read_u64(where) ^ 2)
            assert world.unit.audit(), hex(where)
            for stale in world.unit.audit():
                world.unit.invalidate(stale.owed)
            assert world.unit.audit() == []
            assert world.unit.translate(DmaRequest(NIC, ADDRESS, Access.READ)).host_address == HOST
            assert world.dma(ADDRESS, READ).stale == ()
