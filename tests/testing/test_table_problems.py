"""table_problems: entries written bit by bit, each with something that its unit does not support."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import Capabilities, FlatMemory, RemappingUnit
from iommu.testing import WatchedUnit, assert_clean
from iommu.testing.tables import table_problems

ROOT, CONTEXTS, TOP, MIDDLE, BOTTOM, DIRECTORY, PASIDS, FIRST, INTERRUPTS = (n << 12 for n in range(1, 10))
PAGES = 0xA000
NOT_HERE = ", which this unit does not support"


def put(memory: FlatMemory, address: int, *quadwords: int) -> None:
    for n, quadword in enumerate(quadwords):
        memory.write_u64(address + 8 * n, quadword)


def second_stage(memory: FlatMemory) -> None:
    """A table of three levels that maps 0x5000 to 0x9000."""
    put(memory, TOP, MIDDLE | 3)
    put(memory, MIDDLE, BOTTOM | 3)
    put(memory, BOTTOM + 8 * 5, 0x9000 | 3)


def command(unit: RemappingUnit, bit: int) -> None:
    unit.mmio_write(0x18, unit.mmio_read(0x1C, 4) & 0x96FF_FFFF | bit, 4)
    assert unit.mmio_read(0x1C, 4) & bit


def started(memory: FlatMemory, capabilities: Capabilities, *, mode: int = 0) -> WatchedUnit:
    unit = WatchedUnit(memory, capabilities)
    unit.mmio_write(0x20, ROOT | mode << 10, 8)
    command(unit, 1 << 30)
    return unit


def legacy(**capabilities: Any) -> WatchedUnit:
    """Device 00:04.0 in domain 1."""
    memory = FlatMemory(1 << 20)
    put(memory, ROOT, CONTEXTS | 1)
    put(memory, CONTEXTS + 16 * 0x20, TOP | 1, 1 << 8 | 1)
    second_stage(memory)
    return started(memory, Capabilities(**{"address_width": 39, "host_address_width": 39, **capabilities}))


def scalable(**capabilities: Any) -> WatchedUnit:
    """PASID 0 of device 00:04.0 has a second stage, PASID 1 a first stage with an empty table."""
    memory = FlatMemory(1 << 20)
    put(memory, ROOT, CONTEXTS | 1)
    put(memory, CONTEXTS + 32 * 0x20, DIRECTORY | 1)
    put(memory, DIRECTORY, PASIDS | 1)
    put(memory, PASIDS, TOP | 2 << 6 | 1 << 2 | 1, 1)
    put(memory, PASIDS + 64, 1 << 6 | 1, 1, FIRST)
    put(memory, FIRST, PAGES | 3)
    second_stage(memory)
    return started(memory, Capabilities.scalable(**{"address_width": 39, **capabilities}), mode=1)


@pytest.mark.parametrize("unit", [legacy(), scalable()], ids=["legacy", "scalable"])
def test_correct_tables(unit: WatchedUnit) -> None:
    assert table_problems(unit) == []
    assert_clean(unit)


@pytest.mark.parametrize(
    ("address", "bit", "line"),
    [
        (ROOT, 1, "root entry at 0x1000: reserved bits 0x2 (spec 9.1)"),
        (ROOT, 39, "root entry at 0x1000: reserved bits 0x8000000000 (CTP) (spec 9.1)"),
        (CONTEXTS + 0x200, 4, "context entry at 0x2200: reserved bits 0x10 (spec 9.3)"),
        (CONTEXTS + 0x208, 7, "context entry at 0x2200: reserved bits 0x800000000000000000 (spec 9.3)"),
        (CONTEXTS + 0x208, 1, f"context entry at 0x2200: AW=3{NOT_HERE} (spec 9.3)"),
        (
            CONTEXTS + 0x200,
            2,
            f"context entry at 0x2200: TT=WITH_DEVICE_TLB{NOT_HERE} (spec 9.3)",
        ),
        (TOP, 7, "second-stage entry, level 3 at 0x3000: reserved bits 0x4000 (spec 9.8)"),
        (MIDDLE, 50, "second-stage entry, level 2 at 0x4000: reserved bits 0x4000000000000 (ADDR) (spec 9.8)"),
        (BOTTOM + 40, 11, "second-stage entry, level 1 at 0x5028: reserved bits 0x800 (SNP) (spec 9.8)"),
    ],
)
def test_a_bit_of_a_legacy_table(address: int, bit: int, line: str) -> None:
    unit = legacy()
    unit.memory.write(address, (unit.memory.read_u64(address) ^ 1 << bit).to_bytes(8, "little"))
    assert table_problems(unit) == [line]
    with pytest.raises(AssertionError, match="tables: "):
        assert_clean(unit)


@pytest.mark.parametrize(
    ("address", "bit", "line"),
    [
        (ROOT, 1, "half root entry at 0x1000: reserved bits 0x2 (spec 9.2)"),
        (CONTEXTS + 0x400, 4, "context entry at 0x2400: reserved bits 0x10 (PRE) (spec 9.4)"),
        (DIRECTORY, 2, "PASID directory entry at 0x6000: reserved bits 0x4 (spec 9.5)"),
        (PASIDS + 8, 25, "PASID table entry at 0x7000: reserved bits 0x20000000000000000000000 (CD) (spec 9.6)"),
        (
            PASIDS,
            3,
            f"PASID table entry at 0x7000: PGTT=SECOND_STAGE, AW=3, FSPM=0{NOT_HERE} (spec 9.6)",
        ),
        (BOTTOM + 40, 62, "second-stage entry, level 1 at 0x5028: reserved bits 0x4000000000000000 (TM) (spec 9.8)"),
        (FIRST, 48, "first-stage entry, level 4 at 0x8000: reserved bits 0x1000000000000 (ADDR) (spec 9.7)"),
    ],
)
def test_a_bit_of_a_scalable_table(address: int, bit: int, line: str) -> None:
    unit = scalable()
    unit.memory.write(address, (unit.memory.read_u64(address) ^ 1 << bit).to_bytes(8, "little"))
    assert table_problems(unit) == [line]


def test_the_same_bits_with_their_capabilities() -> None:
    unit = legacy(snoop_control=True, host_address_width=40, device_tlb=True)
    put(unit.memory, BOTTOM + 40, 0x9000 | 1 << 11 | 3)  # type: ignore[arg-type]
    put(unit.memory, CONTEXTS + 0x200, TOP | 1 << 2 | 1)  # type: ignore[arg-type]
    assert table_problems(unit) == []


def test_pass_through_has_no_tables_below() -> None:
    unit = legacy()
    put(unit.memory, CONTEXTS + 0x200, 0xDEAD << 12 | 2 << 2 | 1)  # type: ignore[arg-type]
    assert table_problems(unit) == []


def test_a_nested_first_stage_is_at_guest_addresses() -> None:
    """Its table, 0xF0000, is not read; its second stage is."""
    unit = scalable()
    put(unit.memory, PASIDS, TOP | 3 << 6 | 1 << 2 | 1, 1, 0xF_FFFF_F000)  # type: ignore[arg-type]
    put(unit.memory, TOP, MIDDLE | 1 << 11 | 3)  # type: ignore[arg-type]
    assert table_problems(unit) == ["second-stage entry, level 3 at 0x3000: reserved bits 0x800 (spec 9.8)"]


def test_a_table_beyond_memory() -> None:
    unit = legacy()
    put(unit.memory, MIDDLE, 0x10_0000 | 3)  # type: ignore[arg-type]
    assert table_problems(unit) == [
        "second-stage entry, level 1: there is no memory at 0x100000, in the table at 0x100000"
    ]


def test_before_the_root_table_is_set_nothing_is_read() -> None:
    unit = WatchedUnit(FlatMemory(1 << 20))
    put(unit.memory, 0, 1 << 5 | 1)  # type: ignore[arg-type]
    assert table_problems(unit) == []


@pytest.mark.parametrize(
    ("low", "high", "line"),
    [
        (2 << 40 | 0x41 << 16 | 1, 1 << 18 | 0x20, ""),
        (2 << 40 | 0x41 << 16 | 1 << 12 | 1, 0, "reserved bits 0x1000 (spec 9.9)"),
        (2 << 32 | 0x41 << 16 | 1, 0, "reserved bits 0x200000000 (DST) (spec 9.9)"),
        (0x41 << 16 | 3 << 5 | 1, 0, "reserved bits 0x60 (DLM) (spec 9.9)"),
        (0x41 << 16 | 1, 3 << 18, f"reserved bits {3 << 82:#x} (SVT) (spec 9.9)"),
        (0x41 << 16 | 3 << 5, 0, ""),
    ],
)
def test_interrupt_entries(low: int, high: int, line: str) -> None:
    """A remapped entry for an xAPIC: the destination is in bits 47:40, the other bits of 63:32 are reserved."""
    memory = FlatMemory(1 << 20)
    unit = WatchedUnit(memory)
    unit.mmio_write(0xB8, INTERRUPTS | 7, 8)
    command(unit, 1 << 24)
    put(memory, INTERRUPTS + 16 * 9, low, high)
    assert table_problems(unit) == ([f"interrupt-remapping entry at 0x9090: {line}"] if line else [])
