"""Runs: addresses in a row that lead to host addresses in a row, as columns of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Numbers = NDArray[Any]


_BLOCK = 1 << 16  # runs at a time: what is computed of them stays in the processor's caches

_FEW = 64


class Runs(NamedTuple):
    """Runs in order of their first addresses; no two overlap.

    Attributes:
        starts: the first address of each.
        sizes: in bytes.
        hosts: the host address of the first byte; the others follow.
        kinds: a number that says what else is known of each.
    """

    starts: U64
    sizes: U64
    hosts: U64
    kinds: Numbers

    @classmethod
    def none(cls) -> Self:
        """No runs."""
        empty = np.zeros(0, np.uint64)
        return cls(empty, empty, empty, np.zeros(0, np.int32))

    @classmethod
    def merged(cls, several: list[Runs]) -> Self:
        """The runs of several, which do not overlap either."""
        several = [each for each in several if len(each.starts)]
        if not several:
            return cls.none()
        if len(several) == 1:
            return cls(*several[0])
        whole = cls(*(np.concatenate(column) for column in zip(*several, strict=True)))
        # Each part is in order already: a stable sort only merges them.
        return whole.at(np.argsort(whole.starts, kind="stable"))

    def at(self, which: Any) -> Self:
        """Some of the runs, in this order: by number, by a mask, or a slice."""
        return type(self)(*(column[which] for column in self))

    def joined(self) -> Self:
        """Neighbours of one kind that continue each other, in address and host address, made one."""
        if len(self.starts) < 2:
            return self
        goes_on = np.zeros(len(self.starts), np.bool_)
        for at in range(0, len(self.starts) - 1, _BLOCK):
            goes_on[at + 1 : at + _BLOCK + 1] = self.at(slice(at, at + _BLOCK + 1))._continue()
        if not goes_on.any():
            return self
        first = np.flatnonzero(~goes_on)
        return self.at(first)._replace(sizes=np.add.reduceat(self.sizes, first))

    def _continue(self) -> NDArray[np.bool_]:
        """Whether each but the first continues the one before it."""
        before = slice(None, -1)
        found: NDArray[np.bool_] = self.starts[1:] == self.starts[before] + self.sizes[before]
        found &= self.hosts[1:] == self.hosts[before] + self.sizes[before]
        found &= self.kinds[1:] == self.kinds[before]
        # What ends with the last of 2**64 addresses goes on nowhere, although 0 follows.
        found &= self.starts[1:] != 0
        return found

    def split(self, offsets: U64) -> Self:
        """The runs, each cut in two after so many bytes; those with offset 0 stay whole."""
        parts = 1 + (offsets != 0)
        if not len(parts) or parts.max() == 1:
            return self
        which = np.repeat(np.arange(len(offsets)), parts)
        second = np.concatenate(([False], which[1:] == which[:-1]))
        found, cut = self.at(which), offsets[which]
        sizes = np.where(second, found.sizes - cut, np.where(cut != 0, cut, found.sizes))
        moved = np.where(second, cut, np.uint64(0))
        return type(self)(found.starts + moved, sizes, found.hosts + moved, found.kinds)

    def cut_at(self, border: int, *, hosts: bool) -> Self:
        """The runs, cut where they pass an address, or a host address."""
        begins = self.hosts if hosts else self.starts
        offsets = np.uint64(border) - begins
        passed = (begins < border) & (offsets < self.sizes)
        return self.split(np.where(passed, offsets, np.uint64(0)))

    def overlap(self, wanted: range, *, hosts: bool) -> NDArray[np.bool_]:
        """Which of the runs have an address, or a host address, in a range."""
        begins, found = self.hosts if hosts else self.starts, np.empty(len(self.starts), np.bool_)
        first, last = np.uint64(wanted.start), np.uint64(wanted.stop - 1)
        for at in range(0, len(found), _BLOCK):
            block = slice(at, at + _BLOCK)
            begin = begins[block]
            found[block] = (begin <= last) & (begin + (self.sizes[block] - np.uint64(1)) >= first)
        return found

    def without(self, which: NDArray[np.bool_]) -> Self:
        """The runs without some of them."""
        left_out = np.flatnonzero(which)
        if not len(left_out):
            return self
        if len(left_out) > _FEW:
            return self.at(np.flatnonzero(~which))
        ends = [*left_out.tolist(), len(which)]
        pieces = [self.at(slice(first, end)) for first, end in zip([0, *(left_out + 1).tolist()], ends, strict=True)]
        return type(self)(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def expanded(firsts: Numbers, counts: Numbers) -> tuple[Numbers, Numbers]:
    """Ranges of numbers, one behind the other: from each of `firsts`, so many as `counts` says.

    Returns which range each number is of, and the numbers.
    """
    which = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return which, np.arange(len(which)) + np.repeat(firsts - before, counts)


def through(first: Runs, second: Runs, most: int | None = None) -> tuple[Runs, Numbers, bool]:
    """The runs of two stages, one behind the other: where what `first` leads to goes on in `second`.

    Returns them with the kinds of the first, the kinds of the second, and whether they are more than `most`, and cut.
    """
    if not len(first.starts) or not len(second.starts):
        return Runs.none(), np.zeros(0, np.int32), False
    last = first.hosts + (first.sizes - np.uint64(1))
    low = np.searchsorted(second.starts, first.hosts, side="right") - 1
    low = np.maximum(low, 0)
    missed = second.starts[low] + (second.sizes[low] - np.uint64(1)) < first.hosts
    low = low + missed
    counts = np.maximum(np.searchsorted(second.starts, last, side="right") - low, 0)
    cut = most is not None and int(counts.sum()) > most
    if cut:
        counts = np.where(np.cumsum(counts) <= most, counts, 0)
    which, number = expanded(low, counts)
    one, other = first.at(which), second.at(number)
    end = np.minimum(last[which], other.starts + (other.sizes - np.uint64(1)))
    begin: U64 = np.maximum(one.hosts, other.starts)
    sizes: U64 = end - begin + np.uint64(1)
    starts, hosts = one.starts + (begin - one.hosts), other.hosts + (begin - other.starts)
    return Runs(starts, sizes, hosts, one.kinds), other.kinds, cut
