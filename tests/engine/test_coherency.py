"""Page-walk coherency (ECAP.C, ECAP.SMPWCS and PWSNP; sheet 2.3, 6.6): who sees data that is not flushed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import (
    Access,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    MemoryAccessError,
    MisuseError,
    ProcessorCache,
    RemappingUnit,
)
from iommu.registers import GCMD, IQA, IQT, IRTA, RTADDR
from tests.engine.scalable_world import ADDRESS, HOST, first_stage, nested, second_stage
from tests.engine.world import NIC, READ, World, mapped

LEGACY_TABLES = ("root", "context", "level 4", "level 1")


def behind_caches(world: World, **changes: Any) -> tuple[RemappingUnit, ProcessorCache]:
    """A second unit over the world's memory, all of it flushed, behind the caches of a processor."""
    cpu = ProcessorCache(world.memory)
    capabilities = Capabilities(**{"address_width": 48, **changes}) if changes else world.capabilities
    unit = RemappingUnit(cpu, capabilities)
    unit.mmio_write(RTADDR.offset, world.unit.mmio_read(RTADDR.offset, 8), 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return unit, cpu


@pytest.mark.parametrize("coherent", [True, False])
@pytest.mark.parametrize("table", LEGACY_TABLES)
def test_legacy_tables_are_snooped_with_ecap_c(table: str, coherent: bool) -> None:
    world = World()
    top = world.device()
    places = world.map(top, 4, 0x5000, 0x9000 | 3)
    at = {"root": world.root, "context": world.context_address(NIC), "level 4": places[4], "level 1": places[1]}[
        table
    ]
    good = world.memory.read_u64(at)
    world.put(at, 0)
    world.start()
    unit, cpu = behind_caches(world, coherent=coherent)
    cpu.write_u64(at, good)
    request = DmaRequest(NIC, 0x5000, Access.READ)
    assert unit.translate(request).host_address == (0x9000 if coherent else None)
    cpu.flush(at, 8)
    assert unit.translate(request).host_address == 0x9000


def test_without_snooping_the_unit_reads_the_old_tables() -> None:
    """The driver has mapped another page and invalidated, but not flushed: the device reaches the old page."""
    world = mapped()
    unit, cpu = behind_caches(world, coherent=False)
    at = next(at for at in range(0x1000, 0x8000, 8) if world.memory.read_u64(at) == 0x9003)
    cpu.write_u64(at, 0xA003)
    unit.caches.invalidate_dma()
    request = DmaRequest(NIC, 0x5000, Access.READ)
    assert (unit.translate(request).host_address, cpu.read_u64(at)) == (0x9000, 0xA003)
    cpu.flush_all()
    assert unit.translate(request).host_address == 0x9000, "it is cached now"
    unit.caches.invalidate_dma()
    assert unit.translate(request).host_address == 0xA000


@pytest.mark.parametrize("builder", [first_stage, second_stage, nested])
@pytest.mark.parametrize("pwsnp", [0, 1])
@pytest.mark.parametrize("short", [False, True])
def test_paging_tables_are_snooped_by_pwsnp(builder: Any, pwsnp: int, short: bool) -> None:
    """Accessed bits are set already, so that the walk without snooping does not have to update an entry."""
    world = builder(pasid_entry={"pwsnp": pwsnp})
    leaf = (world.first or world.second)[1]
    for at in world.first.values():
        world.change(at, add=1 << 5)
    neighbour = world.memory.read_u64(leaf)
    unit, cpu = behind_caches(world)
    if short:  # the page before has left the tables in their caches
        assert unit.translate(DmaRequest(NIC, ADDRESS, READ)).host_address == HOST
    cpu.write_u64(leaf + 8, neighbour)
    request = DmaRequest(NIC, ADDRESS + 0x1000, READ)
    assert (unit.translate(request).host_address == HOST) == bool(pwsnp)
    cpu.flush(leaf + 8, 8)
    assert unit.translate(request).host_address == HOST


@pytest.mark.parametrize(("smpwcs", "coherent"), [(False, False), (False, True), (True, False)])
def test_scalable_tables_are_snooped_with_either_capability(smpwcs: bool, coherent: bool) -> None:
    world = second_stage(scalable_coherent=smpwcs, coherent=coherent, pasid_entry={"pwsnp": int(smpwcs)})
    request = DmaRequest(NIC, ADDRESS, READ)
    for at in (world.root_address(), world.contexts[NIC], world.directory_address(), world.pasids[NIC, 0]):
        good = world.memory.read_u64(at)
        world.put(at, 0)
        unit, cpu = behind_caches(world)
        cpu.write_u64(at, good)
        assert (unit.translate(request).host_address == HOST) == (smpwcs or coherent), hex(at)
        cpu.flush(at, 8)
        assert unit.translate(request).host_address == HOST


@pytest.mark.parametrize("coherent", [True, False])
def test_interrupt_table_is_snooped_with_ecap_c_and_the_queue_always(coherent: bool) -> None:
    cpu = ProcessorCache(FlatMemory(1 << 20))
    unit = RemappingUnit(cpu, Capabilities(coherent=coherent, interrupt_remapping=True, queued_invalidation=True))
    unit.mmio_write(IRTA.offset, 0x10000, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SIRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(IRE=1), 4)
    cpu.write(0x10000, (0x41 << 16 | 1).to_bytes(16, "little"))
    request = InterruptRequest(NIC, 0xFEE0_0010, 0)
    assert (unit.remap_interrupt(request).fault is None) == coherent
    # A wait descriptor that has not been flushed is found, and its status write is visible.
    unit.mmio_write(IQA.offset, 0x20000, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(IRE=1, QIE=1), 4)
    cpu.write(0x20000, (0x30000 << 64 | 0x1234 << 32 | 1 << 5 | 5).to_bytes(16, "little"))
    unit.mmio_write(IQT.offset, 16, 8)
    assert cpu.read(0x30000, 4) == (0x1234).to_bytes(4, "little")


def test_an_audit_compares_with_what_software_has_written() -> None:
    world = mapped()
    cpu = ProcessorCache(world.memory)
    unit = RemappingUnit(cpu, Capabilities(coherent=False), audit=True)
    unit.mmio_write(RTADDR.offset, world.root, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    at = next(at for at in range(0x1000, 0x8000, 8) if world.memory.read_u64(at) == 0x9003)
    cpu.write_u64(at, 0xA003)
    outcome = unit.translate(DmaRequest(NIC, 0x5000, Access.READ))
    assert outcome.host_address == 0x9000
    assert [item.changed[0][0].address for item in unit.audit()] == [at]


# The caches themselves.

writes = st.tuples(st.integers(0, 250), st.binary(min_size=1, max_size=80))


@given(st.lists(st.one_of(writes, st.tuples(st.integers(0, 255), st.integers(1, 90))), max_size=12))
def test_processors_read_what_they_wrote_and_memory_gets_what_is_flushed(steps: list[tuple[int, Any]]) -> None:
    cpu, plain, flushed = ProcessorCache(FlatMemory(256)), bytearray(256), bytearray(256)
    for address, what in steps:
        if isinstance(what, int):
            length = min(what, 256 - address)
            cpu.flush(address, length)
            first, last = address // 64 * 64, -(-(address + length) // 64) * 64
            flushed[first:last] = plain[first:last]
        elif address + len(what) <= 256:
            cpu.write(address, what)
            plain[address : address + len(what)] = what
        else:
            with pytest.raises(MemoryAccessError):
                cpu.write(address, what)
        assert cpu.read(0, 256) == plain
        assert cpu.behind.read(0, 256) == flushed
    cpu.flush_all()
    assert cpu.behind.read(0, 256) == plain


def test_memory_of_odd_size_is_misuse() -> None:
    with pytest.raises(MisuseError, match="0x48"):
        ProcessorCache(FlatMemory(0x48))
