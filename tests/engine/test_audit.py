"""audit.py: which cached items are stale, their sources, the owed invalidation, and when they have been used."""

from __future__ import annotations

import pytest

from iommu import (
    Access,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    MisuseError,
    PageRequest,
    RemappingUnit,
    Selector,
    SourceId,
)
from iommu.engine.audit import StaleItem
from tests.engine.queueing import scalable as queue_of
from tests.engine.queueing import wait
from tests.engine.scalable_world import ADDRESS, HOST, PASS, SCALABLE, ScalableWorld, second_stage
from tests.engine.test_page_requests import Pager
from tests.engine.world import NIC

READ, WRITE = Access.READ, Access.WRITE
DEVICE = SourceId(0, 4, 0)
ROOT, CONTEXTS, TOP, LEVEL_3, LEVEL_2, LEVEL_1 = range(0x1000, 0x7000, 0x1000)
OTHER_TOP = 0x8000
RW = 3


class Legacy:
    """A device in domain 7 with 0x5000 mapped to 0x9000, read-write, through 4 levels."""

    def __init__(self, *, audit: bool = True) -> None:
        self.memory = FlatMemory(1 << 20)
        self.put(ROOT, CONTEXTS | 1)
        self.set_context(TOP)
        for table, entry in ((TOP, LEVEL_3), (LEVEL_3, LEVEL_2), (LEVEL_2, LEVEL_1), (LEVEL_1 + 5 * 8, 0x9000)):
            self.put(table, entry | RW)
        self.unit = RemappingUnit(self.memory, Capabilities(), audit=audit)
        self.unit.mmio_write(0x20, ROOT, 8)
        self.unit.mmio_write(0x18, 1 << 30, 4)
        self.unit.mmio_write(0x18, 1 << 31, 4)

    def put(self, where: int, value: int) -> None:
        self.memory.write_u64(where, value)

    def set_context(self, table: int) -> None:
        self.put(CONTEXTS + 16 * DEVICE, table | 1)
        self.put(CONTEXTS + 16 * DEVICE + 8, 7 << 8 | 2)

    def dma(self, access: Access = READ, address: int = 0x5000) -> tuple[int | None, list[StaleItem]]:
        outcome = self.unit.translate(DmaRequest(DEVICE, address, access))
        return outcome.host_address, [stale for stale in outcome.stale if isinstance(stale, StaleItem)]

    def stale(self) -> dict[str, list[int]]:
        """The stale items by cache and tag, with the addresses of the entries that changed."""
        return {
            f"{item.cache} {item.tag}": [source.address for source, _ in item.changed] for item in self.unit.audit()
        }


def test_nothing_is_stale_while_nothing_changes() -> None:
    world = Legacy()
    assert world.dma() == (0x9000, [])
    assert world.dma(WRITE) == (0x9000, [])
    assert world.unit.audit() == []


def test_a_changed_page_entry_makes_one_translation_stale() -> None:
    world = Legacy()
    world.dma()
    world.put(LEVEL_1 + 5 * 8, 0xA000 | RW)
    assert world.stale() == {"IOTLB domain 7, 0x5000": [LEVEL_1 + 5 * 8]}
    host, used = world.dma()
    assert host == 0x9000
    assert [(item.cache, item.tag) for item in used] == [("IOTLB", "domain 7, 0x5000")]
    assert str(used[0].owed) == "IOTLB invalidation of the page 0x5000 in domain 7"
    ((source, now),) = used[0].changed
    assert (source.raw, now) == (0x9000 | RW, 0xA000 | RW)
    assert f"{LEVEL_1 + 5 * 8:#x}" in str(used[0])


def test_a_changed_upper_entry_makes_all_below_it_stale() -> None:
    world = Legacy()
    world.dma()
    world.put(LEVEL_3, 0)
    assert world.stale() == {
        "second-stage structure cache domain 7, 0x0, level 2": [LEVEL_3],
        "second-stage structure cache domain 7, 0x0, level 1": [LEVEL_3],
        "IOTLB domain 7, 0x5000": [LEVEL_3],
    }


def test_a_walk_from_a_stale_upper_entry_says_so() -> None:
    world = Legacy()
    world.put(LEVEL_1 + 6 * 8, 0xB000 | RW)
    world.dma()
    world.put(LEVEL_2, 0)
    host, used = world.dma(address=0x6000)
    assert host == 0xB000
    assert [item.cache for item in used] == ["second-stage structure cache"]
    assert str(used[0].owed).endswith("upper entries too (IH=0)")


def test_a_changed_context_entry_makes_the_context_stale() -> None:
    world = Legacy()
    world.dma()
    world.set_context(OTHER_TOP)
    assert world.stale() == {"context cache source-id 00:04.0": [CONTEXTS + 16 * DEVICE]}
    host, used = world.dma()
    assert host == 0x9000
    assert str(used[0].owed) == "context-cache invalidation of 00:04.0, then the IOTLB of domain 7"


def test_a_changed_root_entry_makes_the_context_stale() -> None:
    world = Legacy()
    world.dma()
    world.put(ROOT, 0)
    assert world.stale() == {"context cache source-id 00:04.0": [ROOT]}


@pytest.mark.parametrize("granularity", [1, 2, 3])
def test_the_owed_invalidation_drops_the_stale_item(granularity: int) -> None:
    world = Legacy()
    world.dma()
    world.put(LEVEL_1 + 5 * 8, 0xA000 | RW)
    world.unit.mmio_write(0xF0, 0x5000, 8)
    world.unit.mmio_write(0xF8, 1 << 63 | granularity << 60 | 7 << 32, 8)
    assert world.unit.audit() == []
    assert world.dma() == (0xA000, [])


def test_an_entry_changed_and_changed_back_is_not_stale() -> None:
    world = Legacy()
    world.dma()
    world.put(LEVEL_1 + 5 * 8, 0)
    world.put(LEVEL_1 + 5 * 8, 0x9000 | RW)
    assert world.unit.audit() == []


def test_auditing_changes_no_outcome() -> None:
    plain, audited = Legacy(audit=False), Legacy()
    for address in (0x5000, 0x5FFF, 0x6000, 1 << 48):
        for access in (READ, WRITE):
            one = plain.unit.translate(DmaRequest(DEVICE, address, access))
            other = audited.unit.translate(DmaRequest(DEVICE, address, access))
            assert one == other
    assert plain.unit.mmio_read(0x220, 8) == audited.unit.mmio_read(0x220, 8)


def test_audit_of_a_unit_without_auditing_is_misuse() -> None:
    with pytest.raises(MisuseError, match="audit=True"):
        Legacy(audit=False).unit.audit()


def test_bits_set_by_the_unit_are_not_stale_and_cleared_bits_are() -> None:
    """Second stage, scalable mode, accessed and dirty on: A in bit 8, D in bit 9."""
    memory = FlatMemory(1 << 20)
    context, directory, pasids, top, level_3, level_2, level_1 = range(0x2000, 0x9000, 0x1000)
    memory.write_u64(ROOT, context | 1)
    memory.write_u64(context + 32 * DEVICE, directory | 1)
    memory.write_u64(directory, pasids | 1)
    # P, AW=2, PGTT=2, SSADE; domain 7, PWSNP.
    memory.write_u64(pasids, top | 1 | 2 << 2 | 2 << 6 | 1 << 9)
    memory.write_u64(pasids + 8, 7 | 1 << 23)
    for table, entry in ((top, level_3), (level_3, level_2), (level_2, level_1), (level_1 + 5 * 8, 0x9000)):
        memory.write_u64(table, entry | RW)
    unit = RemappingUnit(memory, Capabilities.full(), audit=True)
    unit.mmio_write(0x20, ROOT | 1 << 10, 8)
    unit.mmio_write(0x18, 1 << 30, 4)
    unit.mmio_write(0x18, 1 << 31, 4)
    assert unit.translate(DmaRequest(DEVICE, 0x5000, WRITE)).host_address == 0x9000
    assert memory.read_u64(level_1 + 5 * 8) == 0x9000 | RW | 3 << 8
    assert unit.audit() == []
    memory.write_u64(level_1 + 5 * 8, 0x9000 | RW)
    assert [item.cache for item in unit.audit()] == ["IOTLB"]
    memory.write_u64(pasids + 8, 8 | 1 << 23)
    assert {item.cache for item in unit.audit()} == {"IOTLB", "PASID cache"}


@pytest.mark.parametrize("caching_mode", [False, True])
def test_a_translation_is_audited_in_caching_mode_too(caching_mode: bool) -> None:
    world = Legacy()
    world.unit = RemappingUnit(world.memory, Capabilities(caching_mode=caching_mode), audit=True)
    world.unit.mmio_write(0x20, ROOT, 8)
    world.unit.mmio_write(0x18, 1 << 30, 4)
    world.unit.mmio_write(0x18, 1 << 31, 4)
    world.dma()
    world.put(LEVEL_1 + 5 * 8, 0xA000 | RW)
    assert world.stale() == {"IOTLB domain 7, 0x5000": [LEVEL_1 + 5 * 8]}


@pytest.mark.parametrize("bit", [3, 4, 5, 6])
@pytest.mark.parametrize("typed", [False, True])
def test_a_changed_memory_type_is_stale_only_if_it_applies(bit: int, typed: bool) -> None:
    """EMT and IPAT of a second-stage entry are where a first-stage entry has accessed and dirty (layouts 2.7)."""
    world = second_stage(audit=True)
    entry = world.pasids[NIC, 0] + 8
    world.put(entry, world.memory.read_u64(entry) | typed << 26)
    world.dma()
    world.put(world.second[1], HOST | RW | 1 << bit)
    stale = [(item.cache, [source.address for source, _ in item.changed]) for item in world.unit.audit()]
    assert stale == ([("IOTLB", [world.second[1]])] if typed else [])


IGNORED = {
    "page": (LEVEL_1 + 5 * 8, (2, 3, 4, 5, 6, 7, 8, 9, 10, 52, 55, 60, 61, 63)),
    "table": (LEVEL_2, (2, 3, 4, 5, 6, 8, 9, 10, 52, 60, 61, 63)),
    "context": (CONTEXTS + 16 * DEVICE + 8, (3, 4, 5, 6)),
}
"""Bits that hardware ignores in legacy mode, by the sheet on semantics 1.3 and 1.6, item 3."""


@pytest.mark.parametrize(("where", "bit"), [(at, bit) for at, bits in IGNORED.values() for bit in bits])
def test_ignored_bits_make_nothing_stale(where: int, bit: int) -> None:
    world = Legacy()
    world.dma()
    world.put(where, world.memory.read_u64(where) ^ 1 << bit)
    assert world.stale() == {}


@pytest.mark.parametrize("bit", [8, 9, 10, 11])
def test_ignored_bits_of_an_interrupt_entry_make_nothing_stale(bit: int) -> None:
    """9.9: bits 11:8 are available; without source validation, SID and SQ are not read either."""
    memory = FlatMemory(1 << 20)
    unit = RemappingUnit(memory, Capabilities(), audit=True)
    unit.mmio_write(0xB8, 0x9000, 8)
    unit.mmio_write(0x18, 1 << 24, 4)
    unit.mmio_write(0x18, 1 << 25, 4)
    for sid_matters in (False, True):
        memory.write_u64(0x9000, 0x41 << 16 | 1)
        memory.write_u64(0x9008, DEVICE | (1 << 18 if sid_matters else 0))
        unit.invalidate(Selector.interrupts())
        assert unit.remap_interrupt(InterruptRequest(DEVICE, 0xFEE0_0010, 0)).remapped is not None
        memory.write_u64(0x9000, 0x41 << 16 | 1 | 1 << bit)
        assert unit.audit() == []
        memory.write_u64(0x9008, DEVICE + 8 | (1 << 18 if sid_matters else 0))
        assert [item.cache for item in unit.audit()] == (["interrupt-entry cache"] if sid_matters else [])


def test_the_owed_invalidation_can_be_issued() -> None:
    """6.5: the selector in `owed` is an invalidation, and after it nothing is stale."""
    world = Legacy()
    world.dma()
    world.set_context(OTHER_TOP)
    world.put(LEVEL_2, 0)
    for item in world.unit.audit():
        world.unit.invalidate(item.owed)
    assert world.unit.audit() == []
    assert world.dma() == (None, [])


def test_reset_empties_audited_caches() -> None:
    world = Legacy()
    world.dma()
    world.put(LEVEL_1 + 5 * 8, 0)
    world.unit.reset()
    assert world.unit.audit() == []


def test_entries_read_for_a_fault_are_not_sources_of_the_next_item() -> None:
    """A DMA request that faulted has read entries; a page request that follows is not answered from them."""
    world = Legacy()
    world.unit = RemappingUnit(world.memory, Capabilities(interrupt_remapping=True), audit=True)
    world.unit.mmio_write(0x20, ROOT, 8)
    world.unit.mmio_write(0x18, 1 << 30, 4)
    world.unit.mmio_write(0xB8, 0x9000, 8)
    world.unit.mmio_write(0x18, 1 << 31 | 1 << 24, 4)
    world.unit.mmio_write(0x18, 1 << 31 | 1 << 25, 4)
    world.memory.write(0x9000, (0x41 << 16 | 1).to_bytes(16, "little"))
    world.dma()
    world.dma(WRITE, 0x6000)
    assert world.unit.remap_interrupt(InterruptRequest(DEVICE, 0xFEE0_0010, 0)).fault is None
    world.put(LEVEL_1 + 6 * 8, 0xB000 | RW)
    assert world.stale() == {}


def test_entries_read_for_a_fault_are_not_sources_of_what_a_drained_page_request_caches() -> None:
    """A wait descriptor drains the page requests that were posted: each is a request of its own."""
    world, other = second_stage(audit=True), SourceId(0, 6, 0)
    pager, leaf = Pager(world), world.second[1]
    pager.every_pasid(other)
    world.start()
    assert world.fault(ADDRESS + 0x1000) != 0
    world.unit.page_requests.post(PageRequest(other, ADDRESS))
    queue_of(world).done(wait(pd=1))
    world.put(leaf + 8, HOST | RW)
    assert world.unit.audit() == []


def test_a_legacy_and_a_scalable_context_of_one_device_are_recorded_apart() -> None:
    """Without CAP.ESRTPS, what is cached stays over the latch of another table mode: both are stale here."""
    world = ScalableWorld(audit=True)
    world.pasid_entry(pgtt=PASS)
    root, contexts = world.page(), world.page()
    world.put(root, contexts | 1)
    world.put(contexts + 16 * NIC.devfn, 1 | 2 << 2, 1 << 8 | 3)
    world.start(root)
    assert world.dma(0x5000).host_address == 0x5000
    world.latch(world.root | SCALABLE)
    assert world.dma(0x5000).host_address == 0x5000
    for entry in (contexts + 16 * NIC.devfn, world.contexts[NIC]):
        world.put(entry, 0)
    stale = [source.address for item in world.unit.audit() for source, _ in item.changed]
    assert stale == [contexts + 16 * NIC.devfn, world.contexts[NIC]]
