"""memory.py: bounds, byte order, and the buffers it works over."""

import mmap

import pytest

from iommu.errors import MemoryAccessError, MisuseError
from iommu.memory import FlatMemory


@pytest.mark.parametrize("source", [0x2000, bytearray(0x2000), memoryview(bytearray(0x2000)), mmap.mmap(-1, 0x2000)])
def test_numbers_are_little_endian(source: int | bytearray | memoryview | mmap.mmap) -> None:
    memory = FlatMemory(source)
    memory.write(0x10, bytes(range(1, 9)))
    assert memory.read_u64(0x10) == 0x0807060504030201
    assert memory.read_u32(0x14) == 0x08070605
    memory.write_u64(0x1FF8, 0x1122334455667788)
    memory.write_u32(0x1FF8, 0xAABBCCDD)
    assert memory.read(0x1FF8, 8) == bytes.fromhex("ddccbbaa44332211")


def test_an_existing_buffer_is_used_in_place() -> None:
    buffer = bytearray(64)
    FlatMemory(buffer).write_u64(8, 0xFF)
    assert buffer[8] == 0xFF


@pytest.mark.parametrize(("address", "length"), [(0x1000, 1), (0xFFF, 2), (0xFF9, 8), (-8, 8), (1 << 60, 8), (0, -1)])
def test_an_access_beyond_the_end_names_its_address(address: int, length: int) -> None:
    memory = FlatMemory(0x1000)
    with pytest.raises(MemoryAccessError) as caught:
        memory.read(address, length)
    assert (caught.value.address, caught.value.length) == (address, length)


def test_a_write_that_does_not_fit_writes_nothing() -> None:
    memory = FlatMemory(0x1000)
    with pytest.raises(MemoryAccessError):
        memory.write(0xFFC, b"\xff" * 8)
    assert memory.read(0xFFC, 4) == bytes(4)
    with pytest.raises(MemoryAccessError):
        memory.read_u64(0xFFC)


def test_untouched_memory_takes_no_space() -> None:
    memory = FlatMemory(1 << 40)
    memory.write_u64((1 << 40) - 8, 7)
    assert memory.read_u64((1 << 40) - 8) == 7


@pytest.mark.parametrize("size", [0, -8, 12])
def test_a_size_that_is_not_a_multiple_of_8_is_refused(size: int) -> None:
    with pytest.raises(MisuseError):
        FlatMemory(size)
