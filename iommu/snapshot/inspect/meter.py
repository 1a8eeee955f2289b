"""Bounded work: memory that may be read for so many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from iommu.memory import Memory

_LEAST = 32


class CutShort(Exception):
    """More of the tables would have to be read than is allowed: those of a hostile guest can describe 2**36 pages."""


class MeteredMemory:
    """Memory whose reads use up an allowance, in bytes; None for no limit.

    Writes pass: what a snapshot loads is a private copy.
    """

    def __init__(self, behind: Memory, allowance: int | None) -> None:
        self.behind, self.allowance = behind, allowance

    def _use(self, length: int) -> None:
        if self.allowance is not None:
            self.allowance -= max(length, _LEAST)
            if self.allowance < 0:
                raise CutShort

    def read(self, address: int, length: int) -> bytes:
        """See Memory. Raises CutShort."""
        self._use(length)
        return self.behind.read(address, length)

    def read_u64(self, address: int) -> int:
        """See Memory. Raises CutShort."""
        self._use(8)
        return self.behind.read_u64(address)

    def write(self, address: int, data: bytes) -> None:
        """See Memory."""
        self.behind.write(address, data)

    @contextmanager
    def lend(self, most: int | None) -> Iterator[None]:
        """A part of the allowance, for one piece of work: what is left of it is given back."""
        whole = self.allowance
        if whole is None or most is None:
            yield
            return
        self.allowance = lent = min(most, max(whole, 0))
        try:
            yield
        finally:
            self.allowance = whole - lent + max(self.allowance or 0, 0)
