"""What the entries of the tables above the stages mean, by the unit's own parts: no rule of theirs is stated here.

A batch has few different entries besides their addresses. Each is given once to a copy of the unit's own mode, as if
it had been read from memory, and what the mode makes of it is kept by the value of the entry.

What an entry means depends on the addresses in it only by their width, which is at least 31 bits on every unit: bits
30:12 of addresses, and the domain-id, are left out of the value. Where they are reserved, the entry is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from iommu.batch.arrays import Int64
from iommu.engine.entry_format import EntryFormat
from iommu.engine.reasons import Blocked
from iommu.engine.table_access import TableAccess
from iommu.errors import MemoryAccessError
from iommu.fields import Layout

_NARROWEST = 31
"""No unit has narrower addresses than this (Capabilities)."""
LOW = (1 << _NARROWEST) - (1 << 12)
"""The bits of an address in an entry that decide nothing, in its quadword."""
_KEPT = 1 << 16
"""How many values of one kind of entry are kept."""

Meaning = tuple[int, ...]


class Reached(Exception):
    """The unit's own code asks for the next table: `where` it would read it."""

    def __init__(self, where: int) -> None:
        self.where = where


class Given(TableAccess):
    """Table access for which entries are given. What is not given ends the walk with Reached.

    Attributes:
        entries: the format of each entry that is given, and its value; None if it cannot be read.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[EntryFormat, int | None]] = []

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """See TableAccess. A given entry that is longer than its format holds several, by address."""
        for known, entry in self.entries:
            if known is entry_format:
                if entry is None:
                    raise MemoryAccessError(where, entry_format.size)
                return entry >> 8 * (where % 16 if entry_format.size == 8 else 0) & (1 << 8 * entry_format.size) - 1
        raise Reached(where)


def without_detail(layout: type[Layout], *names: str) -> Int64:
    """The quadwords of a layout with all bits set, except low bits of addresses and the named fields."""
    mask = (1 << layout.bits) - 1 & ~layout.bits_of(*names)
    for part in layout.fields.values():
        if part.shift:
            mask &= ~(part.mask & (1 << _NARROWEST) - 1 << part.lsb - part.shift)
    return quadwords(mask, layout.bits)


def quadwords(number: int, bits: int) -> Int64:
    """A number as quadwords, the lowest first."""
    return np.frombuffer(number.to_bytes(bits // 8, "little"), "<i8")


def number_of(words: Int64) -> int:
    """The inverse of `quadwords`."""
    return int.from_bytes(words.tobytes(), "little")


class Meanings:
    """What the entries of one kind mean: a tuple of `width` numbers for each value.

    Args:
        important: the quadwords of an entry, with the bits that decide: see `without_detail`.
        reserved: for an entry, the bits that must be 0.
        width: how many numbers there are in a meaning.
    """

    def __init__(self, important: Int64, reserved: Callable[[int], int], width: int) -> None:
        self._important, self._reserved = important, reserved
        self._numbers: dict[bytes, int] = {}
        self._rows: list[Meaning] = []
        self._details: list[Int64] = []
        self._columns = np.zeros((width, 0), np.int64)
        self._reserved_details = np.zeros((0, len(important)), np.int64)

    def start(self) -> None:
        """A new call begins: numbers of earlier calls are not used any more."""
        if len(self._rows) > _KEPT:
            self._numbers.clear()
            self._rows.clear()
            self._details.clear()

    def of(self, entries: Int64, more: Int64 | None, decode: Callable[[int, int], Meaning]) -> Int64:
        """The meaning of each entry, as columns.

        Args:
            entries: a row of quadwords each.
            more: a number for each, which decides too.
            decode: the meaning, given the row and the value of the entry.
        """
        numbers = self._find(entries & self._important, more, decode)
        details = self._reserved_details[numbers]
        if details.any():
            # A reserved bit is among those that were left out.
            odd = np.flatnonzero((entries & details).any(axis=1))
            if odd.size:
                numbers[odd] = self._find(
                    entries[odd], None if more is None else more[odd], lambda row, entry: decode(int(odd[row]), entry)
                )
        return self._columns[:, numbers]

    def _find(self, entries: Int64, more: Int64 | None, decode: Callable[[int, int], Meaning]) -> Int64:
        known = self._numbers
        whole = np.ascontiguousarray(entries if more is None else np.column_stack((entries, more)))
        keys = whole.view(f"V{8 * whole.shape[1]}").ravel().tolist()
        found = [known.get(key, -1) for key in keys]
        if -1 in found:
            for row, key in enumerate(keys):
                if found[row] < 0:
                    found[row] = self._learn(key, row, number_of(entries[row]), decode)
            self._columns = np.array(self._rows, np.int64).T.copy()
            self._reserved_details = np.array(self._details, np.int64)
        return np.array(found, np.int64)

    def _learn(self, key: bytes, row: int, entry: int, decode: Callable[[int, int], Meaning]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._rows)
            self._rows.append(decode(row, entry))
            self._details.append(self._reserved_among_details(entry))
        return number

    def _reserved_among_details(self, entry: int) -> Int64:
        """The bits that must be 0 in an entry, of those that were left out."""
        return quadwords(self._reserved(entry), 64 * len(self._important)) & ~self._important


def attempt(ask: Callable[[], object]) -> tuple[int, int, int]:
    """What the unit's own code says: the fault reason, its FPD, and where it goes on to read; or 0."""
    try:
        ask()
    except Reached as goes_on:
        return 0, 0, goes_on.where
    except Blocked as condition:
        return int(condition.reason), condition.fpd, 0
    return 0, 0, 0
