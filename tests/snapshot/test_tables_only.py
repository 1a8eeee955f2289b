"""--tables-only: what requests need is kept, and nothing else."""

from __future__ import annotations

import pytest

from iommu import Capabilities, DmaRequest, FlatMemory, InterruptRequest, RemappingUnit, SourceId
from iommu.errors import FormatError
from iommu.registers import GCMD, IQA, PQA, RTADDR, TableMode
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PAGE, ranges_of
from iommu.snapshot.saving import registers_of
from iommu.snapshot.tables import tables_only
from iommu.snapshot.unit import UnitSnapshot
from iommu.structures import PasidEntry, PasidTranslationType, ScalableContextEntry
from tests.engine.living import GPU, Living
from tests.engine.scalable_world import ADDRESS
from tests.engine.world import NIC, READ, WRITE, World, mapped

SECRET = b"do not show this"


def snapshot_of(world: World) -> Contents:
    """The registers of a unit and its memory, as of a machine: without its state."""
    unit = UnitSnapshot("made", registers_of(world.unit), world.memory, world.capabilities.host_address_width, 0)
    return Contents("made", world.memory, (unit,))


def test_walks_are_the_same_and_the_pages_are_gone() -> None:
    world = mapped()
    world.memory.write(0x9000, SECRET)
    small = tables_only(snapshot_of(world))
    unit = small.units[0].unit()
    for address in (0x5010, 0x6000, 0x9999_0000):
        for access in (READ, WRITE):
            there, here = world.dma(address, access), unit.translate(DmaRequest(NIC, address, access))
            assert (here.host_address, here.fault) == (there.host_address, there.fault)
    assert small.tables_only and small.unknown
    kept = b"".join(small.memory.read(each.start, len(each)) for each in ranges_of(small.memory))
    assert SECRET not in kept
    assert len(kept) == 6 * 0x1000  # root, context, and four levels


@pytest.mark.parametrize("legacy", [True, False])
def test_a_unit_that_uses_everything(legacy: bool) -> None:
    """Every request of the world has the same outcome: legacy, or first, second and nested stage, and interrupts."""
    living = Living(legacy=legacy)
    whole = snapshot_of(living.world)
    small = tables_only(whole)
    before, after = whole.units[0].unit(), small.units[0].unit()
    compared = 0
    for pasid in (None, 0, 1, 2, 3, 64, 99):
        for address in (0x5000, 0x6000, 0x20_5000, ADDRESS, 0x4000_0000, 0x8000_0000):
            for access in (READ, WRITE):
                for device in (NIC, GPU, SourceId(9, 9, 1)):
                    request = DmaRequest(device, address, access, pasid=pasid)
                    there, here = before.translate(request), after.translate(request)
                    assert (here.host_address, here.fault) == (there.host_address, there.fault)
                    compared += here.host_address is not None
    assert compared > 10
    for index in range(16):
        interrupt = InterruptRequest(NIC, 0xFEE0_0010 | index << 5, 0)
        assert after.remap_interrupt(interrupt) == before.remap_interrupt(interrupt)
    assert sum(map(len, ranges_of(small.memory))) < 1 << 20


def test_queues_are_kept_byte_for_byte() -> None:
    living = Living()
    small = tables_only(snapshot_of(living.world))
    for layout, address, pages in ((IQA, IQA.IQA, IQA.QS), (PQA, PQA.PQA, PQA.PQS)):
        register = small.units[0].register(layout.offset, 8)
        size = 0x1000 << pages.get(register) + (IQA.DW.get(register) if layout is IQA else 0)
        assert register and small.memory.read(address.get(register), size) == living.world.memory.read(
            address.get(register), size
        )


def test_of_a_page_that_tables_share_with_others_only_the_tables_are_kept() -> None:
    """An interrupt-remapping table of 2 entries is 32 bytes (spec 11.4.10)."""
    world = World(interrupt_remapping=True)
    world.memory.write(0x3000, bytes(range(1, 33)) + SECRET)
    world.write(0xB8, 0x3000, 8)
    world.write(0x18, 1 << 24)  # SIRTP
    small = tables_only(snapshot_of(world))
    assert [(each.start, each.stop) for each in ranges_of(small.memory)] == [(0x3000, 0x3020)]
    assert small.memory.read(0x3000, 32) == bytes(range(1, 33))


def test_entries_that_the_unit_refuses_are_followed_too() -> None:
    """A reserved bit in the context entry blocks every request, and the tables below it are what to look at."""
    world = mapped()
    context = world.memory.read_u64(0x1000) & ~0xFFF
    entry = context + 16 * (NIC & 0xFF)
    world.memory.write_u64(entry + 8, world.memory.read_u64(entry + 8) | 1 << 63)
    assert world.fault(0x5000, READ) == 0x0B
    small = tables_only(snapshot_of(world))
    assert sum(map(len, ranges_of(small.memory))) == 6 * 0x1000


def test_tables_in_a_circle_come_to_an_end() -> None:
    memory = FlatMemory(1 << 19)
    world = World()
    for table in (0x1000, 0x2000, 0x3000):
        world.memory.write(table, (0x2003).to_bytes(8, "little") * 512)
    world.write(0x20, 0x1000, 8)
    world.write(0x18, 1 << 30)  # SRTP
    small = tables_only(snapshot_of(world))
    assert {each.start for each in ranges_of(small.memory)} <= set(range(0, memory.size, 0x1000))


def test_tables_that_lead_to_each_other_in_all_ways_are_refused() -> None:
    """Each page is a second stage, and a first-stage table under each of the others: n * n ways of reading n."""
    memory = FlatMemory(1 << 19)
    pages = range(0, memory.size, PAGE)
    root, contexts, directory = 0x1000, 0x2000, 0x3000
    for page in pages:
        memory.write(page, b"".join((page >> 3 ^ other | 7).to_bytes(8, "little") for other in [*pages] * 2))
    memory.write(root, (contexts | 1).to_bytes(8, "little") * 512)
    memory.write(contexts, ScalableContextEntry.make(P=1, PASIDDIRPTR=directory).to_bytes(32, "little") * 128)
    memory.write(directory, b"".join((page | 1).to_bytes(8, "little") for page in pages[:128]))
    for page in pages:
        if page not in (root, contexts, directory):
            entry = PasidEntry.make(P=1, PGTT=PasidTranslationType.NESTED, AW=1, SSPTPTR=page, FSPTPTR=page)
            memory.write(page, entry.to_bytes(64, "little"))
    made = RemappingUnit(memory, Capabilities.full())
    made.mmio_write(RTADDR.offset, RTADDR.make(RTA=root, TTM=TableMode.SCALABLE), 8)
    made.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit = UnitSnapshot("made", registers_of(made), memory, 46, 0)
    with pytest.raises(FormatError, match="tables in more than 16 ways each"):
        tables_only(Contents("made", memory, (unit,)))
