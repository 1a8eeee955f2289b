"""How a unit reads table entries and updates them, with or without snooping."""

from __future__ import annotations

from iommu.engine.entry_format import EntryFormat
from iommu.memory import Memory


class TableAccess:
    """Reads and updates table entries.

    Args:
        memory: as processors see it.
        snooped: as walks that snoop see it.
        unsnooped: as walks that do not snoop see it, without lines that are only in processor caches.
    """

    def __init__(self, memory: Memory, snooped: Memory, unsnooped: Memory) -> None:
        self.memory, self.snooped, self.unsnooped = memory, snooped, unsnooped

    def memory_for(self, snooped: int) -> Memory:
        """The memory as a snooped access sees it, or an unsnooped one."""
        return self.snooped if snooped else self.unsnooped

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """One entry. Raises MemoryAccessError."""
        memory = self.snooped if snooped else self.unsnooped
        if entry_format.size == 8:
            return memory.read_u64(where)
        return int.from_bytes(memory.read(where, entry_format.size), "little")

    def update(self, entry_format: EntryFormat, where: int, entry: int) -> None:
        """Write back an entry in which the unit has set bits, always coherently. Raises MemoryAccessError."""
        self.memory.write(where, entry.to_bytes(entry_format.size, "little"))
