"""The second-stage walk (spec 3.7, 9.8): from an address to a page, or to the condition that stops it."""

from __future__ import annotations

from iommu.engine.caches import Page
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import (
    SecondStage1GPage,
    SecondStage2MPage,
    SecondStage4KPage,
    SecondStageEntry,
    SecondStageTable,
)

_PAGES: dict[int, type[SecondStage4KPage] | type[SecondStage2MPage] | type[SecondStage1GPage]] = {
    1: SecondStage4KPage,
    2: SecondStage2MPage,
    3: SecondStage1GPage,
}

read_permission = SecondStageEntry.R.get
write_permission = SecondStageEntry.W.get
page_size_bit = SecondStage2MPage.PS.get
next_table = SecondStageTable.ADDR.get


class SecondStage:
    """Walks second-stage tables in `memory` as a unit with these capabilities does."""

    def __init__(self, memory: Memory, capabilities: Capabilities, policy: Policy) -> None:
        self.memory = memory
        self.policy = policy
        width, offered = capabilities.host_address_width, capabilities.offered
        self._table_reserved = SecondStageTable.reserved_mask(width, offered)
        self._page_reserved = {level: layout.reserved_mask(width, offered) for level, layout in _PAGES.items()}

    def walk(self, table: int, levels: int, address: int, access: Access) -> Page:
        """The page that maps `address`, with the permissions of all levels combined.

        Args:
            table: the top table's host address (SSPTPTR).
            levels: 3, 4 or 5.
            address: the input address, already known to be within the width.
            access: decides which fault stands for "no permission at all".

        Raises:
            Blocked: LCT.4, LSL.1, LSL.2, LGN.2, LGN.3.
        """
        readable = writable = 1
        for level in range(levels, 0, -1):
            shift = 3 + 9 * level
            try:
                entry = self.read_entry(table + (address >> shift & 0x1FF) * 8)
            except MemoryAccessError:
                # The top table's address comes from the context entry, so that entry is to blame.
                raise Blocked(FaultReason.LCT_4 if level == levels else FaultReason.LSL_1) from None
            readable &= read_permission(entry)
            writable &= write_permission(entry)
            if self.stops_here(entry, readable, writable, access):
                raise Blocked(no_permission(access))
            if level == 1 or (level <= 3 and page_size_bit(entry)):
                if entry & self._page_reserved[level]:
                    raise Blocked(FaultReason.LSL_2)
                return Page(_PAGES[level].ADDR.get(entry), shift, readable, writable)
            if entry & self._table_reserved:
                raise Blocked(FaultReason.LSL_2)
            table = next_table(entry)
        raise AssertionError("level 1 always returns or raises")

    def read_entry(self, where: int) -> int:
        """One 64-bit entry. Raises MemoryAccessError."""
        return self.memory.read_u64(where)

    def stops_here(self, entry: int, readable: int, writable: int, access: Access) -> bool:
        """Whether permissions alone end the walk at this entry, before its other bits are looked at.

        An entry with neither R nor W is not present: all its other bits are ignored. Nor can anything further down
        give back what every level so far has taken.
        """
        if not (readable or writable):
            return True
        return self.policy.permission_per_level and not (readable if access is Access.READ else writable)


def no_permission(access: Access) -> FaultReason:
    """LGN.2 for writes, LGN.3 for reads."""
    return FaultReason.LGN_2 if access is Access.WRITE else FaultReason.LGN_3
