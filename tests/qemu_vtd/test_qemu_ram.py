"""RAM: what has changed is found wherever it is, and clearing gives the pages back."""

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qemu.vtd.launch import MIB, sealed_memory
from qemu.vtd.ram import Change, Ram, in_use

SIZE = 4 * MIB


@pytest.fixture
def ram() -> Iterator[Ram]:
    with ExitStack() as owner:
        ram = Ram(sealed_memory("test", SIZE, owner), SIZE)
    yield ram
    ram.close()


def test_only_pages_in_use_are_listed(ram: Ram) -> None:
    assert ram.pages() == {}
    ram.memory.write(0x5008, b"\x01")
    assert list(ram.pages()) == [0x5000]
    assert ram.pages()[0x5000][8] == 1


@pytest.mark.parametrize("address", [0, 0x5000, 0x5FF8, SIZE - 8])
@pytest.mark.parametrize("used", [False, True], ids=["hole", "in use"])
def test_a_change_is_found_anywhere(ram: Ram, address: int, used: bool) -> None:
    if used:
        ram.memory.write_u64(address, 7)
    before = ram.pages()
    assert ram.changes_since(before) == []
    ram.memory.write_u64(address, 9)
    assert ram.changes_since(before) == [Change(address, 7 if used else 0, 9)]


def test_a_page_that_was_only_read_is_looked_at_too(ram: Ram) -> None:
    """Reading a hole through the mapping takes it into use: a write there adds no page."""
    assert ram.memory.read_u64(0x9000) == 0
    before = ram.pages()
    ram.memory.write_u64(0x9000, 1)
    assert ram.changes_since(before) == [Change(0x9000, 0, 1)]


def test_changes_are_in_the_order_of_their_addresses(ram: Ram) -> None:
    ram.memory.write_u64(0x8000, 1)
    before = ram.pages()
    for address in (0x20000, 0x8010, 0x1000):
        ram.memory.write_u64(address, 2)
    assert [change.address for change in ram.changes_since(before)] == [0x1000, 0x8010, 0x20000]


def test_clearing(ram: Ram) -> None:
    ram.memory.write(0, os.urandom(0x10000))
    before = ram.pages()
    ram.clear()
    assert ram.pages() == {}
    assert ram.memory.read(0, 0x10000) == bytes(0x10000)
    assert ram.changes_since(before)


def test_what_of_a_part_of_a_file_is_in_use() -> None:
    page = mmap.PAGESIZE
    descriptor = os.memfd_create("sparse")
    try:
        os.truncate(descriptor, 10 * page)
        for first, count in ((1, 3), (6, 1)):
            os.pwrite(descriptor, b"x" * count * page, first * page)
        assert list(in_use(descriptor, range(10 * page))) == [range(page, 4 * page), range(6 * page, 7 * page)]
        assert list(in_use(descriptor, range(2 * page, 3 * page))) == [range(2 * page, 3 * page)]
        assert list(in_use(descriptor, range(4 * page, 6 * page))) == []
        assert list(in_use(descriptor, range(7 * page, 10 * page))) == []
    finally:
        os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        list(in_use(descriptor, range(page)))
