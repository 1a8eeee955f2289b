"""Large files are mapped, not read, and searched only where they have data."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Self

_CHUNK = 64 << 20
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python names only from 3.13 on: pages are allocated when touched."""


class Mapped(mmap.mmap):
    """A file in memory that can be sliced like bytes.

    Attributes:
        data: the offsets at which the file has data, in order. Everywhere else is a hole, which reads as zeroes.
        private: whether it can be written to; what is written stays in this process.
    """

    data: Sequence[range]
    private: bool

    @classmethod
    def of(cls, descriptor: int, *, private: bool = False) -> Self:
        """A whole file, which must not be empty. Raises OSError."""
        size = os.fstat(descriptor).st_size
        flags = mmap.MAP_PRIVATE | NO_RESERVE if private else mmap.MAP_SHARED
        mapped = cls(descriptor, size, flags=flags, prot=mmap.PROT_READ | (mmap.PROT_WRITE if private else 0))
        mapped.data, mapped.private = list(extents(descriptor, size)), private
        return mapped

    def seekable(self) -> bool:
        """For what reads it like a file. (From Python 3.13 on, every mapping has this.)"""
        return True

    def find(self, sub: bytes, start: int = 0, stop: int | None = None) -> int:  # type: ignore[override]
        """The first place of `sub`, which does not begin with a zero, from `start` on; -1 without one.

        Holes are passed over, and pages that have been searched do not stay in memory.
        """
        end = len(self) if stop is None else stop
        for extent in self.data:
            for begin in range(extent.start, extent.stop, _CHUNK):
                finish = min(begin + _CHUNK, extent.stop)
                if finish <= start or begin >= end:
                    continue
                found = super().find(sub, max(begin, start), min(finish + len(sub) - 1, end))
                if found >= 0:
                    return found
                if not self.private:
                    self.madvise(mmap.MADV_DONTNEED, begin & -mmap.PAGESIZE, finish - (begin & -mmap.PAGESIZE))
        return -1


def data_in(view: memoryview) -> Sequence[range]:
    """The offsets in a whole file that can hold anything but zeroes."""
    return view.obj.data if isinstance(view.obj, Mapped) and len(view.obj) == len(view) else [range(len(view))]


def extents(descriptor: int, size: int) -> Iterator[range]:
    """Where a file of some size has data; all of it where the file system cannot tell."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # there is no data behind this place
                yield range(at, size)
            return
        yield range(begin, min(end, size))
        at = end
