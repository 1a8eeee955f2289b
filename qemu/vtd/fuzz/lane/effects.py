"""What the DMA of many cases does to memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu.vtd.fuzz.lane.areas import OWN, RAM_SIZE, SIZE, TABLES, Image, Places, Words
from qemu.vtd.fuzz.lane.judge import PATTERN

U64 = np.uint64
# Not RAM to the machine: where the display's memory and the firmware are.
_HOLE = 0xA0000, 0x100000


@dataclass
class Writes:
    """The writes of a batch's cases, in the order in which they are done.

    Attributes:
        hosts: where each ends.
        there: whether it ends in memory.
        inverts: it writes back the opposite of what is there; `blind` if the read before it was blocked.
        length: in bytes; a write does not leave its aligned word of memory.
    """

    hosts: Words
    there: NDArray[np.bool_]
    inverts: NDArray[np.bool_]
    blind: NDArray[np.bool_]
    length: int

    def harmful(self) -> NDArray[np.bool_]:
        """Which of them would change tables or what is ours, or end where the machine has no RAM."""
        found = np.zeros(len(self.hosts), np.bool_)
        for first, last in ((TABLES, TABLES + SIZE), (OWN, OWN + SIZE), _HOLE):
            found |= (self.hosts >= U64(first)) & (self.hosts < U64(last))
        return found & self.there

    @classmethod
    def expected(
        cls,
        hosts: Words,
        length: int,
        inverts: NDArray[np.bool_],
        blind: NDArray[np.bool_],
    ) -> Writes:
        """Of writes that end at these addresses, which are beyond memory for those that are blocked."""
        return cls(hosts, hosts <= U64(RAM_SIZE - length), inverts, blind, length)

    def apply(self, image: Image, first: int, last: int) -> None:
        """Do those from `first` to `last`."""
        rows = first + np.flatnonzero(self.there[first:last])
        if not len(rows):
            return
        places = self.places(rows)
        shifts = (self.hosts[rows] & U64(7)) << U64(3)
        masks = U64((1 << 8 * self.length) - 1) << shifts
        fill = np.where(self.inverts[rows], np.where(self.blind[rows], 0xFF, 0), PATTERN).astype(np.uint64)
        values = fill * U64(0x0101010101010101) & masks
        plain = self.inverts[rows] & ~self.blind[rows]
        order = np.argsort(places, kind="stable")
        again = places[order][1:] == places[order][:-1]
        if again.any():
            # Several writes to one word are done one after the other.
            for place, mask, value, inverts in zip(
                places.tolist(), masks.tolist(), values.tolist(), plain.tolist(), strict=True
            ):
                word = int(image.words[place])
                image.words[place] = word ^ mask if inverts else word & ~mask | value
        else:
            old = image.words[places]
            image.words[places] = np.where(plain, old ^ masks, old & ~masks | values)
        image.touched = np.concatenate((image.touched, places))

    def places(self, rows: Places) -> Places:
        """The words that these writes change."""
        return (self.hosts[rows] >> U64(3)).astype(np.int64)
