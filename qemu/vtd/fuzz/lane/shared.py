"""The guest's memory: filled for a batch, and compared as a whole after it."""

from __future__ import annotations

import numpy as np

from qemu.vtd.fuzz.lane.areas import (
    DATA,
    DATA_PAGES,
    MAILBOX,
    OWN,
    PAGE,
    RAM_SIZE,
    SCRIPT,
    SHARED_ROOT,
    SIZE,
    TABLES,
    Image,
    Places,
    Words,
)
from qemu.vtd.ram import Ram

_MAILBOX_WORDS = 8
"""Of the mailbox, and likewise of the entry in the shared root table."""
_UNUSED = (
    range(TABLES),
    range(TABLES + SIZE, DATA),
    range(DATA + DATA_PAGES * PAGE, OWN),
    range(OWN + SIZE, RAM_SIZE),
)


class SharedRam:
    """The memory that a batch runs in.

    Attributes:
        words: its contents.
    """

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self.words: Words = np.frombuffer(ram.mapping, "<u8")
        self._image: Places = np.empty(0, np.int64)
        self._script = 0

    def load(self, image: Image, script: Words) -> None:
        """Make it equal to an image and a script, after `differing` has found it equal to others, or `clear`."""
        self.words[self._image] = 0
        self.words[SCRIPT // 8 + len(script) : SCRIPT // 8 + self._script] = 0
        self.words[SCRIPT // 8 : SCRIPT // 8 + len(script)] = script
        self._script = len(script)
        # What was read where nothing is takes room now, and would be compared each time.
        for part in _UNUSED:
            self._ram.give_back(part)
        self.words[image.touched] = image.words[image.touched]
        self._image = image.touched

    def clear(self) -> None:
        """Make it all 0, except the mailbox."""
        for part in (range(OWN), range(MAILBOX + PAGE, RAM_SIZE)):
            self._ram.give_back(part)
        self.words[MAILBOX // 8 + _MAILBOX_WORDS : (MAILBOX + PAGE) // 8] = 0
        self._image, self._script = self._image[:0], 0

    def differing(self, image: Image, script: Words) -> Places:
        """The words that differ from an image, anywhere. Of what is ours, the script is compared with this one."""
        own = range(OWN // 8, (OWN + SIZE) // 8)
        expected = image.words
        expected[SCRIPT // 8 : SCRIPT // 8 + len(script)] = script
        for ours in (MAILBOX // 8, SHARED_ROOT // 8):
            expected[ours : ours + _MAILBOX_WORDS] = self.words[ours : ours + _MAILBOX_WORDS]
        found = []
        for part in self._ram.in_use():
            words = slice(part.start // 8, part.stop // 8)
            if not np.array_equal(self.words[words], expected[words]):
                found.append(words.start + np.flatnonzero(self.words[words] != expected[words]))
        # What is not in use is zero. It must be in the image too.
        places = image.touched
        found.append(places[self.words[places] != expected[places]])
        self._image = places
        expected[own.start : SCRIPT // 8 + len(script)] = 0
        return np.unique(np.concatenate(found))

    def release(self) -> None:
        """Let go of the memory."""
        self.words = np.empty(0, np.uint64)
