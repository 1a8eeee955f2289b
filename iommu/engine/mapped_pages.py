"""The pages that tables map, in order of address, with the formats and the `check_entry` of their stages.

What requests to a page can do is not decided here: mappings.py asks for that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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
"""The first address beyond all."""
_LACKS_NOTHING = Intent(read=False, write=False, user=False)
"""The permissions of a page are asked for later: on the way to it, no entry may refuse for want of one."""

Meaning = tuple[object, ...]
"""What of a page's entries decides about requests to it: all that is not an address."""


class Piece(NamedTuple):
    """A page, or a part of it: its addresses, where it goes, and the Meaning of its entries."""

    start: int
    stop: int
    host: int
    meaning: Meaning

    def within(self, first: int, last: int) -> Piece:
        """The part between two addresses."""
        start = max(self.start, first)
        return self._replace(start=start, stop=min(self.stop, last), host=self.host + start - self.start)


class Walk:
    """Enumerates the pages that tables map. `quiet`: a copy of a unit's translation that changes nothing."""

    def __init__(self, quiet: Translation) -> None:
        self.first_stage, self.second_stage = quiet.scalable.first_stage, quiet.legacy.second_stage
        self._empty: set[tuple[bool, int, int, int]] = set()

    def pages(self, tables: Root, first: int, last: int) -> Iterator[Piece]:
        """The pages that overlap the range; `first` and `last` may cut them."""
        if isinstance(tables, SecondStageRoot):
            limit = 1 << self.second_stage.address_bits(tables)
            top = _top(tables, 0)
            yield from self._below(self.second_stage, tables, top, first, min(last, limit))
            return
        # The lower canonical half, then the upper one, where the top table's entries 256 to 511 are.
        half = 1 << self.first_stage.address_bits(tables)
        yield from self._first(tables, 0, first, min(last, half))
        yield from self._first(tables, ALL - 2 * half, max(first, ALL - half), last)

    def _first(self, tables: FirstStageRoot, start: int, first: int, last: int) -> Iterator[Piece]:
        """The pages of one half of a first stage, if nested as the second stage cuts them."""
        second = tables.second
        top = _top(tables, start)
        pages = self._below(self.first_stage, tables, top, first, last)
        if second is None:
            yield from pages
            return
        for page in pages:
            ours = page.within(first, last)
            guest = ours.host, ours.host + ours.stop - ours.start
            for below in self.pages(second, *guest):
                part = below.within(*guest)
                start = ours.start + part.start - ours.host
                yield Piece(start, start + part.stop - part.start, part.host, (page.meaning, part.meaning))

    def _below(self, stage: Any, tables: Root, table: _Table, first: int, last: int) -> Iterator[Piece]:
        """The pages that a table and those below it map, as far as they overlap a range."""
        level, entry_format, shift = table.level, tables.formats[table.level], 3 + 9 * table.level
        low, high = max(first - table.start >> shift, 0), min((last - 1 - table.start >> shift) + 1, 512)
        if low >= high or table.key(tables) in self._empty:
            return
        empty = True
        for index, entry, place in self._entries(stage, tables, table, range(low, high)):
            start = table.start + (index << shift)
            rules = entry_format.rules(entry)
            try:
                left = stage.check_entry(tables, entry_format, rules, table.rights, entry, _LACKS_NOTHING)
                if rules is not entry_format.page:
                    self._check_update(stage, tables, entry_format, entry, place)
            except Blocked:
                continue
            if rules is entry_format.page:
                empty = False
                meaning = (level, left, entry & ~entry_format.page_address, place.meaning)
                yield Piece(start, start + (1 << shift), entry & entry_format.page_address, meaning)
                continue
            address = entry & entry_format.table.layout.fields["ADDR"].mask
            for piece in self._below(stage, tables, _Table(address, level - 1, left, start), first, last):
                empty = False
                yield piece
        if empty and high - low == 512:
            self._empty.add(table.key(tables))

    def _entries(self, stage: Any, tables: Root, table: _Table, indices: range) -> Iterator[tuple[int, int, _Place]]:
        """The entries of a table that are present and can be read: index, bits, and where they are."""
        entry_format, first = tables.formats[table.level], indices.start
        where, leaf = table.address + 8 * first, None
        if isinstance(tables, FirstStageRoot):
            # If nested, one page of the second stage maps all of the table.
            try:
                where, leaf = stage.locate_entry(tables, where, table.level)
            except Blocked:
                return
        memory = stage.access.memory_for(tables.snooped)
        meaning = () if leaf is None else (leaf.entry & ~leaf.format.page_address, leaf.page.kind.writable)
        for index, entry in zip(indices, _words(memory, where, len(indices)), strict=True):
            if entry & entry_format.present:
                yield index, entry, _Place(where + 8 * (index - first), leaf, meaning)

    def _check_update(self, stage: Any, tables: Root, entry_format: PagingFormat, entry: int, place: _Place) -> None:
        """Whether the unit could set the bits of an upper entry that it has to set. Raises Blocked."""
        missing = stage.bits_to_set(tables, entry, dirty=False)
        under = (place.leaf,) if isinstance(tables, FirstStageRoot) else ()
        stage.set_bits(tables, entry_format, place.where, entry, missing, *under)


class _Table(NamedTuple):
    """A table: where it is (for a nested first stage, a guest address), and the first address that it maps."""

    address: int
    level: int
    rights: int
    start: int

    def key(self, tables: Root) -> tuple[bool, int, int, int]:
        """What decides whether it maps anything at all."""
        return isinstance(tables, SecondStageRoot), self.address, self.level, self.rights


class _Place(NamedTuple):
    """Where an entry is; if nested, the second-stage leaf for its table, and the Meaning of that."""

    where: int
    leaf: Leaf | None
    meaning: Meaning


def _top(tables: Root, start: int) -> _Table:
    """The top table, taken to map the addresses from `start` on."""
    rights = second_stage.RIGHTS if isinstance(tables, SecondStageRoot) else first_stage.RIGHTS
    return _Table(tables.address, tables.levels, rights, start)


def _words(memory: Memory, where: int, count: int) -> Sequence[int]:
    """The quadwords at an address; without memory there 0, which is not present in any stage."""
    try:
        return struct.unpack(f"<{count}Q", memory.read(where, 8 * count))
    except MemoryAccessError:
        return [_word(memory, at) for at in range(where, where + 8 * count, 8)]


def _word(memory: Memory, where: int) -> int:
    try:
        return memory.read_u64(where)
    except MemoryAccessError:
        return 0
