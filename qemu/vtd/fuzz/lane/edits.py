"""Changes to one word of a table entry, drawn from the declaration of the entry: bits, fields, addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iommu.engine.entry_format import PagingFormat, Rules
from iommu.fields import Layout
from qemu.vtd.fuzz.lane.areas import PAGE, RAM_SIZE, Words

_ALL = (1 << 64) - 1
_NARROW = 4
"""Fields of up to so many bits take each of their values."""

Edit = tuple[int, int, int]
"""The number of a word in the entry, the bits that stay, the bits that change afterwards."""

# How often each group of edits is drawn: any bit, a reserved one, a value of a narrow field, one of a wide field, and
# an entry that is all ones, which QEMU does not tell from an unreadable one.
_WEIGHTS = (0.3, 0.2, 0.345, 0.15, 0.005)


def edits_of(layout: type[Layout], reserved: int, width: int) -> list[list[Edit]]:
    """The edits of an entry of this kind, in groups as `_WEIGHTS` has them.

    Args:
        reserved: the bits that must be 0.
        width: bits of a host address.
    """
    groups: list[list[Edit]] = [[_flip(bit) for bit in range(layout.bits)]]
    groups.append([_flip(bit) for bit in range(layout.bits) if reserved >> bit & 1])
    narrow, wide = [], []
    for part in layout.fields.values():
        word, low = divmod(part.lsb, 64)
        mask = part.mask >> 64 * word
        if part.ignored:
            continue
        if part.width <= _NARROW:
            narrow += [(word, _ALL & ~mask, value << low) for value in range(1 << part.width)]
        else:
            wide += [(word, _ALL & ~mask, value & mask) for value in _edges(mask, width, is_address=bool(part.shift))]
    return [*groups, narrow, wide]


def edits_of_page(entry_format: PagingFormat, rules: Rules, width: int) -> list[list[Edit]]:
    """The same for a paging entry, one that points to a table or one that maps a page."""
    *groups, wide = edits_of(rules.layout, rules.reserved, width)
    wide.append((0, 0, 0))
    if rules is entry_format.page:
        # A page for interrupts.
        wide.append((0, 0xFFF, 0xFEE00000 & -entry_format.page_size))
    return [*groups, wide, [(0, 0, _ALL)]]


def flips(layout: type[Layout], chosen: int, word: int) -> list[Edit]:
    """Flips of the chosen bits of an entry, in this word of a larger one."""
    return [(word, _ALL, 1 << bit) for bit in range(layout.bits) if chosen >> bit & 1]


def without(edits: list[Edit], bits: int) -> list[Edit]:
    """Those that leave these bits of the first word alone."""
    return [(word, kept, changed) for word, kept, changed in edits if word or not (~kept | changed) & bits]


def _flip(bit: int) -> Edit:
    return bit // 64, _ALL, 1 << bit % 64


def _edges(mask: int, width: int, *, is_address: bool) -> Iterator[int]:
    """Values of a wide field, in its place."""
    yield 0
    yield mask
    yield mask & -mask
    if is_address:
        yield from (RAM_SIZE - PAGE, RAM_SIZE, (1 << width) - PAGE, 1 << width)


@dataclass(frozen=True)
class Deck:
    """Kinds of entries with their edits, to draw from for many cases at once.

    Attributes:
        words, kept, changed: of all edits, those of a kind next to each other.
    """

    words: NDArray[np.int64]
    kept: Words
    changed: Words
    _limits: NDArray[np.float64]

    @classmethod
    def of(cls, kinds: Iterable[Sequence[Sequence[Edit]]]) -> Deck:
        """Of groups of edits, for each kind; a group that is empty is never drawn."""
        edits: list[Edit] = []
        limits: list[float] = []
        for kind, groups in enumerate(kinds):
            there = [(weight, group) for weight, group in zip(_WEIGHTS, groups, strict=False) if group]
            whole = sum(weight for weight, _ in there)
            weights = [weight / whole / len(group) for weight, group in there for _ in group]
            edits += [edit for _, group in there for edit in group]
            limits += list(kind + np.minimum(np.cumsum(weights), 1))
            limits[-1] = kind + 1
        words, kept, changed = zip(*edits, strict=True)
        return cls(np.array(words), np.array(kept, np.uint64), np.array(changed, np.uint64), np.array(limits))

    def draw(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """An edit for each of these kinds."""
        return np.searchsorted(self._limits, kinds + rng.random(len(kinds)), side="right")
