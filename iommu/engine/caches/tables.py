"""The roots of stages, as context and PASID entries give them, and lower tables as they are cached."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.caches.page import Intent, PageKind, Permission
from iommu.engine.entry_format import PagingFormats
from iommu.engine.reasons import Blocked, FaultReason


class FaultCodes(NamedTuple):
    """The fault reasons of one mode for the checks that both modes make.

    Attributes:
        top_unreadable, unreadable: the top table, or a lower table, could not be read.
        reserved: a reserved bit is set.
        beyond: the address is beyond what the stage maps.
        interrupt_range: the host address is in the interrupt range.
        missing: the reasons for missing permissions.
        not_present: the entry is not present; None if that is reported as a missing permission.
    """

    top_unreadable: FaultReason
    unreadable: FaultReason
    reserved: FaultReason
    beyond: FaultReason
    interrupt_range: FaultReason
    missing: dict[Permission, FaultReason]
    not_present: FaultReason | None

    def absent(self, intent: Intent) -> FaultReason:
        """The reason for an entry that is not present."""
        return self.not_present or self.missing[Permission.WRITE if intent.write else Permission.READ]

    def check(self, kind: PageKind, intent: Intent) -> None:
        """Check that a page permits the request. Raises Blocked."""
        permission = intent.lacks(kind)
        # LGN.2, LGN.3; SGN.2, SGN.3, SGN.6, SGN.7: the page does not give a permission that the request needs.
        if permission is not None:
            raise Blocked(self.missing[permission])


LEGACY = FaultCodes(
    top_unreadable=FaultReason.LCT_4,
    unreadable=FaultReason.LSL_1,
    reserved=FaultReason.LSL_2,
    beyond=FaultReason.LGN_1,
    interrupt_range=FaultReason.LGN_4,
    missing={Permission.WRITE: FaultReason.LGN_2, Permission.READ: FaultReason.LGN_3},
    not_present=None,
)
_SCALABLE_MISSING = {
    Permission.USER: FaultReason.SGN_2,
    Permission.EXECUTE: FaultReason.SGN_3,
    Permission.WRITE: FaultReason.SGN_6,
    Permission.READ: FaultReason.SGN_7,
}
SECOND_STAGE = FaultCodes(
    top_unreadable=FaultReason.SSS_4,
    unreadable=FaultReason.SSS_1,
    reserved=FaultReason.SSS_3,
    beyond=FaultReason.SGN_5,
    interrupt_range=FaultReason.SGN_8,
    missing=_SCALABLE_MISSING,
    not_present=FaultReason.SSS_2,
)
FIRST_STAGE = FaultCodes(
    top_unreadable=FaultReason.SFS_4,
    unreadable=FaultReason.SFS_1,
    reserved=FaultReason.SFS_3,
    beyond=FaultReason.SGN_1,
    interrupt_range=FaultReason.SGN_8,
    missing=_SCALABLE_MISSING,
    not_present=FaultReason.SFS_2,
)


class SecondStageRoot(NamedTuple):
    """One second stage: its top table, and how to walk it.

    Attributes:
        address: the top table's host address.
        levels: 3, 4 or 5.
        domain_id, pasid: the tag of its cached entries; without a PASID, as no first stage takes part (6.2.4).
        formats: the formats of its entries, by level.
        codes: the fault reasons of the mode.
        attributes: the attributes of its pages, by `second_stage_index`.
        accessed_dirty: the unit sets accessed and dirty bits (SSADE).
        snooped: the walk snoops processor caches; only then can it update entries.
    """

    address: int
    levels: int
    domain_id: int
    formats: PagingFormats
    codes: FaultCodes
    attributes: tuple[Attributes, ...]
    accessed_dirty: int = 0
    snooped: int = 1
    pasid: None = None


class FirstStageRoot(NamedTuple):
    """One first stage: its top table, and how to walk it.

    Attributes:
        address: the top table; a guest address if nested, otherwise a host address.
        levels: 4 or 5.
        domain_id, pasid: the tag of its cached entries.
        formats: the formats of its entries, by level.
        write_protect: supervisor writes need R/W as well (WPE).
        extended: the unit sets the extended-accessed bit (EAFE).
        snooped: the walk snoops processor caches; only then can it update entries.
        second: the second stage that translates the addresses of tables and pages; None if not nested.
        attributes: the attributes of its pages, by the three bits PAT, PCD and PWT.
        codes: the fault reasons of the mode.
    """

    address: int
    levels: int
    domain_id: int
    pasid: int
    formats: PagingFormats
    write_protect: int
    extended: int
    snooped: int
    second: SecondStageRoot | None
    attributes: tuple[Attributes, ...]
    codes: FaultCodes = FIRST_STAGE


Root = SecondStageRoot | FirstStageRoot


class Table(NamedTuple):
    """An item of a paging-structure cache: a table, and the rights that the levels above it leave.

    `rights` are encoded by the stage that filled the cache.
    """

    address: int
    rights: int
