"""Random worlds: for each case a root table, the tables below it, and one DMA, all changed here and there.

A world is a row of words: those of its entries from the root down, the address of the DMA, and the root pointer. All
worlds of a batch are made at once, from the batch's random numbers alone. Their entries lie between each other in the
same pages, and no two at the same place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iommu.engine.entry_format import PagingFormats
from iommu.engine.request import INTERRUPT_RANGE
from qemu.vtd.fuzz.lane.areas import DATA, DATA_PAGES, PAGE, TABLES, WORDS, Places, Words
from qemu.vtd.fuzz.lane.edits import Deck, Edit, edits_of_page

_PAGE_BITS, _INDEX_BITS = 12, 9
LEAVES = (0.6, 0.25, 0.15)
"""How often a page has 4 KiB, 2 MiB, 1 GiB."""
EDITS = (0.2, 0.55, 0.25)
"""How often a world has none, one or two changes."""
INVERTING = 1 / 16
"""How often the device reads and writes back."""
U64 = np.uint64


@dataclass(frozen=True)
class Upper:
    """A table above the paging tables, in which a world has one entry.

    Attributes:
        name: shown to users.
        size: the entry's 64-bit words.
        pointer: which of them points to the next table.
        edits: what may be changed in it.
    """

    name: str
    size: int
    pointer: int
    edits: Sequence[Sequence[Edit]]


class Mode(ABC):
    """The kind of worlds: what the tables above the paging tables are.

    Attributes:
        uppers: these tables, from the root down.
        formats: the formats of the paging entries, by level.
        width: bits of a host address.
        levels: the numbers of levels that are possible.
        pass_through: whether a world can have none.
        signed: the bits of an address above those that the tables index equal the highest of these.
        marks: bits of paging entries that the unit sets itself.
        root_edits, address_edits: what may be changed in the root pointer and in the address.
    """

    uppers: Sequence[Upper]
    formats: PagingFormats
    width: int
    levels: Sequence[int]
    pass_through: bool
    signed: bool = False
    marks: int = 0
    address_edits: Sequence[Sequence[Edit]]
    root_edits: Sequence[Sequence[Edit]]

    @abstractmethod
    def entries(self, choices: Choices, rng: np.random.Generator) -> list[Words]:
        """The entry in each upper table, as rows of words, without pointers."""

    @abstractmethod
    def places(self, choices: Choices) -> list[Places]:
        """The position of that entry in its page, in words."""

    def edits_of_page(self, edits: list[list[Edit]]) -> list[list[Edit]]:
        """Those of the edits of a paging entry that are to be used."""
        return edits

    @abstractmethod
    def rights(self, n: int, rng: np.random.Generator) -> Words:
        """The bits besides the address in paging entries."""


@dataclass
class Choices:
    """What was drawn for each case, apart from where its tables are.

    Attributes:
        levels, leaf: the levels of its paging tables, and the level of the entry that maps the page.
        passes: it is in pass-through.
        above: the bits of its address above the page.
        entries: of each upper table, the entry without the pointer.
        flags: the paging entries without the address, from level 1 on.
        contents: what is in memory where the device writes.
        inverts: the device reads and writes back the opposite; otherwise it writes its pattern.
        edits: rows of changes: case, column, edit.
    """

    levels: NDArray[np.int64]
    leaf: NDArray[np.int64]
    passes: NDArray[np.bool_]
    above: Words
    entries: list[Words]
    flags: Words
    contents: Words
    inverts: NDArray[np.bool_]
    edits: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]

    def __len__(self) -> int:
        return len(self.levels)

    def only(self, case: int) -> Choices:
        """Those of one case."""
        one = slice(case, case + 1)
        edits = []
        for rows, columns, drawn in self.edits:
            mine = rows == case
            edits.append((np.zeros(mine.sum(), np.int64), columns[mine], drawn[mine]))
        return Choices(
            self.levels[one],
            self.leaf[one],
            self.passes[one],
            self.above[one],
            [entry[one] for entry in self.entries],
            self.flags[one],
            self.contents[one],
            self.inverts[one],
            edits,
        )


@dataclass
class Worlds:
    """Worlds in memory.

    Attributes:
        choices: what they were made of.
        words: a row for each: entries, address, root pointer.
        places: where each of the entries' words is in memory.
        used: which of them there are.
        slots: the aligned word that the device is to write, as a position in memory.
        inside: where in it, in bytes.
        length: of a DMA, in bytes; it never leaves its aligned word of memory.
    """

    choices: Choices
    words: Words
    places: Places
    used: NDArray[np.bool_]
    slots: Places
    inside: Places
    length: int

    @property
    def addresses(self) -> Words:
        """The address of each DMA."""
        return self.words[:, -2]

    @property
    def roots(self) -> Words:
        """The root pointer of each case, RTADDR."""
        return self.words[:, -1]

    def __len__(self) -> int:
        return len(self.words)

    def contents(self) -> tuple[Places, Words]:
        """All that is in memory: positions and words."""
        entries = self.words[:, :-2]
        places = np.concatenate((self.places[self.used], self.slots))
        return places, np.concatenate((entries[self.used], self.choices.contents))


class Maker:
    """Makes worlds of one mode.

    Args:
        mode: the mode.
        roots_too: root pointers are changed too.
    """

    def __init__(self, mode: Mode, *, roots_too: bool) -> None:
        self.mode = mode
        self._starts = np.cumsum([0, *(upper.size for upper in mode.uppers)])
        self._uppers, self._depth = len(mode.uppers), max(mode.levels)
        self._columns = int(self._starts[-1]) + self._depth
        kinds = [upper.edits for upper in mode.uppers]
        for page in (False, True):
            for level in range(1, self._depth + 1):
                entry_format = mode.formats[level]
                rules = entry_format.page if page else entry_format.table
                kinds.append(mode.edits_of_page(edits_of_page(entry_format, rules, mode.width)))
        kinds += [mode.address_edits, mode.root_edits]
        self._deck = Deck.of(kinds)
        self._roots_too = roots_too

    def choose(self, n: int, rng: np.random.Generator) -> Choices:
        """Draw all that there is to draw."""
        mode = self.mode
        levels = rng.choice(mode.levels, n)
        leaf = np.searchsorted(np.cumsum(LEAVES)[:2], rng.random(n), side="right") + 1
        # Going in and out of pass-through takes QEMU milliseconds: these cases follow each other.
        passes = np.arange(n) >= (n - n // 64 if mode.pass_through else n)
        above = rng.integers(0, 1 << 64, n, np.uint64)
        extremes = rng.random(n)
        above[extremes < 0.05] = U64(0)
        above[extremes > 0.95] = ~U64(0)
        choices = Choices(
            levels,
            leaf,
            passes,
            above,
            [],
            mode.rights(n * self._depth, rng).reshape(n, self._depth, order="F"),
            rng.integers(0, 1 << 64, n, np.uint64) | U64(mode.marks),
            rng.random(n) < INVERTING,
            [],
        )
        choices.entries = mode.entries(choices, rng)
        self._add_page_bits(choices, rng)
        choices.edits = [self._draw(choices, rng.random(n) < share, rng) for share in (1 - EDITS[0], EDITS[2])]
        return choices

    def _add_page_bits(self, choices: Choices, rng: np.random.Generator) -> None:
        """Set PS in the entries that map large pages, and bits that hardware ignores in some cases."""
        n = len(choices)
        noise = rng.integers(0, 1 << 64, n, np.uint64) * (rng.random(n) < 0.5)
        for level in range(1, self._depth + 1):
            entry_format = self.mode.formats[level]
            maps = choices.leaf == level
            ignored = np.where(maps, U64(entry_format.page.ignored), U64(entry_format.table.ignored))
            choices.flags[:, level - 1] |= noise & ignored
            if 1 < level <= 3:
                choices.flags[:, level - 1] |= np.where(maps, U64(1 << 7), U64(0))

    def _draw(
        self, choices: Choices, chosen: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """One change for each of the chosen cases."""
        rows = np.flatnonzero(chosen)
        n, uppers = len(rows), self._uppers
        levels, leaf = choices.levels[rows], choices.leaf[rows]
        what = rng.integers(0, uppers + 4 + self._roots_too, n)
        between = leaf + 1 + (rng.random(n) * np.maximum(levels - leaf, 0)).astype(np.int64)
        level = np.where((what < uppers + 2) & (leaf < levels), between, leaf)
        pages = level == leaf
        kinds = np.where(what < uppers, what, uppers + level - 1 + self._depth * pages)
        columns = np.where(what < uppers, self._starts[np.minimum(what, uppers)], self._starts[-1] + level - 1)
        kinds[what == uppers + 3], columns[what == uppers + 3] = uppers + 2 * self._depth, self._columns
        kinds[what == uppers + 4], columns[what == uppers + 4] = uppers + 2 * self._depth + 1, self._columns + 1
        edits = self._deck.draw(kinds, rng)
        return rows, columns + self._deck.words[edits], edits

    def marked(self, worlds: Worlds) -> NDArray[np.bool_]:
        """Which worlds have a paging entry in which the unit may have bits to set."""
        marks = U64(self.mode.marks)
        first, last = self._starts[-1], self._columns
        lacking: NDArray[np.bool_] = (worlds.words[:, first:last] & marks != marks) & worlds.used[:, first:last]
        return np.asarray(lacking.any(axis=1))

    def place(self, choices: Choices, length: int, rng: np.random.Generator) -> Worlds:
        """Worlds of these choices, each case with its own place in the areas."""
        n, tables = len(choices), self._uppers + self._depth
        pages = np.empty((n, tables), np.int64, "F")
        for table in range(tables):
            pages[:, table] = rng.permutation(n)
        pages += TABLES // PAGE
        spread = rng.permutation(n)
        strata = -(-n // DATA_PAGES)
        stratum, width = spread // DATA_PAGES, WORDS // strata
        number = spread % DATA_PAGES
        slots = (DATA // PAGE + number) * WORDS + stratum * width + rng.integers(0, width, n)
        inside = length * rng.integers(0, 8 // length, n)
        addresses = self._addresses(choices, slots, inside)
        places, used = self._places(choices, pages, addresses)
        self._separate(pages, places, used, TABLES // PAGE + n)
        return self._compose(choices, pages, places, used, slots, inside, addresses, length)

    def alone(self, choices: Choices, length: int, tables: int, slot: int, at: int) -> Worlds:
        """One world: its tables in the pages from `tables` on, its DMA `at` bytes into the word `slot`."""
        pages = tables // PAGE + np.arange(self._uppers + self._depth)[None, :]
        slots, inside = np.array([slot]), np.array([at])
        addresses = self._addresses(choices, slots, inside)
        places, used = self._places(choices, pages, addresses)
        return self._compose(choices, pages, places, used, slots, inside, addresses, length)

    def _addresses(self, choices: Choices, slots: Places, inside: Places) -> Words:
        """The address of each DMA before it is changed: the page of its leaf maps it to its slot."""
        host = (slots * 8 + inside).astype(np.uint64)
        bits = _PAGE_BITS + _INDEX_BITS * (choices.leaf - 1)
        low = (U64(1) << bits.astype(np.uint64)) - U64(1)
        top = (U64(1) << (_PAGE_BITS + _INDEX_BITS * choices.levels).astype(np.uint64)) - U64(1)
        inner = choices.above & top & ~low | host & low
        if self.mode.signed:
            inner |= np.where(inner & (top ^ top >> U64(1)), ~top, U64(0))
        return np.where(choices.passes, host, inner)

    def _places(self, choices: Choices, pages: Places, addresses: Words) -> tuple[Places, NDArray[np.bool_]]:
        """The position of each word of the entries, and whether the case has it."""
        n = len(choices)
        shape = n, self._columns
        places, used = np.zeros(shape, np.int64, "F"), np.zeros(shape, np.bool_, "F")
        offsets = self.mode.places(choices)
        for number, (upper, offset) in enumerate(zip(self.mode.uppers, offsets, strict=True)):
            first = self._starts[number]
            for word in range(upper.size):
                places[:, first + word] = pages[:, number] * WORDS + offset + word
                used[:, first + word] = True
        for level in range(1, self._depth + 1):
            index = (addresses >> U64(_PAGE_BITS + _INDEX_BITS * (level - 1))).astype(np.int64) & WORDS - 1
            column = self._starts[-1] + level - 1
            places[:, column] = pages[:, self._uppers + level - 1] * WORDS + index
            used[:, column] = (level >= choices.leaf) & (level <= choices.levels) & ~choices.passes
        return places, used

    def _separate(self, pages: Places, places: Places, used: NDArray[np.bool_], spare: int) -> None:
        """Move entries that lie on others to pages of their own, from `spare` on.

        Each page holds one entry of each table, and an entry is aligned to its size.
        """
        sizes = [*(upper.size for upper in self.mode.uppers), *[1] * self._depth]
        firsts = [*self._starts[:-1], *range(self._starts[-1], self._columns)]
        n, base = len(pages), TABLES // PAGE
        in_page = pages - base
        offsets = np.empty((n, len(sizes)), np.int32, "F")
        for table, first in enumerate(firsts):
            there = np.where(used[:, first], places[:, first] & WORDS - 1, -WORDS * (table + 1))
            offsets[in_page[:, table], table] = there
        lost = np.zeros((n, len(sizes)), np.bool_, "F")
        for table, size in enumerate(sizes):
            for other in range(table):
                shift = max(size, sizes[other]).bit_length() - 1
                lost[:, table] |= offsets[:, table] >> shift == offsets[:, other] >> shift
        for table, first in enumerate(firsts):
            rows = np.flatnonzero(lost[in_page[:, table], table])
            moved = np.arange(spare, spare + len(rows))
            spare += len(rows)
            places[rows, first : first + sizes[table]] += ((moved - pages[rows, table]) * WORDS)[:, None]
            pages[rows, table] = moved

    def _compose(
        self,
        choices: Choices,
        pages: Places,
        places: Places,
        used: NDArray[np.bool_],
        slots: Places,
        inside: Places,
        addresses: Words,
        length: int,
    ) -> Worlds:
        """Fill in the words: entries with their pointers, and then the changes."""
        n, uppers = len(choices), self._uppers
        words = np.zeros((n, self._columns + 2), np.uint64, "F")
        pointers = pages.astype(np.uint64) << U64(_PAGE_BITS)
        top = pointers[np.arange(n), uppers + choices.levels - 1]
        for number, upper in enumerate(self.mode.uppers):
            first = self._starts[number]
            words[:, first : first + upper.size] = choices.entries[number]
            target = top if number == uppers - 1 else pointers[:, number + 1]
            words[:, first + upper.pointer] |= target
        host = (slots * 8).astype(np.uint64)
        for level in range(1, self._depth + 1):
            size_mask = ~((U64(1) << U64(_PAGE_BITS + _INDEX_BITS * (level - 1))) - U64(1))
            below = pointers[:, uppers + level - 2] if level > 1 else host
            column = self._starts[-1] + level - 1
            words[:, column] = choices.flags[:, level - 1] | np.where(choices.leaf == level, host & size_mask, below)
        words[:, -2], words[:, -1] = addresses, pointers[:, 0]
        for rows, columns, edits in choices.edits:
            words[rows, columns] = words[rows, columns] & self._deck.kept[edits] ^ self._deck.changed[edits]
        # An address in the interrupt range makes a message, not DMA.
        interrupts = words[:, -2] >> U64(20) == U64(INTERRUPT_RANGE)
        words[interrupts, -2] ^= U64(1 << 32)
        return Worlds(choices, words, places, used, slots, inside, length)
