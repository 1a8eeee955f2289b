"""Where things are in the guest's memory.

The areas are so numbered that the addresses of two of them differ in more than one bit: an address that was to point
into one, and has a bit flipped, never points into another. The first MiB, of which a part is not RAM, counts as one.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from iommu.files.mapped import NO_RESERVE
from iommu.memory import FlatMemory

MIB = 1 << 20
RAM_SIZE = 256 * MIB
SIZE = 32 * MIB
"""Of an area; its number is in bits 27:25 of the address."""

TABLES = 0b011 * SIZE
"""The tables of all cases."""
DATA = 0b101 * SIZE
"""The pages that devices write, DATA_PAGES of them."""
DATA_PAGES = 1024
OWN = 0b110 * SIZE
"""What is ours: the mailbox, the shared root table, the script."""
MAILBOX, SHARED_ROOT, SCRIPT = OWN, OWN + 0x1000, OWN + 0x2000
SCRIPT_SIZE = SIZE - 0x2000

PAGE = 4096
WORDS = PAGE // 8
"""64-bit words in a page."""

Words = NDArray[np.uint64]
Places = NDArray[np.int64]
"""Positions of 64-bit words in memory."""


class Image:
    """A copy of the guest's memory, for what it holds at the start of a batch and is expected to hold at its end.

    Attributes:
        words: its contents.
        memory: the same, as the engine reads it.
        touched: the words that are not 0.
    """

    def __init__(self) -> None:
        pages = mmap.mmap(-1, RAM_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        self.words: Words = np.frombuffer(pages, "<u8")
        self.memory = FlatMemory(pages)
        self.touched: Places = np.empty(0, np.int64)

    def clear(self) -> None:
        """Make it all 0 again."""
        self.words[self.touched] = 0
        self.touched = self.touched[:0]

    def put(self, places: Places, values: Words) -> None:
        """Store words."""
        self.words[places] = values
        self.touched = np.concatenate((self.touched, places))
