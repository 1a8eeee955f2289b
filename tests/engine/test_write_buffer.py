"""CAP.RWBF (spec 6.8, 11.4.4.1): a write buffer that table walks do not see, and what flushes it."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import (
    Access,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    MisuseError,
    ProcessorCache,
    RemappingUnit,
    WriteBuffer,
)
from iommu.registers import CAP
from tests.engine.queueing import Descriptor, context, interrupt, iotlb, wait
from tests.engine.world import CCMD, GCMD, GSTS, NIC, RTADDR, SRTP, TE, World

WBF, QIE, IRE, SIRTP = 1 << 27, 1 << 26, 1 << 25, 1 << 24
IRTA, IQA, IQT = 0xB8, 0x90, 0x88


class Chipset:
    """A world behind a write buffer: NIC has the page 0x5000, and all of its tables are in memory."""

    def __init__(self, *, audit: bool = False, stepped: bool = False, **options: Any) -> None:
        self.world = World(**{"write_buffer_flush": True, **options})
        self.places = self.world.map(self.world.device(), 4, 0x5000, 0x9003)
        self.buffer = WriteBuffer(self.world.memory)
        self.unit = RemappingUnit(self.buffer, self.world.capabilities, audit=audit, stepped=stepped)

    def start(self) -> Chipset:
        """Turn translation on."""
        self.unit.mmio_write(RTADDR, self.world.root, 8)
        for command in (SRTP, TE):
            self.unit.mmio_write(GCMD, command, 4)
            self.unit.step()
        return self

    def map(self, page: int, entry: int) -> None:
        """Software writes the entry of one of the first 512 pages."""
        self.buffer.write_u64((self.places[1] & ~0xFFF) + (page >> 9), entry)

    def host(self, address: int) -> int | None:
        """Where NIC's read goes."""
        return self.unit.translate(DmaRequest(NIC, address, Access.READ)).host_address


def test_the_unit_does_not_see_a_buffered_entry_until_wbf() -> None:
    """6.8: an entry that becomes present needs no invalidation, but a flush."""
    chipset = Chipset().start()
    chipset.map(0x6000, 0xA003)
    assert chipset.host(0x6000) is None
    chipset.unit.mmio_write(GCMD, TE | WBF, 4)
    assert (chipset.host(0x6000), chipset.unit.mmio_read(GSTS, 4)) == (0xA000, TE | SRTP)


def test_the_flush_takes_effect_when_wbfs_is_clear() -> None:
    chipset = Chipset(stepped=True).start()
    chipset.map(0x6000, 0xA003)
    chipset.unit.mmio_write(GCMD, TE | WBF, 4)
    assert (chipset.host(0x6000), chipset.unit.mmio_read(GSTS, 4) & WBF) == (None, WBF)
    assert chipset.unit.step() == 1
    assert (chipset.host(0x6000), chipset.unit.mmio_read(GSTS, 4) & WBF) == (0xA000, 0)


@pytest.mark.parametrize("fast", [True, False])
def test_a_walk_from_cached_upper_entries_does_not_see_it_either(fast: bool) -> None:
    chipset = Chipset(audit=not fast).start()
    assert chipset.host(0x5000) == 0x9000
    chipset.map(0x6000, 0xA003)
    assert chipset.host(0x6000) is None


def test_a_unit_without_rwbf_sees_what_is_in_the_buffer() -> None:
    """11.4.2: with RWBF = 0, no flush is needed to make changes visible."""
    chipset = Chipset(write_buffer_flush=False).start()
    chipset.map(0x6000, 0xA003)
    assert chipset.host(0x6000) == 0xA000
    chipset.unit.mmio_write(GCMD, TE | WBF, 4)
    assert chipset.world.memory.read_u64(chipset.places[1] + 8) == 0, "nothing flushed the buffer"


# 6.8: context-cache, IOTLB and interrupt-entry invalidations flush first.


@pytest.mark.parametrize("command", ["context", "iotlb"])
def test_an_invalidation_by_register_flushes_first(command: str) -> None:
    chipset = Chipset().start()
    chipset.host(0x5000)
    chipset.map(0x5000, 0xA003)
    chipset.map(0x6000, 0xB003)
    if command == "context":
        chipset.unit.mmio_write(CCMD, 1 << 63 | 1 << 61, 8)
    else:
        chipset.unit.mmio_write(chipset.world.iotlb, 1 << 63 | 1 << 60, 8)
    assert chipset.host(0x6000) == 0xB000
    assert chipset.host(0x5000) == (0x9000 if command == "context" else 0xA000)


def test_an_invalidation_that_is_refused_flushes_nothing() -> None:
    chipset = Chipset().start()
    chipset.map(0x6000, 0xB003)
    chipset.unit.mmio_write(CCMD, 1 << 63, 8)
    assert chipset.unit.mmio_read(CCMD, 8) >> 59 & 3 == 0
    assert chipset.host(0x6000) is None


@pytest.mark.parametrize(
    ("descriptor", "flushes"), [(context(1), True), (iotlb(1), True), (interrupt(0), True), (wait(), False)]
)
def test_a_descriptor_that_invalidates_flushes_first(descriptor: Descriptor, flushes: bool) -> None:
    """The queue itself is read through the buffer: 6.8 speaks of remapping structures only."""
    chipset = Chipset().start()
    chipset.unit.mmio_write(IQA, queue := chipset.world.page(), 8)
    chipset.unit.mmio_write(GCMD, TE | QIE, 4)
    chipset.map(0x6000, 0xA003)
    for number, quadword in enumerate(descriptor):
        chipset.buffer.write_u64(queue + 8 * number, quadword)
    chipset.unit.mmio_write(IQT, 16, 8)
    assert chipset.host(0x6000) == (0xA000 if flushes else None)


def test_the_interrupt_table_is_behind_the_buffer_too() -> None:
    chipset = Chipset()
    table = chipset.world.page()
    chipset.unit.mmio_write(IRTA, table, 8)
    chipset.unit.mmio_write(GCMD, SIRTP | IRE, 4)
    chipset.buffer.write(table, (0x41 << 16 | 1).to_bytes(16, "little"))
    request = InterruptRequest(NIC, 0xFEE0_0010, 0)
    assert chipset.unit.remap_interrupt(request).fault == 0x22
    chipset.unit.mmio_write(GCMD, IRE | WBF, 4)
    assert chipset.unit.remap_interrupt(request).fault is None


def test_one_flush_serves_every_unit() -> None:
    """The buffer is the root complex's: a second unit sees what the first one's command flushed."""
    chipset = Chipset().start()
    second = RemappingUnit(chipset.buffer, chipset.world.capabilities)
    chipset.map(0x6000, 0xA003)
    second.mmio_write(GCMD, WBF, 4)
    assert chipset.host(0x6000) == 0xA000


# With processors' caches in front.


@pytest.mark.parametrize("coherent", [False, True])
@pytest.mark.parametrize("rwbf", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("wbf", [False, True])
def test_processor_caches_in_front(coherent: bool, rwbf: bool, flushed: bool, wbf: bool) -> None:
    """A snooped walk finds the line in the caches; what has left them is in the buffer, for a unit with RWBF."""
    world = World(write_buffer_flush=rwbf, coherent=coherent)
    places = world.map(world.device(), 4, 0x5000, 0x9003)
    cpu = ProcessorCache(WriteBuffer(world.memory))
    unit = RemappingUnit(cpu, world.capabilities)
    unit.mmio_write(RTADDR, world.root, 8)
    unit.mmio_write(GCMD, SRTP | TE, 4)
    cpu.write_u64(places[1] + 8, 0xA003)
    if flushed:
        cpu.flush(places[1] + 8, 8)
    if wbf:
        unit.mmio_write(GCMD, TE | WBF, 4)
    seen = (flushed and (wbf or not rwbf)) or (not flushed and coherent)
    outcome = unit.translate(DmaRequest(NIC, 0x6000, Access.READ))
    assert (outcome.host_address == 0xA000) == seen
    assert cpu.read_u64(places[1] + 8) == 0xA003


# What cannot be built.


def test_a_write_buffer_before_processor_caches_is_misuse() -> None:
    with pytest.raises(MisuseError, match="ProcessorCache"):
        WriteBuffer(ProcessorCache(FlatMemory(0x1000)))  # type: ignore[arg-type]


def test_a_unit_with_scalable_mode_has_no_write_buffer() -> None:
    """11.4.2: hardware with SMTS reports RWBF as 0."""
    with pytest.raises(MisuseError, match="write_buffer_flush needs scalable_mode to be off"):
        Capabilities(scalable_mode=True, second_stage=True, write_buffer_flush=True)
    scalable = Capabilities.scalable()
    told = Capabilities.from_registers(scalable.cap | CAP.RWBF.mask, scalable.ecap, scalable.host_address_width)
    assert (told.write_buffer_flush, told.cap) == (False, scalable.cap | CAP.RWBF.mask)
