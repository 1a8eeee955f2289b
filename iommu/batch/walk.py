"""What both stages have in common when they walk many requests at once (spec 3.6, 3.7).

All numbers are signed, since NumPy indexes by signed numbers: masks with bit 63 are negative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from iommu.batch.arrays import Bools, Int64, Uint8
from iommu.engine.entry_format import PagingFormat
from iommu.errors import MisuseError

Reasons = Uint8
Bits = tuple[int, int]
"""The bits that every one of some entries has, and those that some of them have."""


def signed(mask: int) -> int:
    """A mask of 64 bits as a signed number."""
    return mask - (1 << 64) if mask >> 63 else mask


def first_of(one: Reasons | None, other: Reasons | None) -> Reasons | None:
    """The first fault of each request, or 0: `one` came before `other`."""
    if one is None or other is None:
        return other if one is None else one
    return np.where(one != 0, one, other)


class Level:
    """The rules of one level of tables, from its format.

    Attributes:
        shift: an address shifted right by this has the index of its entry in its lowest 9 bits.
        present: see PagingFormat.
        table, page: the bits that must be 0 in an entry that points to a table, or maps a page.
        address: the bits of an entry that are the page's address.
        offset: the bits of an address that are the offset in the page.
        size_bit: the bit that makes an entry map a page; 0 if no bit does, -1 if all entries do.
    """

    def __init__(self, entry_format: PagingFormat) -> None:
        if type(entry_format).rules is not PagingFormat.rules:
            raise MisuseError(f"{entry_format.name}: a format with its own `rules` cannot be followed in batches")
        self.shift = 3 + 9 * entry_format.level
        self.present = signed(entry_format.present)
        self.table, self.page = signed(entry_format.table.reserved), signed(entry_format.page.reserved)
        self.address = signed(entry_format.page_address)
        self.offset = entry_format.page_size - 1
        self.size_bit = entry_format.size_bit

    def split(self, at: Entries, bits: Bits) -> tuple[Entries | None, Entries | None, Int64 | None]:
        """Those that point to tables, those that map pages, and which are not present; None if there are none."""
        every, some = bits
        gone = None
        if not every & self.present and (absent := at.entry & self.present == 0).any():
            gone = np.flatnonzero(absent)
        if self.are_tables(some):
            return at if gone is None else at.part(np.flatnonzero(~absent)), None, gone
        if self.are_pages(every) or self.size_bit < 0:
            return None, at if gone is None else at.part(np.flatnonzero(~absent)), gone
        large = at.entry & self.size_bit != 0
        tables = ~large
        if gone is not None:
            tables[gone] = large[gone] = False
        return at.part(np.flatnonzero(tables)), at.part(np.flatnonzero(large)), gone

    def are_tables(self, some: int) -> bool:
        """Whether all entries point to tables, given the bits that some of them have."""
        return self.size_bit >= 0 and not some & self.size_bit

    def are_pages(self, every: int) -> bool:
        """Whether all entries map pages, given the bits that every one of them has."""
        return self.size_bit < 0 or bool(every & self.size_bit)

    def pages(self, entries: Int64) -> Bools:
        """Which entries map pages."""
        return entries & self.size_bit != 0 if self.size_bit >= 0 else np.ones(len(entries), np.bool_)


class Wanted:
    """The permissions that requests need, as bits of an entry.

    Args:
        writes: whether each is a write; None if all need `of_all`.
        reading, writing: the bits for a read and for a write.
    """

    def __init__(self, writes: Bools | None, reading: int, writing: int, of_all: int = 0) -> None:
        self._writes, self._reading, self._more, self._of_all = writes, reading, writing - reading, of_all

    def bits(self, rows: Int64 | None = None) -> Int64 | int:
        """Those of some rows, or of all."""
        if self._writes is None:
            return self._of_all
        # Faster than np.where.
        return (self._writes if rows is None else self._writes[rows]) * np.int64(self._more) + self._reading

    def part(self, rows: Int64) -> Wanted:
        """What some rows want."""
        writes = None if self._writes is None else self._writes[rows]
        return Wanted(writes, self._reading, self._reading + self._more, self._of_all)


def faults_at(which: Bools, reason: int) -> Reasons:
    """This fault for some of the requests, 0 for the others."""
    return which * np.uint8(reason)


class Faults(NamedTuple):
    """Faults of some rows, 0 for none."""

    rows: Int64
    reason: Reasons


NO_FAULTS = Faults(np.zeros(0, np.int64), np.zeros(0, np.uint8))


def add_faults(reason: Reasons | None, count: int, more: Faults) -> Reasons | None:
    """The faults of `count` requests, with those that come after them: a request has only its first one."""
    if not more.reason.any():
        return reason
    if reason is None:
        reason = np.zeros(count, np.uint8)
    reason[more.rows] = np.where(reason[more.rows], reason[more.rows], more.reason)
    return reason


class Going(NamedTuple):
    """Walks that are going on.

    Attributes:
        table: the table that each has reached, as the number of a quadword.
        address: what they look up.
        rights: the bits of permissions that the levels above give; None if all of them.
        rows: the numbers of the walks; None for all that were begun.
    """

    table: Int64
    address: Int64
    rights: Int64 | None
    rows: Int64 | None


class Entries(NamedTuple):
    """The entries that walks have reached; `where` are their places, if marks are collected. The rest: see Going."""

    entry: Int64
    where: Int64 | None
    address: Int64
    rights: Int64 | None
    rows: Int64 | None

    def bits(self) -> Bits:
        """See Bits."""
        return int(np.bitwise_and.reduce(self.entry)), int(np.bitwise_or.reduce(self.entry))

    def rows_at(self, which: Int64) -> Int64:
        """The numbers of some of the walks."""
        return which if self.rows is None else self.rows[which]

    def part(self, which: Int64) -> Entries:
        """Some of them."""
        entry, where, address, rights, rows = (
            None if column is None else column.take(which, mode="clip") for column in self
        )
        assert entry is not None and address is not None
        return Entries(entry, where, address, rights, which if rows is None else rows)


class Leaves(NamedTuple):
    """The entries at which walks ended.

    Attributes:
        host: the address that the page gives.
        rights: the bits of permissions that all levels give; None if all walks have all of them.
        entry: the entry that maps the page; None if nobody needs it.
        reason: the fault of each walk, or 0; None if none has one. The other attributes mean nothing then.
        late: the fault of each walk if the entry still has to be updated and cannot be, or 0; None if there is none.
            It comes after all other checks.
        where: the number of the quadword that holds the entry. Only set if marks are collected.
        under: the same of the second-stage entry for the table that it is in, in a nested walk.
    """

    host: Int64
    rights: Int64 | None
    entry: Int64 | None
    reason: Reasons | None
    late: Reasons | None = None
    where: Int64 | None = None
    under: Int64 | None = None

    def part(self, rows: Int64) -> Leaves:
        """Some of the walks."""
        some: dict[str, Any] = self._asdict()
        return self._replace(**{name: column[rows] for name, column in some.items() if column is not None})

    def faulty(self) -> Reasons:
        """The faults, with 0 where there is none."""
        return np.zeros(len(self.host), np.uint8) if self.reason is None else self.reason


class Pending:
    """Walks of which some have ended.

    Attributes:
        rows: which walks are going on; None for all.
    """

    def __init__(self, count: int, all_rights: int) -> None:
        self.rows: Int64 | None = None
        self._count, self._all = count, all_rights
        self._found: Leaves | None = None

    @property
    def found(self) -> Leaves:
        """What has been found so far."""
        if self._found is None:
            self._found = Leaves(np.zeros(self._count, np.int64), None, None, np.zeros(self._count, np.uint8))
        return self._found

    def at(self, rows: Int64) -> Int64:
        """The numbers of walks, given those among the ones that are going on."""
        return rows if self.rows is None else self.rows[rows]

    def block(self, rows: Int64, reason: Reasons | int) -> None:
        """Walks end with a fault."""
        reasons = self.found.reason
        assert reasons is not None
        reasons[self.at(rows)] = reason

    def end(self, rows: Int64, leaves: Leaves) -> None:
        """Walks end with a page."""
        at, found = self.at(rows), self.found
        for name, its in zip(leaves._fields, leaves, strict=True):
            if its is not None:
                if getattr(found, name) is None:
                    fill = self._all if name == "rights" else 0
                    found = self._found = found._replace(**{name: np.full(self._count, fill, its.dtype)})
                getattr(found, name)[at] = its

    def all_end(self, leaves: Leaves) -> Leaves:
        """All walks that are going on end with a page. Returns what was found."""
        if self.rows is None and self._found is None:
            return leaves
        self.end(np.arange(len(leaves.host)), leaves)
        return self.found
