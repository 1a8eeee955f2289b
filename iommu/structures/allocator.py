"""Allocation of 4 KiB pages for tables."""

from __future__ import annotations

from iommu.errors import MisuseError

PAGE = 1 << 12


class PageAllocator:
    """Allocates 4 KiB pages of a range of memory: freed pages first, then the lowest unused one.

    Pages are not cleared; the caller does that.

    Args:
        start: address of the first page, a multiple of 4 KiB.
        end: the first byte after the last page, a multiple of 4 KiB.

    Raises:
        MisuseError: the range is empty or not made of whole pages.
    """

    def __init__(self, start: int, end: int) -> None:
        if start < 0 or start >= end or (start | end) % PAGE:
            raise MisuseError(f"{start:#x} to {end:#x} is not a range of whole 4 KiB pages")
        self.start, self.end = start, end
        self._next = start
        self._freed: dict[int, None] = {}

    def __call__(self) -> int:
        """Allocate a page. Returns its address. Raises MisuseError if none is left."""
        if self._freed:
            return self._freed.popitem()[0]
        if self._next == self.end:
            raise MisuseError(f"no page is left between {self.start:#x} and {self.end:#x}")
        self._next += PAGE
        return self._next - PAGE

    def free(self, page: int) -> None:
        """Free a page. Raises MisuseError if it is not allocated."""
        if not self.start <= page < self._next or page % PAGE or page in self._freed:
            raise MisuseError(f"{page:#x} is not a page that was handed out")
        self._freed[page] = None

    @property
    def used(self) -> int:
        """The number of allocated pages."""
        return (self._next - self.start) // PAGE - len(self._freed)
