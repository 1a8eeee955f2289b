"""Sets of host addresses: what is reached, whichever way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np

from iommu.batch.reach import WRITE, Reachable
from iommu.batch.reach_runs import U64
from iommu.batch.reach_tables import ALL


class Hosts(NamedTuple):
    """Host addresses, as the first and the last of each range; the ranges are in order and do not touch."""

    firsts: U64
    lasts: U64

    @classmethod
    def of(cls, firsts: U64, lasts: U64) -> Self:
        """Those of ranges that may overlap, in any order."""
        if not len(firsts):
            return cls(firsts, lasts)
        order = np.argsort(firsts, kind="stable")
        firsts, ends = firsts[order], np.maximum.accumulate(lasts[order])
        apart = firsts[1:] > ends[:-1]
        apart &= firsts[1:] - ends[:-1] > 1
        begins = np.concatenate(([True], apart))
        return cls(firsts[begins], ends[np.concatenate((apart, [True]))])

    @classmethod
    def reached(cls, found: Reachable, *, writable: bool = False) -> Self:
        """What is reached; with `writable` only what can be written."""
        starts, sizes = found.hosts, found.sizes
        if writable:
            which = (found.rights & WRITE) != 0
            starts, sizes = starts[which], sizes[which]
        return cls.of(starts, starts + (sizes - np.uint64(1)))

    @classmethod
    def of_ranges(cls, ranges: Iterable[range]) -> Self:
        """Those of ranges that are not empty."""
        each = [(one.start, one.stop - 1) for one in ranges if one.stop > one.start]
        firsts, lasts = zip(*each, strict=True) if each else ((), ())
        return cls.of(np.array(firsts, np.uint64), np.array(lasts, np.uint64))

    @classmethod
    def united(cls, several: Sequence[Hosts]) -> Self:
        """Those that are in any of them."""
        if not several:
            return cls.of_ranges(())
        return cls.of(*(np.concatenate(column) for column in zip(*several, strict=True)))

    @classmethod
    def in_two(cls, several: Sequence[Hosts]) -> Self:
        """Those that are in at least two of them."""
        firsts, lasts = (np.sort(np.concatenate(column)) for column in zip(*several, strict=True))
        # How many there are changes only where one begins, and behind where one ends.
        points = np.concatenate((firsts, lasts[lasts != np.uint64(ALL - 1)] + np.uint64(1)))
        ended = np.searchsorted(lasts, points, side="left")
        twice = np.searchsorted(firsts, points, side="right") - ended >= 2
        return cls.of(points[twice], lasts[ended[twice]])

    def __bool__(self) -> bool:
        return len(self.firsts) > 0

    @property
    def size(self) -> int:
        """In bytes."""
        sizes = self.lasts - self.firsts
        return int((sizes >> np.uint64(1)).sum()) * 2 + int((sizes & np.uint64(1)).sum()) + len(sizes)

    def one(self, at: int) -> range:
        """One of the ranges."""
        return range(int(self.firsts[at]), int(self.lasts[at]) + 1)

    def ranges(self, most: int | None = None) -> list[range]:
        """The ranges, the first `most` of them."""
        return [self.one(at) for at in range(len(self.firsts[:most]))]

    def within(self, others: Hosts) -> Hosts:
        """Those that are in the others too."""
        if not self or not others:
            return Hosts.of_ranges(())
        low = np.searchsorted(others.lasts, self.firsts, side="left")
        counts = np.maximum(np.searchsorted(others.firsts, self.lasts, side="right") - low, 0)
        which = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(which)) + np.repeat(low - (np.cumsum(counts) - counts), counts)
        firsts = np.maximum(self.firsts[which], others.firsts[number])
        return Hosts(firsts, np.minimum(self.lasts[which], others.lasts[number]))

    def outside(self, others: Hosts) -> Hosts:
        """Those that are not in the others."""
        return self.within(others.complement())

    def complement(self) -> Hosts:
        """All other 64-bit addresses."""
        everything = np.uint64(0), np.uint64(ALL - 1)
        if not self:
            return Hosts(np.array([everything[0]]), np.array([everything[1]]))
        firsts = np.append(everything[0], self.lasts + np.uint64(1))
        lasts = np.append(self.firsts - np.uint64(1), everything[1])
        lasting = np.ones(len(firsts), np.bool_)
        lasting[0], lasting[-1] = self.firsts[0] != 0, self.lasts[-1] != everything[1]
        return Hosts(firsts[lasting], lasts[lasting])
