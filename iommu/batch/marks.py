"""The accessed and dirty bits that requests set in table entries (spec 3.6.2, 3.7.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from iommu.batch.arrays import Int64
from iommu.engine.table_access import ATTEMPTS
from iommu.errors import MemoryAccessError
from iommu.memory import FlatMemory, Memory, exchange_of


class _Updates(NamedTuple):
    """Updates of first-stage entries.

    Attributes:
        order: the numbers of the requests.
        where, entry, bits: the entries, as they were, and the bits that each request sets.
        under: the second-stage entry for the table that each is in; None if the stage is not nested.
    """

    order: Int64
    where: Int64
    entry: Int64
    bits: int
    under: Int64 | None


class Marks:
    """Bits to set, collected while requests are translated.

    Attributes:
        order: the numbers of the requests that are being translated, in the order in which they came.
    """

    def __init__(self) -> None:
        self.order: Int64 = np.zeros(0, np.int64)
        self._found: list[tuple[Int64, int]] = []
        self._updates: list[_Updates] = []

    def add(self, where: Int64, entry: Int64, bits: int) -> None:
        """Bits of entries, those that are not set yet; `where`: the numbers of quadwords."""
        missing = bits & ~entry
        for bit in (1 << n for n in range(bits.bit_length()) if bits >> n & 1):
            if (rows := np.flatnonzero(missing & bit)).size:
                self._found.append((where[rows], bit))

    def add_first_stage(self, rows: Int64, where: Int64, entry: Int64, bits: int, under: Int64 | None) -> None:
        """Bits of first-stage entries.

        Args:
            rows: of the requests, among those of `order`.
            under: see _Updates.
        """
        self.add(where, entry, bits)
        self._updates.append(_Updates(self.order[rows], where, entry, bits, under))

    def _writes_to_tables(self) -> Iterator[Int64]:
        """Second-stage entries that become dirty: for the second stage, an update is a write to the table's page.

        Only the request that sets a bit of a first-stage entry first writes to it.
        """
        updates, self._updates = self._updates, []
        if all(each.under is None for each in updates):
            return
        order = np.concatenate([each.order for each in updates])
        where = np.concatenate([each.where for each in updates])
        bits = np.concatenate([each.bits & ~each.entry for each in updates])
        under = np.concatenate(
            [np.full_like(each.where, -1) if each.under is None else each.under for each in updates]
        )
        inorder = np.argsort(order, kind="stable")
        for bit in (1 << n for n in range(16)):
            setting = inorder[bits[inorder] & bit != 0]
            first = setting[np.unique(where[setting], return_index=True)[1]]
            yield under[first][under[first] >= 0]

    def store(self, memory: Memory, dirty: int) -> int:
        """Set the bits. Returns how many entries have changed. Raises MemoryAccessError if one cannot be written.

        Args:
            dirty: the dirty bit of second-stage entries.
        """
        found, self._found = self._found, []
        found += [(where, dirty) for where in self._writes_to_tables() if where.size]
        if not found:
            return 0
        everywhere = np.unique(np.concatenate([where for where, _ in found]))
        if isinstance(memory, FlatMemory) and type(memory).compare_exchange is FlatMemory.compare_exchange:
            if memory.view.readonly:
                raise MemoryAccessError(int(everywhere[0]) << 3, 8)
            words: Int64 = np.frombuffer(memory.view, "<i8")
            for where, bit in found:
                words[where] |= bit
            return len(everywhere)
        wanted = np.zeros(len(everywhere), np.int64)
        for where, bit in found:
            wanted[np.searchsorted(everywhere, where)] |= bit
        for where, bits in zip((everywhere << 3).tolist(), wanted.tolist(), strict=True):
            _set(memory, where, bits)
        return len(everywhere)


def _set(memory: Memory, where: int, bits: int) -> None:
    """Set bits of one entry, whatever else others write there meanwhile."""
    exchange = exchange_of(memory)
    for _ in range(ATTEMPTS):
        entry = memory.read_u64(where)
        if entry & bits == bits or exchange(where, entry, entry | bits):
            return
    raise MemoryAccessError(where, 8)
