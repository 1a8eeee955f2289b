"""The second-stage walk (spec 3.7, 9.8): from an address to a page, or to the condition that stops it."""

from __future__ import annotations

from iommu.engine.caches import Page
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access, AddressType, DmaRequest
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

# An entry with neither R nor W is not present, and all its other bits are ignored.
_PRESENT = SecondStageEntry.R.mask | SecondStageEntry.W.mask

read_permission = SecondStageEntry.R.get
write_permission = SecondStageEntry.W.get
page_size_bit = SecondStage2MPage.PS.get
next_table = SecondStageTable.ADDR.get


class SecondStage:
    """Walks second-stage tables in `memory` as a unit with these capabilities does."""

    def __init__(self, memory: Memory, capabilities: Capabilities, policy: Policy) -> None:
        self.memory = memory
        self.policy = policy
        self._zero_length_read = capabilities.zero_length_read
        width, offered = capabilities.host_address_width, capabilities.offered
        self._table_reserved = SecondStageTable.reserved_mask(width, offered)
        self._page_reserved = {level: layout.reserved_mask(width, offered) for level, layout in _PAGES.items()}

    def walk(self, table: int, levels: int, request: DmaRequest) -> Page:
        """The page that maps the request's address, with the permissions of all levels combined.

        Args:
            table: the top table's host address (SSPTPTR).
            levels: 3, 4 or 5.
            request: its address is known to be within the width.

        Raises:
            Blocked: LCT.4, LSL.1, LSL.2, LGN.2, LGN.3.
        """
        readable = writable = 1
        for level in range(levels, 0, -1):
            shift = 3 + 9 * level
            try:
                entry = self.read_entry(table + (request.address >> shift & 0x1FF) * 8)
            except MemoryAccessError:
                # The top table's address comes from the context entry, so that entry is to blame.
                raise Blocked(FaultReason.LCT_4 if level == levels else FaultReason.LSL_1) from None
            if not entry & _PRESENT:
                raise Blocked(no_permission(request))
            readable &= read_permission(entry)
            writable &= write_permission(entry)
            if self.policy.permission_per_level and not self.permits(readable, writable, request):
                raise Blocked(no_permission(request))
            is_page = level == 1 or (level <= 3 and page_size_bit(entry))
            if entry & (self._page_reserved[level] if is_page else self._table_reserved):
                raise Blocked(FaultReason.LSL_2)
            if not (readable or writable):
                # Nothing further down can give back what the levels so far have taken.
                raise Blocked(no_permission(request))
            if is_page:
                return Page(_PAGES[level].ADDR.get(entry), shift, readable, writable)
            table = next_table(entry)
        raise AssertionError("level 1 always returns or raises")

    def read_entry(self, where: int) -> int:
        """One 64-bit entry. Raises MemoryAccessError."""
        return self.memory.read_u64(where)

    def permits(self, readable: int, writable: int, request: DmaRequest) -> bool:
        """Whether these permissions cover the request (spec 3.7.1).

        A zero-length read may make do with W (CAP.ZLR); a translation request takes what there is.
        """
        if request.address_type is AddressType.TRANSLATION_REQUEST:
            return bool(readable or writable)
        if request.access is Access.WRITE:
            return bool(writable)
        return bool(readable or (writable and request.length == 0 and self._zero_length_read))


def no_permission(request: DmaRequest) -> FaultReason:
    """LGN.2 for writes, LGN.3 for reads."""
    return FaultReason.LGN_2 if request.access is Access.WRITE else FaultReason.LGN_3
