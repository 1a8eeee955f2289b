"""Departures in the second stage, pass-through and cached entries of scalable mode (spec 3.7, 3.9, 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, FaultReason, Outcome, SourceId
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.page import PLAIN_INTENTS
from iommu.engine.caches.tables import LEGACY, FirstStageRoot, Root, SecondStageRoot
from iommu.engine.formats import Formats, Stages
from iommu.engine.reasons import Blocked
from iommu.engine.request import identity
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.translation import Translation
from iommu.registers import TableMode
from iommu.structures import PasidEntry
from iommu.structures.second_stage import SecondStagePage
from qemu.vtd.quirks.quirk import Quirk, Severity
from qemu.vtd.quirks.translation import TranslationsBeforeContexts, cached_tables

_LEVELS = (4, 3, 2, 1)
_SECOND_STAGE_FAULTS = (
    "scalable.reserved.pasid-entry.width",
    "scalable.width.beyond-levels",
    "scalable.width.beyond-guest-width",
    "scalable.width.beyond-39-bits",
    *(f"scalable.absent.level-{level}" for level in _LEVELS),
    *(f"scalable.absent.level-{level}-read" for level in _LEVELS),
    "scalable.absent.reserved-bits",
    *(f"scalable.permission.no-write-{level}" for level in _LEVELS),
    *(f"scalable.permission.no-read-{level}" for level in _LEVELS),
    "scalable.permission.disjoint-levels",
    "scalable.permission.missing-above-reserved-below",
    *(f"scalable.unreadable.level-{level}" for level in _LEVELS),
    "scalable.second.all-ones",
    "scalable.cache.present.page",
    *(f"scalable.reserved.second-stage-{level}.width" for level in _LEVELS),
    *(f"scalable.reserved.second-stage-{level}.transient" for level in _LEVELS),
    *(f"scalable.reserved.second-stage-{level}.snoop" for level in (4, 3, 2)),
    "scalable.reserved.second-stage-4.page-size",
    *(
        f"scalable.reserved.second-stage-{size}-page.{name}"
        for size in (2, 3)
        for name in ("alignment", "width", "transient")
    ),
)
_INTERRUPT_RANGE = (
    "scalable.second.interrupt-range",
    "scalable.second.interrupt-range-read",
    "scalable.second.beside-interrupt-range",
)


_FIRST_STAGE_FAULTS = (
    *(f"scalable.first.{name}-{level}" for name in ("absent", "supervisor", "no-write") for level in _LEVELS),
    "scalable.first.absent-read",
    "scalable.first.absent-reserved-bits",
    "scalable.first.supervisor-before-write",
    *(f"scalable.first.unreadable-{level}" for level in _LEVELS),
    "scalable.first.missing-above-reserved-below",
    "scalable.first.all-ones",
    "scalable.first.interrupt-range",
    "scalable.first.interrupt-range-read",
    *(f"scalable.canonical.{name}" for name in ("bit-47", "bit-48", "bit-63", "bit-62-clear")),
    "scalable.record.walk",
    "scalable.first-dirty.denied",
    "scalable.first-dirty.reserved",
    "scalable.first-dirty.interrupt-range",
    "scalable.reserved.first-stage-pasid-entry.first-pointer-width",
    "scalable.reserved.first-stage-4.page-size",
    *(f"scalable.reserved.first-stage-{level}.width" for level in _LEVELS),
    *(f"scalable.reserved.first-stage-{size}-page.{name}" for size in (2, 3) for name in ("alignment", "width")),
)

_ENTRIES = (*(f"absent-level-{level}" for level in (4, 3, 2, 1)), "reserved")
_CACHING_FIRST = tuple(f"scalable.caching.first-{name}" for name in _ENTRIES)
_CACHING_SECOND = tuple(f"scalable.caching.second-{name}" for name in _ENTRIES)


class LegacyReasonsForSecondStage(Quirk, ScalableMode):
    """In scalable mode, faults of the second stage have the codes of legacy mode; only 0x87 is right."""

    id = "Q35"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 SSS, SGN"
    hardware = "The second stage has codes of its own in scalable mode, from 0x78 on."
    driver = "In QEMU faults of the second stage have the codes of legacy mode, also in scalable mode."
    function = "vtd_iova_to_slpte"
    scenarios = (*_SECOND_STAGE_FAULTS, *_CACHING_SECOND)

    def second_root(self, entry: PasidEntry, levels: int) -> SecondStageRoot:
        """See ScalableTables."""
        codes = LEGACY._replace(interrupt_range=FaultReason.SGN_8)
        return super().second_root(entry, levels)._replace(codes=codes)


class WalkFaultsWithPasid(Quirk, Translation):
    """The fault of a walk is recorded with RID_PASID, as if the request had carried it: PP is 1."""

    id = "Q36"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.7.6"
    hardware = "The record of a request without PASID has PP and PV 0."
    driver = "PP does not show in QEMU whether the request had a PASID."
    function = "vtd_do_iommu_translate"
    scenarios = (*_SECOND_STAGE_FAULTS, *_INTERRUPT_RANGE, *_FIRST_STAGE_FAULTS, *_CACHING_FIRST, *_CACHING_SECOND)
    gone = (11, 0, 0)

    def report(self, condition: Blocked, request: DmaRequest) -> bool:
        """Once the PASID-table entry is known, the request counts as one with a PASID."""
        context = self.scalable.caches.scalable_contexts.find(request.source_id)
        in_tables = FaultReason.RTA_1 <= condition.reason <= FaultReason.SPT_6
        if self.mode == TableMode.SCALABLE and not in_tables and isinstance(context, ScalableContext):
            request = replace(request, pasid=context.rid_pasid)
        return super().report(condition, request)


class SnoopAlwaysAccepted(Quirk, Formats):
    """On a unit with scalable mode, SNP may be set in second-stage pages without ECAP.SC."""

    id = "Q56"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.8"
    hardware = "Without ECAP.SC, SNP in a second-stage page is a reserved bit: SSS.3, code 0x7a."
    driver = "A driver that sets SNP without looking at ECAP.SC works in QEMU and is blocked by hardware."
    function = "vtd_init"
    scenarios = (
        *(
            f"{where}-{level}"
            for where in ("scalable.second.snoop-without", "setup.scalable-unit.snoop-level")
            for level in (1, 2, 3)
        ),
        "scalable.offers.device-tlb.second-snoop",
    )

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        """SNP in a page is not reserved."""
        snoop = SecondStagePage.SNP.mask if page and self.capabilities.scalable_mode else 0
        return super().reserved_in_second_stage(level, page=page) & ~snoop


class ClearedEntryStillUsed(Quirk, ScalableMode):
    """A PASID-table entry whose P is cleared goes on translating while the device's context entry is cached.

    On a context-cache hit, `vtd_do_iommu_translate` reads the entry for its FPD and type alone, and the walk uses the
    entry whatever it holds. Only an invalidation of the context entry, which software need not issue, helps.
    """

    id = "Q63"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.3.3"
    hardware = (
        "Once P is clear and the PASID cache and the IOTLB are invalidated, no request is translated by the entry."
    )
    driver = "Clearing P alone does not end the access in QEMU: clear the whole entry, or invalidate the context too."
    function = "vtd_do_iommu_translate, vtd_ce_get_pasid_fpd"
    scenarios = ("scalable.cache.entry.cleared", "scalable.cache.entry.cleared-with-fpd")

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._walked: dict[int, ScalableContext] = {}
        self.context_was_cached = False

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        """See ScalableTables. QEMU caches a context entry when a walk uses it."""
        self.context_was_cached = self._walked.get(source_id) is context
        item = super().pasid_context_of(context, source_id, pasid)
        if item.first is not None or item.second is not None:
            self._walked[source_id] = context
        return item

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """As if P were 1, once a walk has used the context entry."""
        super().check_pasid_entry(entry | self.context_was_cached, fpd)


class PassThroughKept(Quirk, ScalableMode):
    """A device in pass-through stays so until its context entry is invalidated, whatever becomes of its PASID entry.

    Only invalidations of the context cache make `vtd_switch_address_space` look at the tables again. Seen up to 10.0.
    """

    id = "Q64"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.3.3"
    hardware = "After an invalidation of the PASID cache, the new PASID-table entry is used."
    driver = "A device leaves pass-through in QEMU only after its context entry has been invalidated."
    function = "vtd_switch_address_space"
    scenarios = ("scalable.cache.type.from-pass-through", "scalable.cache.type.pass-through-cleared")
    gone = (11, 0, 0)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._kept: dict[int, tuple[ScalableContext, PasidContext]] = {}

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        """See ScalableTables. The context is another object once it has been invalidated."""
        kept = self._kept.get(source_id)
        if kept is not None and kept[0] is context:
            return kept[1]
        item = super().pasid_context_of(context, source_id, pasid)
        if item.first is None and item.second is None:
            self._kept[source_id] = context, item
        return item


class ScalablePassThroughUnlimited(Quirk, ScalableMode):
    """Pass-through of scalable mode does not check the address against the host address width: see Q04."""

    id = "Q61"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.1.3 SGN.4"
    hardware = "Pass-through is limited by the host address width: SGN.4, code 0x83."
    driver = "In pass-through, an address beyond the host address width is not noticed in QEMU."
    function = "vtd_switch_address_space"
    scenarios = ("scalable.pass-through.beyond-host-width", "scalable.pass-through.beyond-39-bits")

    def pass_through(self, request: DmaRequest, pasid_context: PasidContext) -> Outcome:
        """Accept any address."""
        return identity(request.address, pasid_context.attributes)


class PassThroughWidthChecked(Quirk, Formats):
    """A PASID-table entry for pass-through must hold an address width that the unit supports."""

    id = "Q62"
    severity = Severity.FAILS_IN_QEMU
    section = "9.6"
    hardware = "AW is not used by pass-through."
    driver = "Write a supported width to AW for pass-through too: QEMU blocks the device otherwise."
    function = "vtd_get_pe_in_pasid_leaf_table"
    scenarios = ("scalable.pass-through.width-ignored",)
    gone = (10, 0, 0)

    def stages(self, entry: int) -> Stages | None:
        """None without such a width."""
        stages = super().stages(entry)
        return stages if self.second_stage_levels(PasidEntry.AW.get(entry)) else None


class TranslationsBeforeTables(Quirk, ScalableMode):
    """In scalable mode too a cached translation is used before context and PASID-table entries are looked at.

    Without RID_PASID (ECAP.RPS) the PASID of a request is known beforehand, and the IOTLB is searched first: see Q82.
    """

    id = "Q85"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.1.1"
    hardware = TranslationsBeforeContexts.hardware
    driver = TranslationsBeforeContexts.driver
    function = "vtd_do_iommu_translate"
    scenarios = ("scalable.cache.iotlb.outlives-context-entry", "scalable.cache.iotlb.outlives-directory-entry")
    first = (11, 0, 0)

    def translate_by_tables(self, request: DmaRequest) -> Outcome:
        """The IOTLB comes first."""
        tables = cached_tables(self, request)
        return super().translate_by_tables(request) if tables is None else by_cached(self, tables, request)


def by_cached(mode: ScalableMode, tables: Root, request: DmaRequest) -> Outcome:
    """What a cached translation gives, whatever the context and PASID-table entries hold now."""
    stage = mode.first_stage if isinstance(tables, FirstStageRoot) else mode.second_stage
    return mode.translate_stage(stage, tables, PLAIN_INTENTS[request.access], request)
