"""Builds page tables for tests and tools: map, unmap and list ranges, in either stage (spec 9.7, 9.8).

    allocate = PageAllocator(0x10_0000, 0x20_0000)
    pages = SecondStageMapper(memory, allocate)
    pages.map(0x5000, 0x9000, 0x4000)
    ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=pages.root)

A mapper only writes tables. Invalidating what a unit has cached of them is up to the caller.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from typing import ClassVar, NamedTuple

from iommu.errors import MisuseError
from iommu.fields import Layout
from iommu.memory import Memory
from iommu.structures.first_stage import (
    FIRST_STAGE_PAGES,
    FirstStage2MPage,
    FirstStage4KPage,
    FirstStageEntry,
    FirstStageTable,
)
from iommu.structures.second_stage import (
    SECOND_STAGE_PAGES,
    SecondStage2MPage,
    SecondStageEntry,
    SecondStagePage,
    SecondStageTable,
)

SIZE_4K, SIZE_2M, SIZE_1G = 1 << 12, 1 << 21, 1 << 30
_LEVEL_OF = {SIZE_4K: 1, SIZE_2M: 2, SIZE_1G: 3}
_SIZE_OF = {level: size for size, level in _LEVEL_OF.items()}
# In both stages: the address in an entry, and the bit that makes it a large page above level 1.
_ADDRESS, _LARGE = SecondStageTable.ADDR.mask, SecondStage2MPage.PS.mask


class Mapping(NamedTuple):
    """One page that is mapped.

    Attributes:
        address: the address of its first byte, as devices use it.
        host: the host address of that byte (the guest address, for a nested first stage).
        size: in bytes: 4 KiB, 2 MiB or 1 GiB.
        where: the address of the entry that maps it.
        entry: a view of that entry.
    """

    address: int
    host: int
    size: int
    where: int
    entry: Layout


class Mapper:
    """The base class of SecondStageMapper and FirstStageMapper.

    Args:
        memory: where the tables are.
        allocate: gives the address of a free 4 KiB page for each new table; a PageAllocator, or anything callable.
        levels: of the tables.
        page_sizes: the page sizes in bytes that `map` may choose from; 4 KiB, 2 MiB, 1 GiB.
        root: an existing top table; by default a new, empty one.
        release: frees tables that `unmap` leaves empty, e.g. `allocator.free`. Without it, empty tables stay, as in
            drivers that must not free a table before an invalidation has completed.

    Attributes:
        root: address of the top table: what a context entry or PASID-table entry points to.

    Raises:
        MisuseError: a number of levels or a page size that VT-d does not have.
    """

    _TABLE: ClassVar[int]
    """The bits of an entry that points to a table: every permission, so that pages alone decide."""
    _PRESENT: ClassVar[int]
    """An entry with none of these bits maps nothing."""
    _PAGES: ClassVar[dict[int, type[Layout]]]
    _LEVELS: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        memory: Memory,
        allocate: Callable[[], int],
        levels: int = 4,
        *,
        page_sizes: Collection[int] = (SIZE_4K, SIZE_2M, SIZE_1G),
        root: int | None = None,
        release: Callable[[int], None] | None = None,
    ) -> None:
        if levels not in self._LEVELS:
            raise MisuseError(f"{type(self).__name__} has {' or '.join(map(str, self._LEVELS))} levels, not {levels}")
        if SIZE_4K not in page_sizes or not _LEVEL_OF.keys() >= set(page_sizes):
            raise MisuseError(f"page sizes are 4 KiB, and 2 MiB and 1 GiB, not {sorted(page_sizes)}")
        self.memory, self.allocate, self.levels, self.release = memory, allocate, levels, release
        self._levels_of_pages = sorted((_LEVEL_OF[size] for size in page_sizes), reverse=True)
        self._span = 1 << 12 + 9 * levels
        self.root = self._new_table() if root is None else root

    def map_entries(self, address: int, host: int, length: int, flags: int, page_size: int | None = None) -> None:
        """Map `length` bytes at `address` to `host`, with `flags`: an entry of a 4 KiB page without its address.

        Uses the largest pages that fit, or pages of `page_size` if given. Tables are allocated as needed; an error of
        the allocator propagates, and what was mapped until then stays mapped.

        Raises:
            MisuseError: the ranges are not whole pages, or beyond what the tables can map; the flags have no
                permission; or part of the range is mapped already. Nothing is written then.
        """
        first = self._position(address, length)
        if host < 0 or host % SIZE_4K or (host + length - 1) & ~(_ADDRESS | SIZE_4K - 1):
            raise MisuseError(f"host address {host:#x} is not a multiple of 4 KiB that entries can hold")
        if not flags & self._PRESENT or flags & _ADDRESS:
            raise MisuseError(f"an entry {flags:#x} maps nothing: it needs a permission, and no address bits")
        levels = self._levels_of_pages
        if page_size is not None:
            if page_size not in _LEVEL_OF or (address | host | length) % page_size:
                raise MisuseError(f"{address:#x}, {host:#x} and {length:#x} are not multiples of {page_size!r} bytes")
            levels = [_LEVEL_OF[page_size]]
        there = next(self._mappings(self.root, self.levels, 0, first, first + length), None)
        if there is not None:
            raise MisuseError(f"{there.address:#x} is mapped already, to {there.host:#x}")
        self._fill(first, host, length, flags, levels)

    def unmap(self, address: int, length: int) -> int:
        """Unmap `length` bytes at `address`, as far as they are mapped. Returns how many bytes were mapped.

        A large page that is only partly in the range is split into the next smaller pages, with the same
        permissions; those outside the range stay.

        Raises:
            MisuseError: the range is not whole 4 KiB pages, or beyond what the tables can map.
        """
        first = self._position(address, length)
        return self._clear(self.root, self.levels, 0, first, first + length)

    def mappings(self, address: int | None = None, length: int | None = None) -> Iterator[Mapping]:
        """Every mapped page, in the order of the tables; or only those that overlap a range."""
        if address is None or length is None:
            first, last = 0, self._span
        else:
            first = self._position(address, length)
            last = first + length
        return self._mappings(self.root, self.levels, 0, first, last)

    def lookup(self, address: int) -> Mapping | None:
        """The page that maps `address`, if any does."""
        return next(self.mappings(address & ~(SIZE_4K - 1), SIZE_4K), None)

    # Positions: addresses without the bits above those that index the tables.

    def _position(self, address: int, length: int) -> int:
        """The position of a range. Raises MisuseError if the tables cannot map all of it."""
        if length <= 0 or (address | length) % SIZE_4K:
            raise MisuseError(f"{length:#x} bytes at {address:#x} are not whole 4 KiB pages")
        if address < 0 or address + length > self._span:
            raise MisuseError(f"{length:#x} bytes at {address:#x} do not fit {self.levels} levels")
        return address

    def _address(self, position: int) -> int:
        """The inverse of `_position`."""
        return position

    # Entries of one table. A level's entries are `1 << 3 + 9 * level` bytes apart.

    def _read(self, table: int, first: int = 0, count: int = 512) -> tuple[int, ...]:
        return struct.unpack(f"<{count}Q", self.memory.read(table + 8 * first, 8 * count))

    def _write(self, table: int, first: int, *entries: int) -> None:
        """Write consecutive entries at once: 512 entries take little longer than one."""
        self.memory.write(table + 8 * first, struct.pack(f"<{len(entries)}Q", *entries))

    def _new_table(self) -> int:
        table = self.allocate()
        self.memory.write(table, bytes(SIZE_4K))
        return table

    def _is_page(self, entry: int, level: int) -> bool:
        return level == 1 or bool(level <= 3 and entry & _LARGE)

    def _page(self, flags: int, level: int) -> int:
        """The flags of a 4 KiB page, converted to those of a page of `level`."""
        return flags | (_LARGE if level > 1 else 0)

    def _flags(self, entry: int, level: int) -> int:
        """The flags of a page of `level`, converted to those of a 4 KiB page."""
        return entry & ~_ADDRESS & ~(_LARGE if level > 1 else 0)

    def _host(self, entry: int, level: int) -> int:
        return entry & _ADDRESS & -(1 << 3 + 9 * level)

    # Walks.

    def _fill(self, position: int, host: int, length: int, flags: int, levels: list[int]) -> None:
        """Write the entries of a range: at once all that are of one size, and in one table or in tables in a row."""
        while length:
            level = next(n for n in levels if not (position | host) % _SIZE_OF[n] and length >= _SIZE_OF[n])
            size = _SIZE_OF[level]
            index = position // size % 512
            first = host | self._page(flags, level)
            if not index and length >= 1024 * size and level < self.levels:
                count = self._fill_tables(position, level, first, length // size // 512)
            else:
                count = min(512 - index, length // size)
                self._write(self._table(position, level), index, *range(first, first + count * size, size))
            position, host, length = position + count * size, host + count * size, length - count * size

    def _fill_tables(self, position: int, level: int, first: int, count: int) -> int:
        """Fill up to `count` whole tables of a level, as many as one table points to. Returns how many entries.

        Args:
            position: of the first table.
            first: its first entry.
        """
        import numpy as np  # noqa: PLC0415 - most users of mappers map little, and the import is slow

        upper, index = self._table(position, level + 1), position >> 3 + 9 * (level + 1) & 0x1FF
        count = min(count, 512 - index)
        pointers = list(self._read(upper, index, count))
        entries = np.arange(512 * count, dtype="<u8") * np.uint64(_SIZE_OF[level]) + np.uint64(first)
        filled = 0
        try:
            for filled, pointer in enumerate(pointers):
                if not pointer & self._PRESENT:
                    pointers[filled] = self.allocate() | self._TABLE
                table = pointers[filled] & _ADDRESS
                self.memory.write(table, entries[512 * filled : 512 * (filled + 1)].tobytes())
            filled = count
        finally:
            # Tables are linked once they are filled, also those before one that could not be.
            self._write(upper, index, *pointers[:filled])
        return 512 * count

    def _table(self, position: int, level: int) -> int:
        """The table of `level` for `position`; missing tables are allocated."""
        table = self.root
        for upper in range(self.levels, level, -1):
            index = position >> 3 + 9 * upper & 0x1FF
            entry = self.memory.read_u64(table + 8 * index)
            if not entry & self._PRESENT:
                entry = self._new_table() | self._TABLE
                self._write(table, index, entry)
            table = entry & _ADDRESS
        return table

    def _within(self, level: int, start: int, first: int, last: int) -> tuple[int, int]:
        """The indexes of a range, first and one after the last, in a table that maps from position `start` on."""
        shift = 3 + 9 * level
        return max(first - start, 0) >> shift, min((last - start - 1 >> shift) + 1, 512)

    def _mappings(self, table: int, level: int, start: int, first: int, last: int) -> Iterator[Mapping]:
        low, high = self._within(level, start, first, last)
        shift = 3 + 9 * level
        for index, entry in enumerate(self._read(table, low, high - low), low):
            if not entry & self._PRESENT:
                continue
            position = start + (index << shift)
            if self._is_page(entry, level):
                yield Mapping(
                    self._address(position),
                    self._host(entry, level),
                    1 << shift,
                    table + 8 * index,
                    self._PAGES[level](entry),
                )
            else:
                yield from self._mappings(entry & _ADDRESS, level - 1, position, first, last)

    def _clear(self, table: int, level: int, start: int, first: int, last: int) -> int:
        """Clear a range in one table and those below it. Returns how many bytes were mapped."""
        low, high = self._within(level, start, first, last)
        shift = 3 + 9 * level
        entries = self._read(table, low, high - low)
        if level == 1:
            self._write(table, low, *bytes(high - low))
            return sum(1 for entry in entries if entry & self._PRESENT) << shift
        cleared = 0
        for index, entry in enumerate(entries, low):
            position = start + (index << shift)
            if not entry & self._PRESENT:
                continue
            below = entry & _ADDRESS
            if self._is_page(entry, level):
                if first <= position and position + (1 << shift) <= last:
                    self._write(table, index, 0)
                    cleared += 1 << shift
                    continue
                below = self._split(entry, level)
                self._write(table, index, below | self._TABLE)
            cleared += self._clear(below, level - 1, position, first, last)
            self._prune(table, index, below)
        return cleared

    def _split(self, entry: int, level: int) -> int:
        """A new table that maps the same as `entry` with the next smaller pages."""
        host, size = self._host(entry, level), 1 << 3 + 9 * (level - 1)
        flags = host | self._page(self._flags(entry, level), level - 1)
        table = self.allocate()
        self._write(table, 0, *range(flags, flags + 512 * size, size))
        return table

    def _prune(self, table: int, index: int, below: int) -> None:
        """Free a table that maps nothing, if the mapper has `release`."""
        if self.release is not None and not any(self._read(below)):
            self._write(table, index, 0)
            self.release(below)


class SecondStageMapper(Mapper):
    """Builds second-stage tables of 3, 4 or 5 levels (spec 9.8)."""

    _TABLE = _PRESENT = SecondStageTable.make(R=1, W=1)
    _PAGES = SECOND_STAGE_PAGES
    _LEVELS = (3, 4, 5)

    def map(
        self,
        address: int,
        host: int,
        length: int,
        *,
        read: bool = True,
        write: bool = True,
        snoop: bool = False,
        accessed: bool = False,
        dirty: bool = False,
        page_size: int | None = None,
    ) -> None:
        """Map `length` bytes at `address` to `host`, all multiples of 4 KiB.

        Args:
            read, write: permissions; one of them at least.
            snoop: SNP; reserved on a unit without ECAP.SC.
            accessed, dirty: set A and D, so that a unit with SSADE does not have to.
            page_size: in bytes; by default the largest that fits each part.

        Raises:
            MisuseError: see `map_entries`.
        """
        flags = SecondStageEntry.make(R=read, W=write, A=accessed, D=dirty) | SecondStagePage.make(SNP=snoop)
        self.map_entries(address, host, length, flags, page_size)


class FirstStageMapper(Mapper):
    """Builds first-stage tables of 4 or 5 levels (spec 9.7). Addresses are canonical, in the lower or upper half."""

    _TABLE = FirstStageTable.make(P=1, RW=1, US=1)
    _PRESENT = FirstStageEntry.P.mask
    _PAGES = FIRST_STAGE_PAGES
    _LEVELS = (4, 5)

    def map(
        self,
        address: int,
        host: int,
        length: int,
        *,
        write: bool = True,
        user: bool = True,
        execute: bool = True,
        accessed: bool = False,
        dirty: bool = False,
        page_size: int | None = None,
    ) -> None:
        """Map `length` bytes at `address` to `host`, all multiples of 4 KiB. Present pages are always readable.

        Args:
            write: R/W; supervisors may write without it unless WPE is set.
            user: U/S: user requests may use the page.
            execute: XD is clear.
            accessed, dirty: set A and D, so that the unit does not have to.
            page_size: in bytes; by default the largest that fits each part.

        Raises:
            MisuseError: see `map_entries`; or the address is not canonical.
        """
        flags = FirstStageEntry.make(P=1, RW=write, US=user, XD=not execute, A=accessed, D=dirty)
        self.map_entries(address, host, length, flags, page_size)

    def _position(self, address: int, length: int) -> int:
        half = self._span >> 1
        if address >= (1 << 64) - half:
            return super()._position(address - (1 << 64) + self._span, length)
        if address < half < address + length:
            raise MisuseError(f"{length:#x} bytes at {address:#x} are not canonical with {self.levels} levels")
        position = super()._position(address, length)
        if position >= half:
            raise MisuseError(f"{address:#x} is not canonical with {self.levels} levels")
        return position

    def _address(self, position: int) -> int:
        return position if position < self._span >> 1 else position - self._span + (1 << 64)

    # The memory type bit PAT is bit 7 of a small page and bit 12 of a large one.

    def _page(self, flags: int, level: int) -> int:
        if level > 1 and flags & FirstStage4KPage.PAT.mask:
            flags |= FirstStage2MPage.PAT.mask
        return super()._page(flags, level)

    def _flags(self, entry: int, level: int) -> int:
        flags = super()._flags(entry, level)
        if level > 1 and entry & FirstStage2MPage.PAT.mask:
            flags |= FirstStage4KPage.PAT.mask
        return flags
