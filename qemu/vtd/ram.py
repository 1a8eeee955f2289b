"""A machine's RAM, of which most is never used: a memfd whose unused pages are holes.

Only the pages in use can hold anything but zeros, and the kernel names them in a few microseconds. So a write
anywhere in RAM is found without looking at all of it.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from iommu.memory import FlatMemory

_PAGE = mmap.PAGESIZE
_ZEROS = bytes(_PAGE)


class Change(NamedTuple):
    """An aligned 64-bit word of memory that has changed: its address, and its value before and after."""

    address: int
    before: int
    after: int


def in_use(descriptor: int, part: range) -> Iterator[range]:
    """What of a part of a file is not a hole, in order: only that can hold anything but zeros."""
    end = part.start
    while end < part.stop:
        try:
            first = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only holes are left
                return
            raise
        end = os.lseek(descriptor, first, os.SEEK_HOLE)
        if first < part.stop:
            yield range(first, min(end, part.stop))


class Ram:
    """RAM that is shared with QEMU.

    Args:
        descriptor: the memfd; a copy of it is kept, and the caller closes its own.
        size: in bytes.

    Attributes:
        memory: its contents.
        mapping: the same, as bytes that can be searched.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.mapping = mmap.mmap(descriptor, size)
        self._descriptor = os.dup(descriptor)
        self.memory = FlatMemory(self.mapping)

    def clear(self) -> None:
        """Make it all zero again, and give the pages in use back."""
        self.mapping.madvise(mmap.MADV_REMOVE)

    def give_back(self, part: range) -> None:
        """Make a part of it, whole pages, all zero again."""
        self.mapping.madvise(mmap.MADV_REMOVE, part.start, len(part))

    def in_use(self) -> list[range]:
        """The parts that are in use, in order. All others are zero, unless software writes them meanwhile."""
        return list(in_use(self._descriptor, range(self.memory.size)))

    def pages(self) -> dict[int, bytes]:
        """The contents of the pages in use, by address. All others are zero."""
        read = self.memory.read
        return {page: read(page, _PAGE) for each in self.in_use() for page in range(each.start, each.stop, _PAGE)}

    def changes_since(self, before: dict[int, bytes]) -> list[Change]:
        """The words that differ from those of an earlier `pages`, in the order of their addresses."""
        after = self.pages()
        if after == before:
            return []
        return [
            change
            for page in sorted(before | after)
            for change in _changes(page, before.get(page, _ZEROS), after.get(page, _ZEROS))
        ]

    @contextmanager
    def private(self) -> Iterator[FlatMemory]:
        """The memory, with writes that stay in this process. QEMU's are seen, except in pages written here."""
        with mmap.mmap(self._descriptor, self.memory.size, flags=mmap.MAP_PRIVATE) as mapping:
            copy = FlatMemory(mapping)
            try:
                yield copy
            finally:
                copy.release()

    def close(self) -> None:
        """Release the memory, whatever still refers to it."""
        self.memory.release()
        self.mapping.close()
        os.close(self._descriptor)


def _changes(page: int, before: bytes, after: bytes) -> Iterator[Change]:
    if before == after:
        return
    for number, (old, new) in enumerate(zip(_words(before), _words(after), strict=True)):
        if old != new:
            yield Change(page + 8 * number, old, new)


def _words(data: bytes) -> list[int]:
    if sys.byteorder == "little":
        return memoryview(data).cast("Q").tolist()
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
