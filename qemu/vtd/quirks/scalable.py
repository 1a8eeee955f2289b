"""Departures in the tables of scalable mode (spec 3.4.3, 7.1.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, FaultReason, Outcome, SourceId
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.tables import LEGACY, SecondStageRoot
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats, Stages
from iommu.engine.reasons import Blocked
from iommu.engine.request import identity
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.translation import Translation
from iommu.registers import TableMode
from iommu.structures import PasidEntry, PasidTranslationType, ScalableContextEntry, ScalableRootHalf
from iommu.structures.second_stage import SecondStagePage
from qemu.vtd.quirks.quirk import Quirk, Severity

_LEGACY_REASONS = {
    FaultReason.SRT_1: FaultReason.LRT_1,
    FaultReason.SRT_2: FaultReason.LRT_2,
    FaultReason.SRT_3: FaultReason.LRT_3,
    FaultReason.SCT_1: FaultReason.LCT_1,
    FaultReason.SCT_2: FaultReason.LCT_2,
    FaultReason.SCT_3: FaultReason.LCT_3,
}


class LegacyReasonsForTables(Quirk, FaultLog):
    """In scalable mode, faults of root and context entries have the codes of legacy mode.

    One function serves both modes.
    """

    id = "Q27"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 SRT, SCT"
    hardware = "Root and context entries of scalable mode have codes of their own: 0x38 to 0x3a and 0x40 to 0x42."
    driver = "In QEMU a fault code below 0x10 does not mean that the unit is in legacy mode."
    function = "vtd_dev_to_context_entry"
    scenarios = (
        "scalable.root.not-present",
        "scalable.root.not-present-reserved",
        "scalable.root.lower-half",
        "scalable.root.upper-half",
        "scalable.root.unreadable",
        "scalable.context.not-present",
        "scalable.context.unreadable",
        "scalable.reserved.root-entry.low",
        "scalable.reserved.root-entry.width",
        "scalable.reserved.context-entry.low",
        "scalable.reserved.context-entry.width",
        "scalable.reserved.context-entry.second",
        "scalable.reserved.context-entry.third",
        "scalable.reserved.context-entry.fourth",
        "scalable.fpd.context.42",
        *(
            f"scalable.cache.{name}"
            for name in ("present.root", "present.context", "root.cleared", "context.cleared")
        ),
    )

    def report(self, reason: FaultReason, request: DmaRequest, fpd: int) -> bool:
        """See FaultLog."""
        return super().report(_LEGACY_REASONS.get(reason, reason), request, fpd)


class BothHalvesOfRootChecked(Quirk, ScalableMode):
    """The reserved bits of both halves of a root entry are checked, whichever half the device uses."""

    id = "Q28"
    severity = Severity.FAILS_IN_QEMU
    section = "9.2"
    hardware = "Only the half that serves the device is looked at."
    driver = "A reserved bit in one half of a root entry blocks the devices of the other half too in QEMU."
    function = "vtd_root_entry_rsvd_bits_check"
    scenarios = ("scalable.root.other-half-reserved", "scalable.root.upper-half-reserved")

    def read_root(self, where: int) -> int:
        """A reserved bit in the other half blocks the request, if the half that is used is present."""
        half, other = super().read_root(where), super().read_root(where ^ 8)
        if ScalableRootHalf.P.get(half) and other & self.formats.scalable_root.reserved(other):
            raise Blocked(FaultReason.SRT_3)
        return half


class TypeBeforePresence(Quirk, ScalableMode):
    """The type of a PASID-table entry is checked before P: an entry of zeros has an invalid type.

    The function that reads the entry checks the type, and its caller whether the entry is present.
    """

    id = "Q29"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 SPT.2"
    hardware = "An entry whose P is 0 is not present, whatever its other bits are: SPT.2, code 0x59."
    driver = (
        "A device without a PASID-table entry shows as code 0x5b, invalid entry, in QEMU, and as 0x59 on hardware."
    )
    function = "vtd_get_pe_in_pasid_leaf_table"
    scenarios = ("scalable.entry.zero",)
    first = (8, 0, 0)

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """First SPT.4, then the others."""
        if self.formats.stages(entry) is None:
            raise Blocked(FaultReason.SPT_4, fpd)
        super().check_pasid_entry(entry, fpd)


class OneReasonForPasidTables(Quirk, ScalableMode):
    """Every fault of the PASID directory and the PASID table is reported as 0x58, and FPD never suppresses it."""

    id = "Q30"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 SPD, SPT"
    hardware = (
        "Each fault of these tables has a code of its own, from 0x50 to 0x5d, and FPD suppresses the qualified ones."
    )
    driver = "Code 0x58 in QEMU 7 says only that something is wrong in the PASID directory or the PASID table."
    function = "vtd_ce_get_rid2pasid_entry, vtd_get_pe_from_pasid_table"
    scenarios = (
        "scalable.directory.not-present",
        "scalable.directory.unreadable",
        "scalable.entry.not-present",
        "scalable.entry.zero",
        "scalable.entry.type-0",
        "scalable.entry.type-5",
        "scalable.entry.type-6",
        "scalable.entry.type-7",
        "scalable.entry.width-0",
        "scalable.entry.width-3",
        "scalable.entry.width-4",
        "scalable.entry.width-5",
        "scalable.entry.width-6",
        "scalable.entry.width-7",
        "scalable.entry.width-2-on-39",
        *(f"scalable.fpd.{place}.51" for place in ("context", "directory")),
        *(f"scalable.fpd.{place}.{code}" for place in ("context", "directory", "entry") for code in ("59", "5b")),
        "scalable.fpd.context.not-50",
        "scalable.record.tables",
        "scalable.pass-through.not-offered",
        "scalable.pass-through.width-ignored",
        "scalable.cache.present.directory",
        "scalable.cache.present.pasid",
        "scalable.cache.directory.cleared",
        "scalable.cache.type.pass-through-cleared-with-context",
    )
    gone = (8, 0, 0)

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        """See ScalableTables."""
        try:
            return super().pasid_context_of(context, source_id, pasid)
        except Blocked:
            raise Blocked(FaultReason.SPT_1) from None


class DirectoryFpdForWalksOnly(Quirk, ScalableMode):
    """FPD of a PASID directory or PASID-table entry suppresses only the faults of the walk that follows.

    `vtd_ce_get_pasid_fpd` reads it after `vtd_dev_to_context_entry` has found both entries valid.
    """

    id = "Q59"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3"
    hardware = "FPD of a directory or PASID-table entry counts as soon as the entry is read, even if its P is 0."
    driver = (
        "FPD in a PASID directory or PASID-table entry does not keep QEMU from recording that the entry is wrong."
    )
    function = "vtd_ce_get_pasid_fpd"
    scenarios = (
        "scalable.fpd.directory.51",
        "scalable.fpd.directory.59",
        "scalable.fpd.directory.5b",
        "scalable.fpd.entry.59",
        "scalable.fpd.entry.5b",
    )
    first = (8, 0, 0)

    def pasid_entry(self, context: ScalableContext, pasid: int) -> PasidContext:
        """See ScalableTables: only the context entry's FPD counts."""
        try:
            return super().pasid_entry(context, pasid)
        except Blocked as condition:
            raise Blocked(condition.reason, context.fpd) from None


class RidPasidAlwaysUsed(Quirk, ScalableMode):
    """RID_PASID is used without ECAP.RPS, and may be beyond the PASID directory. Seen up to 10.0."""

    id = "Q60"
    severity = Severity.EITHER
    section = "9.4"
    hardware = "Without ECAP.RPS, requests without PASID use PASID 0, and RID_PASID is ignored or reserved."
    driver = "Leave RID_PASID 0 where ECAP.RPS is 0: with another value QEMU and hardware use different entries."
    function = "vtd_ce_get_rid2pasid_entry"
    scenarios = ("scalable.rid-pasid.not-offered",)
    gone = (11, 0, 0)

    def decode_context(self, raw: int) -> ScalableContext:
        """See ScalableTables."""
        rid_pasid = ScalableContextEntry.RID_PASID.get(raw)
        return replace(super().decode_context(raw), rid_pasid=rid_pasid, pasids=1 << 20)


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


class EveryStageIsTheSecond(Quirk, Formats):
    """An entry for a first stage, or for a nested one, is taken for one of a second stage alone.

    The check of the type accepts them, and everything else reads the second-stage pointer.
    """

    id = "Q31"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.1.3 SPT.4"
    hardware = "A type that the unit does not offer is invalid: SPT.4, code 0x5b."
    driver = (
        "A PASID-table entry for first-stage or nested translation works in QEMU, with the second-stage tables only."
    )
    function = "vtd_pe_type_check"
    scenarios = ("scalable.entry.type-1", "scalable.entry.type-3")
    gone = (10, 0, 0)

    def stages(self, entry: int) -> Stages | None:
        """Only the second stage's levels count."""
        if PasidEntry.PGTT.get(entry) in (PasidTranslationType.FIRST_STAGE, PasidTranslationType.NESTED):
            entry = PasidEntry.PGTT.put(entry, PasidTranslationType.SECOND_STAGE)
        return super().stages(entry)


_CONTEXT_FIELDS = ScalableContextEntry.bits_of("DTE", "PASIDE", "PRE", "RID_PRIV")


class ContextFieldsUnchecked(Quirk, ScalableMode):
    """DTE, PASIDE, PRE and RID_PRIV may be set in a context entry without the capabilities that they need."""

    id = "Q32"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.4"
    hardware = "A field whose capability the unit lacks is reserved: SCT.3, code 0x42."
    driver = "Context entries with DTE, PASIDE, PRE or RID_PRIV work in QEMU even if ECAP does not offer them."
    function = "vtd_context_entry_rsvd_bits_check"
    scenarios = (
        "scalable.reserved.context-entry.device-tlb",
        "scalable.reserved.context-entry.pasid-enable",
        "scalable.reserved.context-entry.page-requests",
        "scalable.reserved.context-entry.privilege",
    )

    def read_context(self, where: int) -> int:
        """Without those of them that are reserved."""
        entry = super().read_context(where)
        return entry & ~(_CONTEXT_FIELDS & self.formats.scalable_context.reserved(entry))


class DirectoryUnchecked(Quirk, Formats):
    """The reserved bits of a PASID directory entry are not checked; too large a pointer is tried."""

    id = "Q33"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.5"
    hardware = "A reserved bit in a present directory entry blocks the request: SPD.3, code 0x52."
    driver = "A directory entry with reserved bits works in QEMU and is blocked by hardware."
    function = "vtd_get_pdire_from_pdir_table"
    scenarios = (
        "scalable.reserved.directory-entry.low",
        "scalable.reserved.directory-entry.width",
        "scalable.fpd.context.52",
        "scalable.fpd.directory.52",
    )

    def reserved_in_directory(self, entry: int) -> int:
        """None."""
        return 0


_UNCHECKED_IN_ENTRY = (
    *("second-execute", "second-dirty", "low", "width", "above-domain", "walk-snoop", "page-snoop"),
    *("cache-disable", "memory-type", "below-pat", "pat", "supervisor", "execute", "first-levels"),
    *("write-protect", "extended-accessed", "below-first-pointer", "first-pointer"),
    *("fourth", "fifth", "sixth", "seventh", "eighth"),
)


_UNCHECKED_IN_FIRST_STAGE_ENTRY = (
    *("second-width", "second-pointer", "supervisor", "execute", "extended-accessed"),
    *("below-first-pointer", "first-pointer-width"),
)


class PasidEntryUnchecked(Quirk, ScalableMode):
    """The reserved bits of a PASID-table entry are not checked and have no effect; too large a pointer is tried."""

    id = "Q34"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.6"
    hardware = "A reserved bit in a present PASID-table entry blocks the request: SPT.3, code 0x5a."
    driver = "A PASID-table entry with reserved bits works in QEMU and is blocked by hardware."
    function = "vtd_get_pe_in_pasid_leaf_table"
    scenarios = (
        *(f"scalable.fpd.{place}.5a" for place in ("context", "directory", "entry")),
        *(f"scalable.reserved.pasid-entry.{name}" for name in _UNCHECKED_IN_ENTRY),
        *(f"scalable.reserved.first-stage-pasid-entry.{name}" for name in _UNCHECKED_IN_FIRST_STAGE_ENTRY),
        "scalable.canonical.second-width",
    )

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """As if the reserved bits were 0."""
        super().check_pasid_entry(entry & ~self.formats.pasid.reserved(entry), fpd)

    def decode_pasid(self, entry: PasidEntry, pasid: int, fpd: int) -> PasidContext:
        """Without the reserved bits, except those of the pointers and AW: QEMU reads AW for a first stage too."""
        ignored = self.formats.pasid.reserved(entry.raw) & ~PasidEntry.bits_of("SSPTPTR", "FSPTPTR", "AW")
        return super().decode_pasid(PasidEntry(entry.raw & ~ignored), pasid, fpd)


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


class LegacyReasonsForSecondStage(Quirk, ScalableMode):
    """In scalable mode, faults of the second stage have the codes of legacy mode; only 0x87 is right."""

    id = "Q35"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 SSS, SGN"
    hardware = "The second stage has codes of its own in scalable mode, from 0x78 on."
    driver = "In QEMU faults of the second stage have the codes of legacy mode, also in scalable mode."
    function = "vtd_iova_to_slpte"
    scenarios = _SECOND_STAGE_FAULTS

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
    scenarios = (*_SECOND_STAGE_FAULTS, *_INTERRUPT_RANGE, *_FIRST_STAGE_FAULTS)
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
    scenarios = tuple(
        f"{where}-{level}"
        for where in ("scalable.second.snoop-without", "setup.scalable-unit.snoop-level")
        for level in (1, 2, 3)
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
        self._present = False

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        """See ScalableTables. QEMU caches a context entry when a walk uses it."""
        self._present = self._walked.get(source_id) is context
        item = super().pasid_context_of(context, source_id, pasid)
        if item.first is not None or item.second is not None:
            self._walked[source_id] = context
        return item

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """As if P were 1, once a walk has used the context entry."""
        super().check_pasid_entry(entry | self._present, fpd)


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
