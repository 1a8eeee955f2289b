"""Departures in first-stage translation (spec 3.6)."""

from __future__ import annotations

from iommu import DmaRequest, FaultReason, Outcome
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.formats import Formats
from iommu.engine.reasons import Blocked
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.paging import Leaf
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import FirstStage1GPage, FirstStageEntry, PasidEntry
from qemu.vtd.quirks.quirk import Quirk, Severity


class CanonicalBySecondWidth(Quirk, ScalableMode):
    """Whether an address is canonical is decided by AW, the address width of the second stage.

    On a unit without a second stage AW is 0, which counts as 30 bits: addresses from 0x20000000 on are refused.
    """

    id = "Q57"
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

    id = "Q58"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.7"
    hardware = "Without CAP.FS1GP, PS in a level-3 entry is a reserved bit: SFS.3, code 0x72."
    driver = "Pages of 1 GiB work in QEMU although the unit does not offer them."
    function = "vtd_iova_to_flpte"
    scenarios = ("scalable.first.1g-not-offered",)
    first = (10, 0, 0)

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        """PS at level 3 is not reserved."""
        reserved = super().reserved_in_first_stage(level, page=page)
        return reserved & ~FirstStage1GPage.PS.mask if level == 3 else reserved


class HitsLeaveDirty(Quirk, ScalableMode):
    """A write that finds its page in the IOTLB does not set the dirty bit."""

    id = "Q65"
    severity = Severity.EITHER
    section = "3.6.2"
    hardware = "A write through a cached page whose D is clear sets D in the tables."
    driver = "A page that is read first and written later is not marked dirty in QEMU."
    function = "vtd_do_iommu_translate"
    scenarios = ("scalable.first-dirty.write-after-read", "scalable.cache.first.write-after-read")
    first = (10, 0, 0)

    def cached_page(self, tables: Root, intent: Intent, address: int) -> Page | None:
        """Whether the page is dirty does not matter."""
        return super().cached_page(tables, intent._replace(sets_dirty=False), address)


class UpdatesUnsnooped(Quirk, ScalableMode):
    """Accessed and dirty bits are set although the walk is not snooped."""

    id = "Q66"
    severity = Severity.EITHER
    section = "7.1.3 SFS.9"
    hardware = "Where the walk is not snooped, an entry that needs A or D blocks the request: SFS.9, code 0x90."
    driver = "Set A and D in advance where ECAP.SMPWCS is 0: hardware does not set them, and QEMU does."
    function = "vtd_set_flag_in_pte"
    scenarios = (
        "scalable.first-dirty.read-not-snooped",
        "scalable.first-dirty.write-not-snooped",
        "scalable.first-dirty.both-not-snooped",
        "scalable.first-dirty.table-not-snooped",
        "scalable.first-dirty.not-cached",
        "scalable.first-dirty.write-after-read",
    )
    first = (10, 0, 0)

    def is_snooped(self, entry: PasidEntry) -> int:
        """Always."""
        return 1


class DirtyOnlyWithAccessed(Quirk, FirstStage):
    """The dirty bit is not set in an entry whose accessed bit is set already.

    The update is skipped if any of the bits to set is set.
    """

    id = "Q67"
    severity = Severity.EITHER
    section = "3.6.2"
    hardware = "A write sets D in the entry of its page, whether A was set or not."
    driver = "A page that was read before it is written is never marked dirty in QEMU."
    function = "vtd_set_flag_in_pte"
    scenarios = ("scalable.first-dirty.write-not-snooped",)
    first = (10, 0, 0)

    def bits_to_set(self, tables: FirstStageRoot, entry: int, *, dirty: bool) -> int:
        """None once one of them is set."""
        wanted = FirstStageEntry.A.mask | (FirstStageEntry.D.mask if dirty else 0)
        return 0 if entry & wanted else super().bits_to_set(tables, entry, dirty=dirty)


class MarkedThoughBlocked(Quirk, FirstStage):
    """The entry of a page is marked before it is known that the page is in the interrupt address range."""

    id = "Q68"
    severity = Severity.REPORT_DIFFERS
    section = "3.6.2"
    hardware = "A page in the interrupt address range blocks the request before its entry is marked."
    driver = "A blocked access can leave A and D set in QEMU."
    function = "vtd_iova_to_flpte"
    scenarios = ("scalable.first-dirty.interrupt-range",)
    first = (10, 0, 0)

    def find(self, tables: FirstStageRoot, address: int, intent: Intent) -> Leaf:
        """See FirstStage. The permissions have been checked."""
        leaf = super().find(tables, address, intent)
        self.set_accessed_dirty(tables, leaf, dirty=intent.sets_dirty)
        return leaf
