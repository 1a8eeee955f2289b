"""Every DMA source, with translation off."""

import pytest

from iommu.errors import MisuseError
from qemu.vtd import Machine
from qemu.vtd.devices import DmaSource, Edu, IommuTestdev, Rocker, SynchronousSource
from qemu.vtd.errors import DeviceError

CLEAR = 0xEE


@pytest.fixture(params=["edu.4.0", "rocker.5.0", "rocker.5.1", "iommu-testdev.6.0"])
def source(machine: Machine, request: pytest.FixtureRequest) -> DmaSource:
    for device in machine.devices:
        if isinstance(device, DmaSource) and device.name == request.param:
            return device
    pytest.skip(f"QEMU {machine.version} has no {request.param}")


@pytest.mark.parametrize("length", [1, 3, 4, 8, 64, 1000])
@pytest.mark.parametrize("address", [0x3000, 0x3FFD, 0x1F00000])
def test_a_write_arrives_and_nothing_else_changes(
    machine: Machine, source: DmaSource, address: int, length: int
) -> None:
    machine.memory.write(address - 16, bytes([CLEAR]) * (length + 32))
    source.dma_write(address, length)
    around = bytes([CLEAR]) * 16
    assert machine.memory.read(address - 16, length + 32) == around + source.pattern(length) + around


def test_the_pattern_never_contains_zero(source: DmaSource) -> None:
    pattern = source.pattern(source.longest)
    assert len(pattern) == source.longest
    assert 0 not in pattern
    assert source.pattern(7) == pattern[:7]


def test_the_longest_write(machine: Machine, source: DmaSource) -> None:
    source.dma_write(0x10000, source.longest)
    assert machine.memory.read(0x10000, source.longest) == source.pattern(source.longest)


def test_unsupported_lengths_are_refused(source: DmaSource) -> None:
    for length in (0, -1, source.longest + 1):
        with pytest.raises(MisuseError, match="bytes at a time"):
            source.dma_write(0x1000, length)


def test_a_write_where_there_is_no_memory(source: DmaSource) -> None:
    source.dma_write(0xFFFFFFFFFFFFF000, 8)
    source.dma_write(1 << 40, 8)


def test_its_source_id(machine: Machine, source: DmaSource) -> None:
    assert machine.pci.read(source.source_id, 0, 4) not in (0, 0xFFFFFFFF)
    assert source.source_id == source.slot << 3 | source.function


def test_writes_can_be_queued(machine: Machine, source: DmaSource) -> None:
    if not isinstance(source, SynchronousSource):
        pytest.skip("its writes are not synchronous")
    with machine.qtest.pipeline() as pipeline:
        for page in range(1, 100):
            source.queue_write(pipeline, page << 12, 8)
    assert all(machine.memory.read(page << 12, 8) == source.pattern(8) for page in range(1, 100))


def test_reading_with_a_write_only_source_is_refused(source: DmaSource) -> None:
    if not source.reads:
        with pytest.raises(MisuseError, match="cannot read"):
            source.dma_read(0x1000, 8)


@pytest.mark.parametrize("kind", [Edu, Rocker, IommuTestdev])
def test_a_source_that_is_not_plugged_in(kind: type[DmaSource]) -> None:
    with pytest.raises(DeviceError, match="not part of a running machine"):
        kind(4).dma_write(0x1000, 8)
    with pytest.raises(MisuseError, match="no such PCI function"):
        kind(32)
