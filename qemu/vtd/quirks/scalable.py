"""Departures in the tables of scalable mode (spec 3.4.3, 7.1.3)."""

from __future__ import annotations

from dataclasses import replace

from iommu import DmaRequest, FaultReason, Outcome, SourceId
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats, Stages
from iommu.engine.reasons import Blocked
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import (
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    ScalableRootHalf,
)
from qemu.vtd.quirks.quirk import Quirk, Severity
from qemu.vtd.quirks.scalable_translation import by_cached
from qemu.vtd.quirks.translation import cached_tables

_LEGACY_REASONS = {
    FaultReason.SRT_1: FaultReason.LRT_1,
    FaultReason.SRT_2: FaultReason.LRT_2,
    FaultReason.SRT_3: FaultReason.LRT_3,
    FaultReason.SCT_1: FaultReason.LCT_1,
    FaultReason.SCT_2: FaultReason.LCT_2,
    FaultReason.SCT_3: FaultReason.LCT_3,
}


def _was_cached(mode: ScalableMode) -> bool:
    """Whether the context entry was in the cache before the request, which ClearedEntryStillUsed knows."""
    return bool(getattr(mode, "context_was_cached", False))


def _is_silent(mode: ScalableMode, context: ScalableContext, pasid: int) -> int:
    """Whether no fault of the PASID directory and table, or of a walk, is recorded: 0 or 1.

    With a cached context entry, `vtd_ce_get_pasid_fpd` looks at the FPD of the directory entry and at nothing else if
    it is set. The walk then uses whatever it finds, and faults of walks are qualified.
    """
    if not _was_cached(mode):
        return 0
    try:
        return PasidDirectoryEntry.FPD.get(mode.read_directory(context.directory + 8 * (pasid >> 6)))
    except Blocked:
        return 0


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
        "scalable.caching.absent-root",
        "scalable.caching.absent-context",
        *(
            f"scalable.cache.{name}"
            for name in (
                *("present.root", "present.context", "root.cleared", "context.cleared"),
                "iotlb.outlives-context-entry",
            )
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
        "scalable.cache.entry.directory-with-fpd",
        "scalable.caching.absent-directory",
        "scalable.caching.absent-entry",
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
        except Blocked as condition:
            if _is_silent(self, context, pasid):
                raise Blocked(FaultReason.SPD_2, 1) from None
            # With the FPD of the PASID-table entry nothing is recorded either, whatever the reason.
            if condition.fpd and _was_cached(self):
                raise
            raise Blocked(FaultReason.SPT_1) from None


class DirectoryFpdForWalksOnly(Quirk, ScalableMode):
    """FPD of a PASID directory or PASID-table entry suppresses only the faults of the walk that follows.

    `vtd_ce_get_pasid_fpd` reads it after `vtd_dev_to_context_entry` has found both entries valid. With a cached
    context entry nobody looks whether they are, and FPD counts.
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
        "scalable.cache.entry.directory-with-fpd",
    )
    first = (8, 0, 0)

    def pasid_entry(self, context: ScalableContext, pasid: int) -> PasidContext:
        """See ScalableTables: only the context entry's FPD counts."""
        try:
            return super().pasid_entry(context, pasid)
        except Blocked as condition:
            if _is_silent(self, context, pasid):
                raise Blocked(FaultReason.SPD_2, 1) from None
            # A type that the unit does not have is reported before the FPD of its entry is looked at.
            counts = _was_cached(self) and condition.reason is not FaultReason.SPT_4
            raise Blocked(condition.reason, condition.fpd if counts else context.fpd) from None


class AbsentDirectoryWithFpd(Quirk, ScalableMode):
    """A PASID directory entry with FPD and without P does not keep cached translations from being used.

    `vtd_ce_get_pasid_fpd` is content with an FPD that is set, and the IOTLB is searched before the entry is needed.
    """

    id = "Q87"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.3.3"
    hardware = "Once P is clear and the PASID cache is invalidated, no request is translated by way of the entry."
    driver = "Clear a PASID directory entry as a whole, or invalidate the IOTLB too: QEMU goes on using translations."
    function = "vtd_ce_get_pasid_fpd, vtd_do_iommu_translate"
    scenarios = ("scalable.cache.iotlb.outlives-directory-entry",)
    gone = (11, 0, 0)

    def translate_by_tables(self, request: DmaRequest) -> Outcome:
        """The IOTLB helps."""
        try:
            return super().translate_by_tables(request)
        except Blocked as condition:
            tables = cached_tables(self, request)
            if condition.reason is not FaultReason.SPD_2 or not condition.fpd or tables is None:
                raise
            return by_cached(self, tables, request)


class RidPasidAlwaysUsed(Quirk, ScalableMode):
    """RID_PASID is used without ECAP.RPS, and may be beyond the PASID directory. Seen up to 10.0."""

    id = "Q60"
    severity = Severity.EITHER
    section = "9.4"
    hardware = "Without ECAP.RPS, RID_PASID is reserved, and requests without PASID use PASID 0."
    driver = "Leave RID_PASID 0 where ECAP.RPS is 0: with another value QEMU and hardware use different entries."
    function = "vtd_ce_get_rid2pasid_entry"
    scenarios = ("scalable.rid-pasid.not-offered", "scalable.rid-pasid.record")
    gone = (11, 0, 0)

    def decode_context(self, raw: int) -> ScalableContext:
        """See ScalableTables."""
        rid_pasid = ScalableContextEntry.RID_PASID.get(raw)
        return replace(super().decode_context(raw), rid_pasid=rid_pasid, pasids=1 << 20)


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
    scenarios = (
        "scalable.entry.type-1",
        "scalable.entry.type-3",
        "scalable.offers.device-tlb.nested",
        "scalable.offers.snooping.nested",
    )
    gone = (10, 0, 0)

    def stages(self, entry: int) -> Stages | None:
        """Only the second stage's levels count."""
        if PasidEntry.PGTT.get(entry) in (PasidTranslationType.FIRST_STAGE, PasidTranslationType.NESTED):
            entry = PasidEntry.PGTT.put(entry, PasidTranslationType.SECOND_STAGE)
        return super().stages(entry)


_CONTEXT_FIELDS = ScalableContextEntry.bits_of("DTE", "PASIDE", "PRE", "RID_PRIV")


class ContextFieldsUnchecked(Quirk, ScalableMode):
    """DTE, PASIDE, PRE, RID_PRIV and RID_PASID may be set in a context entry without the capabilities they need."""

    id = "Q32"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.4"
    hardware = "A field whose capability the unit lacks is reserved: SCT.3, code 0x42."
    driver = "Context entries with these fields set work in QEMU even if ECAP does not offer them."
    function = "vtd_context_entry_rsvd_bits_check"
    scenarios = (
        "scalable.reserved.context-entry.device-tlb",
        "scalable.reserved.context-entry.pasid-enable",
        "scalable.reserved.context-entry.page-requests",
        "scalable.reserved.context-entry.privilege",
        "scalable.rid-pasid.not-offered",
        "scalable.rid-pasid.record",
        *(f"scalable.offers.device-tlb.{stage}-{bit}" for stage in ("first", "second") for bit in ("pre", "paside")),
        "scalable.offers.page-requests.rid-priv",
    )

    def read_context(self, where: int) -> int:
        """Without those of them that are reserved."""
        entry = super().read_context(where)
        return entry & ~(_CONTEXT_FIELDS & self.formats.scalable_context.reserved(entry))

    def check_context_entry(self, entry: int, fpd: int) -> None:
        """RID_PASID may be anything. Whether it is used is another quirk."""
        unchecked = ScalableContextEntry.RID_PASID.mask & self.formats.scalable_context.reserved(entry)
        super().check_context_entry(entry & ~unchecked, fpd)


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
        *(f"scalable.offers.snooping.{stage}-pwsnp" for stage in ("first", "second")),
        *(f"scalable.offers.page-requests.{bit}" for bit in ("sre", "ere", "eafe", "pgsnp")),
    )

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """As if the reserved bits were 0."""
        super().check_pasid_entry(entry & ~self.formats.pasid.reserved(entry), fpd)

    def decode_pasid(self, entry: PasidEntry, pasid: int, fpd: int) -> PasidContext:
        """Without the reserved bits, except those of the pointers and AW: QEMU reads AW for a first stage too."""
        ignored = self.formats.pasid.reserved(entry.raw) & ~PasidEntry.bits_of("SSPTPTR", "FSPTPTR", "AW")
        return super().decode_pasid(PasidEntry(entry.raw & ~ignored), pasid, fpd)
