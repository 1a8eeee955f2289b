"""Departures in first-stage translation (spec 3.6)."""

from __future__ import annotations

from iommu import DmaRequest, FaultReason, Outcome
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import Root
from iommu.engine.formats import Formats
from iommu.engine.reasons import Blocked
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import FirstStage1GPage, PasidEntry
from qemu.vtd.quirks.quirk import Quirk, Severity


class CanonicalBySecondWidth(Quirk, ScalableMode):
    """Whether an address is canonical is decided by AW, the address width of the second stage.

    On a unit without a second stage AW is 0, which counts as 30 bits: addresses from 0x20000000 on are refused.
    """

    id = "Q51"
    severity = Severity.FAILS_IN_QEMU
    section = "3.6.1"
    hardware = "With 4 levels, an address is canonical if bits 63:47 are equal. AW does not concern a first stage."
    driver = "In QEMU a first stage reaches addresses from 0x20000000 on only if AW of the PASID-table entry is 2."
    function = "vtd_iova_fl_check_canonical"
    scenarios = (
        "scalable.canonical.bit-29",
        "scalable.canonical.bit-39",
        "scalable.canonical.lower-half-end",
        "scalable.canonical.upper-half-start",
    )
    first = (10, 0, 0)

    def translate_by(self, context: ScalableContext, pasid_context: PasidContext, request: DmaRequest) -> Outcome:
        """See ScalableMode. The width of the top table is at least as large, and its check never fails after this."""
        if pasid_context.first is not None:
            width = min(30 + 9 * PasidEntry.AW.get(pasid_context.raw), self.capabilities.address_width)
            if request.address >> width - 1 not in (0, (1 << 65 - width) - 1):
                raise Blocked(FaultReason.SGN_1)
        return super().translate_by(context, pasid_context, request)


class GigabytePagesAlways(Quirk, Formats):
    """A first-stage page of 1 GiB is accepted without CAP.FS1GP."""

    id = "Q52"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.7"
    hardware = "Without CAP.FS1GP, PS in a level-3 entry is a reserved bit: SFS.3, code 0x72."
    driver = "Pages of 1 GiB work in QEMU although the unit does not offer them."
    function = "vtd_iova_to_flpte"
    scenarios = ("scalable.first.1g-not-offered",)
    first = (10, 0, 0)

    def reserved_in_first_stage(self, level: int, *, page: bool, nested: bool) -> int:
        """PS at level 3 is not reserved."""
        reserved = super().reserved_in_first_stage(level, page=page, nested=nested)
        return reserved & ~FirstStage1GPage.PS.mask if level == 3 else reserved


class HitsLeaveDirty(Quirk, ScalableMode):
    """A write that finds its page in the IOTLB does not set the dirty bit."""

    id = "Q60"
    severity = Severity.EITHER
    section = "3.6.2"
    hardware = "A write through a cached page whose D is clear sets D in the tables."
    driver = "A page that is read first and written later is not marked dirty in QEMU."
    function = "vtd_do_iommu_translate"
    scenarios = ("scalable.cache.first.write-after-read",)
    first = (10, 0, 0)

    def cached_page(self, tables: Root, intent: Intent, address: int) -> Page | None:
        """Whether the page is dirty does not matter."""
        return super().cached_page(tables, intent._replace(sets_dirty=False), address)
