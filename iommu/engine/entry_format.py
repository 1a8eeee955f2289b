"""The format of one kind of table entry: its declaration, the bits that must be 0, the bits that hardware reads.

formats.py states the rules and creates the formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from iommu.fields import Layout
from iommu.structures import SecondStage2MPage

_PAGE_SIZE = SecondStage2MPage.PS.mask


class EntryFormat(ABC):
    """One kind of table entry on one unit.

    Attributes:
        name: what it is called in messages.
        layout: its declaration.
        size: bytes.
    """

    def __init__(self, name: str, layout: type[Layout]) -> None:
        self.name, self.layout, self.size = name, layout, layout.bits // 8

    @abstractmethod
    def layout_of(self, entry: int) -> type[Layout]:
        """The declaration to decode this entry with."""

    @abstractmethod
    def reserved(self, entry: int) -> int:
        """The bits that must be 0 in this entry, if it is present."""

    @abstractmethod
    def read_mask(self, entry: int) -> int:
        """The bits of this entry that hardware reads; software may use the others."""


class StructureFormat(EntryFormat):
    """Root, context, PASID and interrupt entries: bit 0 is P.

    Args:
        reserved, ignored: for an entry, the bits that must be 0, and those that hardware does not read.
        read_when_absent: the bits besides P that hardware reads in an entry that is not present.
    """

    def __init__(
        self,
        name: str,
        layout: type[Layout],
        reserved: Callable[[int], int],
        ignored: Callable[[int], int] | None = None,
        *,
        read_when_absent: int = 0,
    ) -> None:
        super().__init__(name, layout)
        self._reserved, self._ignored, self._read_when_absent = reserved, ignored, 1 | read_when_absent

    def layout_of(self, entry: int) -> type[Layout]:
        """See EntryFormat."""
        return self.layout

    def reserved(self, entry: int) -> int:
        """See EntryFormat."""
        return self._reserved(entry)

    def read_mask(self, entry: int) -> int:
        """See EntryFormat."""
        if not entry & 1:
            return self._read_when_absent
        ignored = self.layout.ignored_mask() if self._ignored is None else self._ignored(entry)
        return (1 << self.layout.bits) - 1 & ~ignored


class Rules(NamedTuple):
    """The rules of the paging entries of one level that map a page, or of those that point to a table.

    Attributes:
        layout: their declaration.
        reserved: the bits that must be 0.
        ignored: the bits that hardware does not read.
    """

    layout: type[Layout]
    reserved: int
    ignored: int


class PagingFormat(EntryFormat):
    """The entries of one level of a stage (9.7, 9.8), which point to a table or map a page.

    Attributes:
        level: 1 for the entries that map 4 KiB.
        present: an entry with none of these bits is not present, and its other bits are ignored.
        page_size: the size in bytes of a page of this level.
        page_address: the bits of an entry that are the page's address.
        size_bit: the bit with which a present entry maps a page: PS; 0 at levels without pages, -1 at level 1.
        table, page: the rules of the entries that point to a table, and of those that map a page.
        accessed_dirty: the accessed and dirty bits that the unit sets.
    """

    def __init__(
        self, stage: str, level: int, table: Rules, page: Rules, *, present: int, accessed_dirty: int
    ) -> None:
        super().__init__(f"{stage}-stage entry, level {level}", table.layout)
        self.level, self.present, self.accessed_dirty, self.page_size = level, present, accessed_dirty, 8 << 9 * level
        self.page_address = page.layout.fields["ADDR"].mask
        self.size_bit = -1 if level == 1 else _PAGE_SIZE if level <= 3 else 0
        self.table, self.page = table, page

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PagingFormat) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def rules(self, entry: int) -> Rules:
        """`page` if this entry maps a page, `table` otherwise; no page is larger than 1 GiB (3.6, 3.7)."""
        return self.page if self.level == 1 or (self.level <= 3 and entry & _PAGE_SIZE) else self.table

    def layout_of(self, entry: int) -> type[Layout]:
        """See EntryFormat."""
        return self.rules(entry).layout

    def reserved(self, entry: int) -> int:
        """See EntryFormat."""
        return self.rules(entry).reserved

    def read_mask(self, entry: int) -> int:
        """See EntryFormat."""
        if not entry & self.present:
            return self.present
        return (1 << 64) - 1 & ~self.rules(entry).ignored


PagingFormats = tuple[PagingFormat, ...]
"""The formats of a stage's entries by level; there is no level 0."""
