"""How a unit reads table entries and updates them, with or without snooping."""

from __future__ import annotations

from iommu.engine.entry_format import EntryFormat, PagingFormat
from iommu.engine.reasons import FaultReason
from iommu.memory import Memory, exchange_of

ATTEMPTS = 16
"""How often the unit tries an atomic update that fails because memory changes.

Hardware owns the cache line meanwhile, so its updates do not fail. A memory whose entry is another one each
time must not hang the unit: after this many attempts, the update counts as one that is not possible.
"""


class EntryChanged(Exception):
    """An entry is no longer what the walk has read: others have written it. The walk starts again.

    Attributes:
        reason: the fault if it has changed at each of the attempts.
    """

    def __init__(self, reason: FaultReason) -> None:
        self.reason = reason


class TableAccess:
    """Reads and updates table entries.

    Args:
        memory: as processors see it.
        snooped: as walks that snoop see it.
        unsnooped: as walks that do not snoop see it, without lines that are only in processor caches.
    """

    def __init__(self, memory: Memory, snooped: Memory, unsnooped: Memory) -> None:
        self.memory, self.snooped, self.unsnooped = memory, snooped, unsnooped
        self._exchange = exchange_of(memory)

    def memory_for(self, snooped: int) -> Memory:
        """The memory as a snooped access sees it, or an unsnooped one."""
        return self.snooped if snooped else self.unsnooped

    def begin(self) -> None:
        """A new request begins. What it reads has nothing to do with what was read before."""

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """One entry. Raises MemoryAccessError."""
        memory = self.snooped if snooped else self.unsnooped
        if entry_format.size == 8:
            return memory.read_u64(where)
        return int.from_bytes(memory.read(where, entry_format.size), "little")

    def update(self, entry_format: PagingFormat, where: int, entry: int, bits: int, failed: FaultReason) -> None:
        """Set bits in an entry that the walk has read, atomically and always coherently (3.6.2, 3.7.2).

        Args:
            entry: the entry as the walk has read it.
            bits: the bits to set in addition.
            failed: the fault if it cannot be updated.

        Raises MemoryAccessError, and EntryChanged if the entry is another one by now: nothing was written.
        """
        if not self._exchange(where, entry, entry | bits):
            raise EntryChanged(failed)
