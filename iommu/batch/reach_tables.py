"""The runs that page tables map, level by level, whole tables at a time.

No rule of the architecture is stated here. Entries are distinguished by the bits that the unit reads, as their format
says; of those that differ only in the address, one is put before `check_entry` of the stage. What requests to a page
can do is asked for later (reach.py). A table that many entries point to is read once for each set of rights
that leads to it, so tables that point to each other cost no more than others; what they describe is counted before it
is written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from iommu.batch.reach_runs import U64, Numbers, Runs, expanded
from iommu.engine.caches.page import Intent
from iommu.engine.caches.tables import FirstStageRoot, Root, SecondStageRoot
from iommu.engine.entry_format import PagingFormat
from iommu.engine.reasons import Blocked
from iommu.engine.translation import first_stage, second_stage
from iommu.engine.translation.paging import Leaf
from iommu.engine.translation.translation import Translation
from iommu.errors import MemoryAccessError
from iommu.memory import Memory

ALL = 1 << 64
_LACKS_NOTHING = Intent(read=False, write=False, user=False)
_ENTRIES = 512
_ROWS = 128  # tables at a time: half a megabyte of entries stays in the processor's caches
_WAY_BITS = 24
_ABSENT, _TABLES, _REFUSED = -1, -2, -100
_NOT_PRESENT = "not present"

Meaning = tuple[object, ...]
"""What of the entries of a page decides about requests to it: all that is not an address."""


@dataclass
class Budget:
    """How much work there may be; None for no limit.

    Attributes:
        tables: so many more tables may be read.
        runs: so many runs of one stage may be written down.
        is_spent: something was left out for it.
    """

    tables: int | None = 1 << 19
    runs: int | None = 1 << 26
    is_spent: bool = False


class Way(NamedTuple):
    """How a table is reached: the rights that are left, and which of its addresses are wanted."""

    rights: int
    first: int
    stop: int


class _Place(NamedTuple):
    """Of tables at guest addresses: the second-stage leaf for one of them, and the Meaning of it."""

    leaf: Leaf | None
    meaning: Meaning


@dataclass
class _Level:
    """Tables of one level, each with what it holds, in order: pages in a row, and tables below.

    `begins` has the number of the first item of each table; of the items, `starts` counts from the first address of
    their table, and `below` is the number of the table that one is, in the next level, or -1 for pages; the lowest
    level has none.
    """

    begins: Numbers
    items: Runs
    below: Numbers

    def weights(self, below: Numbers) -> Numbers | None:
        """How many runs each item stands for; None if there are only pages. `below`: for the tables of that level."""
        is_table = self.items.kinds == _TABLES
        if not is_table.any():
            return None
        weights = np.ones(len(self.below), np.int64)
        number = self.below[is_table]
        # Those that were not read, for want of budget, stand for none.
        weights[is_table] = np.where(number >= 0, below[number] if len(below) else 0, 0)
        return weights


@dataclass
class Stage:
    """Enumerates what the tables of one stage map.

    Attributes:
        meanings: of each kind of run that `runs` gives.
        tables: the host addresses of the tables that were read.
        refused: how many entries map nothing, by level and reason.
    """

    quiet: Translation
    root: Root
    budget: Budget
    meanings: list[Meaning] = field(default_factory=list)
    tables: list[U64] = field(default_factory=list)
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.stage: Any = self.quiet.legacy.second_stage
        self._top_rights = second_stage.RIGHTS
        if isinstance(self.root, FirstStageRoot):
            self.stage, self._top_rights = self.quiet.scalable.first_stage, first_stage.RIGHTS
        self._memory = self.stage.access.memory_for(self.root.snooped)
        self._kinds: dict[Meaning, int] = {}
        self._ways: dict[Way, int] = {}
        self._reasons: list[str] = []

    def runs(self, wanted: list[range]) -> Runs:
        """What the tables map of these ranges of addresses, which are in order; pages in a row are one run."""
        bases, firsts = [], []
        for base, way in self._tops(wanted):
            bases.append(base)
            firsts.append(self._way(way))
        if not bases:
            return Runs.none()
        addresses = np.full(len(bases), self.root.address, np.uint64)
        levels, numbers = self._read(addresses, np.array(firsts, np.int64))
        return self._written_down(levels, np.array(bases, np.uint64), numbers)

    def _tops(self, wanted: list[range]) -> Iterator[tuple[int, Way]]:
        """The top table as each range sees it: the first address that it maps, and the way to it."""
        bits = self.stage.address_bits(self.root)
        halves = [(0, range(1 << bits))]
        if not isinstance(self.root, SecondStageRoot):
            # The upper canonical half, which the entries 256 to 511 of the top table map.
            halves.append((ALL - (2 << bits), range(ALL - (1 << bits), ALL)))
        for base, half in halves:
            for each in wanted:
                first, stop = max(each.start, half.start), min(each.stop, half.stop)
                if first < stop:
                    yield base, Way(self._top_rights, first - base, stop - base)

    # Downwards: reading.

    def _read(self, addresses: U64, ways: Numbers) -> tuple[list[_Level], Numbers]:
        """The tables from the top level to the lowest. Returns them, and the numbers of the top tables."""
        levels: list[_Level] = []
        top = None
        for level in range(self.root.levels, 0, -1):
            addresses, ways, numbers = self._distinct(addresses, ways)
            if top is None:
                top = numbers
            else:
                above = levels[-1]
                above.below[above.below >= 0] = numbers
            made, addresses, ways = self._read_level(level, addresses, ways)
            levels.append(made)
        assert top is not None
        return levels, top

    def _distinct(self, addresses: U64, ways: Numbers) -> tuple[U64, Numbers, Numbers]:
        """Each table once for each way, by way; and the number of each that was given, -1 if the budget is spent."""
        keys = (ways.astype(np.uint64) << np.uint64(64 - _WAY_BITS)) | addresses >> np.uint64(12)
        found, numbers = np.unique(keys, return_inverse=True)
        most = self.budget.tables
        if most is not None:
            if len(found) > most:
                self.budget.is_spent = True
                found, numbers = found[:most], np.where(numbers < most, numbers, -1)
            self.budget.tables = most - len(found)
        own = (found >> np.uint64(64 - _WAY_BITS)).astype(np.int64)
        return found << np.uint64(_WAY_BITS) >> np.uint64(_WAY_BITS - 12), own, numbers

    def _read_level(self, level: int, addresses: U64, ways: Numbers) -> tuple[_Level, U64, Numbers]:
        """Read tables. Returns what they hold, with the addresses of those below and the ways to them."""
        parts: list[tuple[Runs, Numbers, U64, Numbers]] = []
        counts: list[Numbers] = [np.zeros(1, np.int64)]
        known = list(self._ways)
        borders = np.flatnonzero(np.diff(ways)) + 1
        for group in np.split(np.arange(len(addresses)), borders):
            for rows in np.split(group, range(_ROWS, len(group), _ROWS)):
                if len(rows):
                    judge = _Judge(self, level, known[ways[rows[0]]])
                    for part, number in judge.read(addresses[rows]):
                        parts.append(part)
                        counts.append(number)
        items, below, addresses, ways = _concatenated(parts)
        return _Level(np.cumsum(np.concatenate(counts)), items, below), addresses, ways

    def _way(self, way: Way) -> int:
        """The number of a way."""
        return self._ways.setdefault(way, len(self._ways))

    def _kind(self, meaning: Meaning) -> int:
        """The number of a kind of run."""
        number = self._kinds.setdefault(meaning, len(self.meanings))
        if number == len(self.meanings):
            self.meanings.append(meaning)
        return number

    def _reason(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return _REFUSED - self._reasons.index(reason)

    # Upwards, counting; and downwards again, writing.

    def _written_down(self, levels: list[_Level], bases: U64, tables: Numbers) -> Runs:
        """All runs, of the top tables at these addresses and all below them."""
        weights: list[Numbers | None] = []
        count: Numbers = np.zeros(0, np.int64)
        for each in reversed(levels):
            weight = each.weights(count)
            weights.append(weight)
            sums = each.begins if weight is None else np.append(0, np.cumsum(weight))[each.begins]
            count = sums[1:] - sums[:-1]
        found: list[Runs] = []
        bases, tables = bases[tables >= 0], tables[tables >= 0]
        for each, weight in zip(levels, reversed(weights), strict=True):
            counts = each.begins[tables + 1] - each.begins[tables]
            which, number = self._within(weight, *_in_a_row(each.begins[tables], counts))
            items = each.items.at(number)
            items = items._replace(starts=items.starts + bases[which])
            if weight is None:
                found.append(items)
                break
            is_page = items.kinds >= 0
            found.append(items.at(is_page))
            if self.budget.runs is not None:
                self.budget.runs -= int(is_page.sum())
            bases, tables = items.starts[~is_page], each.below[number][~is_page]
        return Runs.merged(found)

    def _within(self, weight: Numbers | None, which: Numbers, number: Numbers | slice) -> tuple[Numbers, Any]:
        """Of the items those that stand for a run, as many as the budget allows. `which`: what each belongs to."""
        most = self.budget.runs
        if weight is None:
            if most is None or len(which) <= most:
                return which, number
            self.budget.is_spent = True
            return which[:most], _numbers(number)[:most]
        lasting = weight[number]
        used = lasting > 0
        if most is not None and int(lasting.sum()) > most:
            self.budget.is_spent = True
            # The last one that is kept may stand for too many: of what is below it, a part will be left out.
            used &= np.cumsum(lasting) - lasting < most
        return which[used], _numbers(number)[used]


def _in_a_row(firsts: Numbers, counts: Numbers) -> tuple[Numbers, Numbers | slice]:
    """As `expanded`; a slice, which copies nothing, if all these ranges continue each other."""
    if len(firsts) and (firsts[1:] == firsts[:-1] + counts[:-1]).all():
        return np.repeat(np.arange(len(counts)), counts), slice(int(firsts[0]), int(firsts[-1] + counts[-1]))
    return expanded(firsts, counts)


def _numbers(which: Numbers | slice) -> Numbers:
    return np.arange(which.start, which.stop) if isinstance(which, slice) else which


class _Judge:
    """The tables of one level that are reached in one way."""

    def __init__(self, stage: Stage, level: int, way: Way) -> None:
        self.owner, self.stage, self.root, self.level, self.way = stage, stage.stage, stage.root, level, way
        self.format = self.root.formats[level]
        self.shift = 3 + 9 * level
        self.low, self.high = way.first >> self.shift, (way.stop - 1 >> self.shift) + 1
        self._page_bit = _page_bit(self.format)
        own = self.format
        self._page_mask = ~own.page.ignored & (~own.page_address | own.page.reserved) & ALL - 1
        self._table_address = own.table.layout.fields["ADDR"].mask
        self._table_mask = ~own.table.ignored & (~self._table_address | own.table.reserved) & ALL - 1

    def read(self, addresses: U64) -> Iterator[tuple[tuple[Runs, Numbers, U64, Numbers], Numbers]]:
        """What tables hold, a group of them after the other, with the number of items of each."""
        if not isinstance(self.root, FirstStageRoot) or self.root.second is None:
            self.owner.tables.append(addresses)
            yield self._hold(self._entries(addresses.tolist()), _Place(None, ()))
            return
        for address in addresses.tolist():
            # If nested, one page of the second stage maps all of the table.
            try:
                where, leaf = self.stage.locate_entry(self.root, address, self.level)
            except Blocked as blocked:
                self.owner.refused[self.level, f"table not reached: {blocked.reason}"] += 1
                yield (
                    (Runs.none(), np.zeros(0, np.int64), addresses[:0], np.zeros(0, np.int64)),
                    np.zeros(1, np.int64),
                )
                continue
            meaning = (leaf.entry & ~leaf.format.page_address, leaf.page.kind.writable)
            self.owner.tables.append(np.array([where], np.uint64))
            yield self._hold(self._entries([where]), _Place(leaf, meaning))

    def _entries(self, places: list[int]) -> U64:
        """The entries that are wanted, a row for each table."""
        first, count = 8 * self.low, self.high - self.low
        memory = self.owner._memory
        data = b"".join(_bytes(memory, place + first, 8 * count) for place in places)
        return np.frombuffer(data, "<u8").reshape(len(places), count)

    def _hold(self, entries: U64, place: _Place) -> tuple[tuple[Runs, Numbers, U64, Numbers], Numbers]:
        rows, columns = entries.shape
        flat = entries.reshape(-1)
        codes, alike = self._codes(flat, place)
        hosts = flat & np.uint64(self.format.page_address)
        size = np.uint64(1 << self.shift)
        # Whether an entry is continued by the next one, a page of the same table.
        goes_on = np.zeros(len(flat), np.bool_)
        np.equal(hosts[1:], hosts[:-1] + size, out=goes_on[:-1])
        goes_on[columns - 1 :: columns] = False
        if alike and codes[0] >= 0 and not goes_on.any():
            return self._scattered(hosts, codes, rows, columns)
        is_page = codes >= 0
        is_item = is_page | ((codes <= _TABLES) & (codes > _REFUSED))
        goes_on &= is_page
        goes_on[:-1] &= codes[1:] == codes[:-1]
        follows = np.zeros(len(flat), np.bool_)
        follows[1:] = goes_on[:-1]
        heads, ends = np.flatnonzero(is_item & ~follows), np.flatnonzero(is_item & ~goes_on)
        lengths = (ends - heads + 1).astype(np.uint64)
        kinds = codes[heads]
        column = heads % columns + self.low
        starts = column.astype(np.uint64) << np.uint64(self.shift)
        runs = self._clipped(Runs(starts, lengths * size, hosts[heads], np.maximum(kinds, _TABLES)))
        which = kinds <= _TABLES
        tables = flat[heads[which]] & np.uint64(self._table_address)
        ways = self._ways_below(_TABLES - kinds[which], column[which])
        below = np.where(which, 0, -1) if self.level > 1 else np.zeros(0, np.int64)
        return (runs, below, tables, ways), np.bincount(heads // columns, minlength=rows)

    def _scattered(
        self, hosts: U64, codes: Numbers, rows: int, columns: int
    ) -> tuple[tuple[Runs, Numbers, U64, Numbers], Numbers]:
        """Pages that are all of a kind, and none of which continues another: there is nothing to leave out."""
        one = np.arange(self.low, self.high, dtype=np.uint64) << np.uint64(self.shift)
        sizes = np.full(len(hosts), 1 << self.shift, np.uint64)
        runs = self._clipped(Runs(np.tile(one, rows), sizes, hosts, codes))
        below = np.full(len(hosts), -1) if self.level > 1 else np.zeros(0, np.int64)
        nothing = np.zeros(0, np.int64)
        return (runs, below, nothing.astype(np.uint64), nothing), np.full(rows, columns)

    def _clipped(self, runs: Runs) -> Runs:
        """The pages without the addresses that are not wanted."""
        first, stop = self.way.first, self.way.stop
        if first == self.low << self.shift and stop == self.high << self.shift:
            return runs
        is_page = runs.kinds >= 0
        before = np.where(is_page & (runs.starts < first), np.uint64(first) - runs.starts, np.uint64(0))
        end = runs.starts + runs.sizes
        after = np.where(is_page & (end > stop), end - np.uint64(stop), np.uint64(0))
        return Runs(runs.starts + before, runs.sizes - before - after, runs.hosts + before, runs.kinds)

    def _ways_below(self, rights: Numbers, columns: Numbers) -> Numbers:
        """The ways to the tables below: the rights to each, and what of it is wanted."""
        whole = 1 << self.shift
        ways = np.zeros(len(rights), np.int64)
        for left in set(rights.tolist()):
            alike = rights == left
            ways[alike] = self.owner._way(Way(left, 0, whole))
            for column in {self.low, self.high - 1}:
                base = column << self.shift
                first, stop = max(self.way.first - base, 0), min(self.way.stop - base, whole)
                ways[alike & (columns == column)] = self.owner._way(Way(left, first, stop))
        return ways

    # What entries are.

    def _codes(self, entries: U64, place: _Place) -> tuple[Numbers, bool]:
        """Of each entry the kind of its page, or that it is something else; and if all are alike."""
        own = self.format
        if self._page_bit is None:
            mask = self._page_mask if own.rules(0) is own.page else self._table_mask
            bits = entries & np.uint64(mask)
        else:
            pages = (entries & np.uint64(self._page_bit)) != 0
            bits = entries & np.where(pages, np.uint64(self._page_mask), np.uint64(self._table_mask))
        bits[(entries & np.uint64(own.present)) == 0] = 0
        return _coded(bits, entries, lambda entry, bits, count: self._code(entry, bits, count, place))

    def _code(self, entry: int, bits: int, count: int, place: _Place) -> int:
        """What an entry is. `bits`: what the unit reads of it, `count`: how many there are that are alike."""
        own, stage = self.format, self.stage
        if not bits:
            self.owner.refused[self.level, _NOT_PRESENT] += count
            return _ABSENT
        rules = own.rules(entry)
        try:
            left: int = stage.check_entry(self.root, own, rules, self.way.rights, entry, _LACKS_NOTHING)
            if rules is own.table:
                missing = stage.bits_to_set(self.root, entry, dirty=False)
                under = (place.leaf,) if isinstance(self.root, FirstStageRoot) else ()
                stage.set_bits(self.root, own, 0, entry, missing, *under)
        except Blocked as blocked:
            self.owner.refused[self.level, str(blocked.reason)] += count
            return self.owner._reason(str(blocked.reason))
        if rules is own.table:
            return _TABLES - left
        return self.owner._kind((self.level, left, bits & ~own.page_address, place.meaning))


def _page_bit(own: PagingFormat) -> int | None:
    """The bit that tells pages from tables; None if all entries of the level are the same in this."""
    bits = [1 << bit for bit in range(64) if own.rules(1 << bit) is not own.rules(0)]
    return bits[0] if bits else None


def _coded(bits: U64, entries: U64, code: Callable[[int, int, int], int]) -> tuple[Numbers, bool]:
    """The code of each entry, and if they are all alike; `code` is asked once for all that have the same bits."""
    codes = np.empty(len(bits), np.int32)
    left = None
    for _ in range(8):  # there are few kinds in most tables
        rest = bits if left is None else bits[left]
        alike = rest == rest[0]
        count = int(np.count_nonzero(alike))
        first = 0 if left is None else int(left[0])
        found = code(int(entries[first]), int(rest[0]), count)
        if count == len(rest):
            codes[slice(None) if left is None else left] = found
            return codes, left is None
        codes[alike if left is None else left[alike]] = found
        np.logical_not(alike, out=alike)
        left = np.flatnonzero(alike) if left is None else left[alike]
    assert left is not None
    values, first_of, inverse, counts = np.unique(
        bits[left], return_index=True, return_inverse=True, return_counts=True
    )
    found_of = [
        code(int(entries[left[first]]), int(value), int(count))
        for value, first, count in zip(values, first_of, counts, strict=True)
    ]
    codes[left] = np.array(found_of, np.int32)[inverse]
    return codes, False


def _bytes(memory: Memory, where: int, length: int) -> bytes:
    """The bytes of a table; without memory there zeroes, which are not present in any stage."""
    try:
        return memory.read(where, length)
    except MemoryAccessError:
        return b"".join(_word(memory, at) for at in range(where, where + length, 8))


def _word(memory: Memory, where: int) -> bytes:
    try:
        return memory.read_u64(where).to_bytes(8, "little")
    except MemoryAccessError:
        return bytes(8)


def _concatenated(parts: list[tuple[Runs, Numbers, U64, Numbers]]) -> tuple[Runs, Numbers, U64, Numbers]:
    if not parts:
        return Runs.none(), np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64)
    runs = Runs(*(np.concatenate(column) for column in zip(*(part[0] for part in parts), strict=True)))
    below, tables, ways = (np.concatenate([part[place] for part in parts]) for place in (1, 2, 3))
    return runs, below, tables, ways
