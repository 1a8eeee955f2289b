"""Memory as whole arrays read it: many quadwords in one call. Each kind of memory is read as it is at that moment."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np

from iommu.batch.arrays import Bools, Int64
from iommu.batch.marks import Marks
from iommu.errors import MemoryAccessError
from iommu.memory import FlatMemory, Memory

_PAGE = 1 << 12
_WORDS = _PAGE // 8
_KEPT = 1024
"""How many pages of a memory that is not flat are kept during one call."""


class Words(Protocol):
    """Reads quadwords, which are numbered: address >> 3.

    Attributes:
        writable: whether table entries can be updated. Of a memory that is not flat this is not known beforehand, and
            taken for granted.
        marks: if given, the accessed and dirty bits that are to be set are put there.
    """

    writable: bool
    marks: Marks | None

    def take(self, numbers: Int64) -> tuple[Int64, Bools | None]:
        """These quadwords, and which of them could be read; None if all of them. The others are 0."""
        ...

    def rows(self, numbers: Int64, count: int) -> tuple[Int64, Bools | None]:
        """For each number, `count` quadwords from there on, as a row; and which rows could be read, or None."""
        ...


def words_of(memory: Memory) -> Words:
    """How to read a memory."""
    kind = type(memory)
    if isinstance(memory, FlatMemory) and kind.read is FlatMemory.read and kind.read_u64 is FlatMemory.read_u64:
        return FlatWords(memory)
    return PagedWords(memory)


class FlatWords:
    """Reads a flat memory in place."""

    def __init__(self, memory: FlatMemory) -> None:
        view = memory.view
        self.marks: Marks | None = None
        self._words: Int64 = np.frombuffer(view, "<i8")
        self.writable = not view.readonly

    def take(self, numbers: Int64) -> tuple[Int64, Bools | None]:
        """See Words."""
        if not numbers.size or numbers.max() < len(self._words):
            return self._words.take(numbers, mode="clip"), None
        readable = numbers < len(self._words)
        return np.where(readable, self._words.take(numbers, mode="clip"), 0), readable

    def rows(self, numbers: Int64, count: int) -> tuple[Int64, Bools | None]:
        """See Words."""
        if len(numbers) == 1 and numbers[0] <= len(self._words) - count:
            return self._words[numbers[0] : numbers[0] + count][None], None
        readable = numbers <= len(self._words) - count
        if readable.all():
            return self._words.take(numbers[:, None] + np.arange(count)), None
        found = np.zeros((len(numbers), count), np.int64)
        found[readable] = self._words.take(numbers[readable][:, None] + np.arange(count))
        return found, readable


class PagedWords:
    """Reads any memory a page at a time, and keeps some of the pages for as long as this object lives."""

    writable = True

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.marks: Marks | None = None
        self._pages: dict[int, Int64 | None] = {}

    def take(self, numbers: Int64) -> tuple[Int64, Bools | None]:
        """See Words."""
        found, readable = np.zeros(len(numbers), np.int64), np.ones(len(numbers), np.bool_)
        order = np.argsort(numbers, kind="stable")
        pages = numbers[order] // _WORDS
        starts = np.flatnonzero(np.diff(pages, prepend=-1)).tolist()
        for first, last in pairwise([*starts, len(numbers)]):
            rows = order[first:last]
            page = self._page(int(pages[first]))
            if page is not None:
                found[rows] = page[numbers[rows] % _WORDS]
                continue
            for row in rows.tolist():
                try:
                    found[row] = np.uint64(self._memory.read_u64(int(numbers[row]) * 8)).astype(np.int64)
                except MemoryAccessError:
                    readable[row] = False
        return found, None if readable.all() else readable

    def rows(self, numbers: Int64, count: int) -> tuple[Int64, Bools | None]:
        """See Words."""
        found, readable = self.take((numbers[:, None] + np.arange(count)).ravel())
        found = found.reshape(-1, count)
        return found, None if readable is None else np.logical_and.reduce(readable.reshape(-1, count), axis=1)

    def _page(self, number: int) -> Int64 | None:
        """A page; None if it is not all memory."""
        if number not in self._pages:
            if len(self._pages) == _KEPT:
                self._pages.clear()
            try:
                self._pages[number] = np.frombuffer(self._memory.read(number * _PAGE, _PAGE), "<i8")
            except MemoryAccessError:
                self._pages[number] = None
        return self._pages[number]
