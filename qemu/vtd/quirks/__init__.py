"""QEMU's departures from the specification: each a small override of the engine, with the scenarios that show it.

A quirk is a class that overrides one part of `iommu.RemappingUnit`. It states the QEMU versions that have it, the
conformance scenarios that show it, and what it means for a driver; see `Quirk`. A QEMU version is modelled as the
engine with its quirks:

    profile(version)            a RemappingUnit class that behaves like that QEMU
    POLICY                      the choices every QEMU makes where the specification leaves one

The conformance run fails on a departure that no quirk explains, and on a quirk that no longer shows.
"""

from __future__ import annotations

from collections.abc import Sequence

from iommu import Policy, RemappingUnit
from qemu.vtd.quirks.descriptors import (
    DescriptorWidthNeedsScalable,
    IndexMaskUnlimited,
    InterruptDescriptorAccepted,
    InterruptDescriptorUnchecked,
    QueueStaysOn,
    ScalableTypesInLegacyMode,
    TypeHighIgnored,
    UnalignedTailIgnored,
    UpperHalfUnchecked,
)
from qemu.vtd.quirks.faults import (
    EventKeptUntilStatusWritten,
    FaultAddressUnmasked,
    PasidCutShort,
    PasidWithoutPasid,
    ReservedContextAlwaysRecorded,
    TopTableWithoutPasid,
)
from qemu.vtd.quirks.first_stage import (
    CanonicalBySecondWidth,
    DirtyOnlyWithAccessed,
    GigabytePagesAlways,
    HitsLeaveDirty,
    MarkedThoughBlocked,
    UpdatesUnsnooped,
)
from qemu.vtd.quirks.interrupts import (
    BusRangeReversed,
    CompatibilityAlwaysPasses,
    InterruptFaultsUnrecorded,
    InterruptFieldsUnchecked,
    ReservedBitsBeforeSource,
)
from qemu.vtd.quirks.queue import (
    CompletionDespiteFailedWrite,
    DevicesAlwaysAnswer,
    DeviceTlbAlwaysAccepted,
    FenceOnlyWaitRefused,
    QueueErrorWithoutCode,
    QueueWaitsForTail,
    WaitForBothAborts,
)
from qemu.vtd.quirks.quirk import NEWEST, Quirk, Severity, Version, parse_version, version_text
from qemu.vtd.quirks.registers import (
    CompatibilityStatusNeverSets,
    DescriptorWidthNotShown,
    ExtendedModeAlwaysWritable,
    InterruptTableAlwaysThere,
    LongWritesAbort,
    PageRequestEventUnmasked,
    PointersKeepAllBits,
    QueueAddressShownOnceOn,
    RegistersServeEveryMode,
    TableModeUnchecked,
    TranslationNeverOn,
    UpperAddressesReadOnly,
)
from qemu.vtd.quirks.requests import (
    DataCheckedLast,
    ExtendedModeNotOffered,
    LongWritesAreRequests,
    RequestsWithoutSource,
)
from qemu.vtd.quirks.scalable import (
    AbsentDirectoryWithFpd,
    BothHalvesOfRootChecked,
    ContextFieldsUnchecked,
    DirectoryFpdForWalksOnly,
    DirectoryUnchecked,
    EveryStageIsTheSecond,
    LegacyReasonsForTables,
    OneReasonForPasidTables,
    PasidEntryUnchecked,
    RidPasidAlwaysUsed,
    TypeBeforePresence,
)
from qemu.vtd.quirks.scalable_queue import (
    NarrowQueueAccepted,
    NoPasidDeviceTlbDescriptor,
    PasidCacheDescriptorUnchecked,
    PasidDeviceTlbAccepted,
    PasidMaskLimited,
    ResponseAlwaysAccepted,
    ResponseNeedsPasid,
    ResponseUpperHalfUnchecked,
    ScalableDescriptorsIgnored,
)
from qemu.vtd.quirks.scalable_translation import (
    ClearedEntryStillUsed,
    LegacyReasonsForSecondStage,
    PassThroughKept,
    PassThroughWidthChecked,
    ScalablePassThroughUnlimited,
    SnoopAlwaysAccepted,
    TranslationsBeforeTables,
    WalkFaultsWithPasid,
)
from qemu.vtd.quirks.translation import (
    AllOnesUnreadable,
    ContextsByDevice,
    InterruptRangeByPage,
    PassThroughPointerChecked,
    PassThroughUnlimited,
    ScalableCodeForInterruptRange,
    SilentOnHit,
    TranslationsBeforeContexts,
    TranslationsByRequester,
    UnreadableTopKept,
)

QUIRKS: tuple[type[Quirk], ...] = (
    SilentOnHit,
    AllOnesUnreadable,
    InterruptRangeByPage,
    PassThroughUnlimited,
    PassThroughPointerChecked,
    FaultAddressUnmasked,
    ReservedContextAlwaysRecorded,
    PasidWithoutPasid,
    EventKeptUntilStatusWritten,
    FenceOnlyWaitRefused,
    QueueErrorWithoutCode,
    QueueWaitsForTail,
    DeviceTlbAlwaysAccepted,
    DevicesAlwaysAnswer,
    WaitForBothAborts,
    ScalableCodeForInterruptRange,
    TranslationsByRequester,
    InterruptFaultsUnrecorded,
    CompatibilityAlwaysPasses,
    BusRangeReversed,
    InterruptFieldsUnchecked,
    ContextsByDevice,
    RequestsWithoutSource,
    LongWritesAreRequests,
    DataCheckedLast,
    ExtendedModeNotOffered,
    LegacyReasonsForTables,
    BothHalvesOfRootChecked,
    TypeBeforePresence,
    OneReasonForPasidTables,
    EveryStageIsTheSecond,
    ContextFieldsUnchecked,
    DirectoryUnchecked,
    PasidEntryUnchecked,
    LegacyReasonsForSecondStage,
    WalkFaultsWithPasid,
    PointersKeepAllBits,
    ExtendedModeAlwaysWritable,
    QueueAddressShownOnceOn,
    DescriptorWidthNotShown,
    CompatibilityStatusNeverSets,
    TableModeUnchecked,
    InterruptTableAlwaysThere,
    UpperAddressesReadOnly,
    PageRequestEventUnmasked,
    InterruptDescriptorUnchecked,
    IndexMaskUnlimited,
    TypeHighIgnored,
    QueueStaysOn,
    DescriptorWidthNeedsScalable,
    InterruptDescriptorAccepted,
    UnalignedTailIgnored,
    UpperHalfUnchecked,
    ScalableTypesInLegacyMode,
    SnoopAlwaysAccepted,
    CanonicalBySecondWidth,
    GigabytePagesAlways,
    DirectoryFpdForWalksOnly,
    RidPasidAlwaysUsed,
    ScalablePassThroughUnlimited,
    PassThroughWidthChecked,
    ClearedEntryStillUsed,
    PassThroughKept,
    HitsLeaveDirty,
    UpdatesUnsnooped,
    DirtyOnlyWithAccessed,
    MarkedThoughBlocked,
    PasidMaskLimited,
    PasidDeviceTlbAccepted,
    NarrowQueueAccepted,
    PasidCacheDescriptorUnchecked,
    ScalableDescriptorsIgnored,
    LongWritesAbort,
    RegistersServeEveryMode,
    NoPasidDeviceTlbDescriptor,
    TranslationNeverOn,
    ResponseNeedsPasid,
    ResponseUpperHalfUnchecked,
    ReservedBitsBeforeSource,
    TopTableWithoutPasid,
    TranslationsBeforeContexts,
    ResponseAlwaysAccepted,
    UnreadableTopKept,
    TranslationsBeforeTables,
    CompletionDespiteFailedWrite,
    AbsentDirectoryWithFpd,
    PasidCutShort,
)

POLICY = Policy(
    compress_faults=True,
    permission_per_level=True,
    cache_pasids=False,
    cache_interrupts=False,
    malformed_interrupt_faults=False,
    reserved_validation_fails=True,
    cache_faulting=False,
    cache_upper_levels=False,
)

PARTS = (
    "RegisterFile",
    "Formats",
    "FaultLog",
    "SecondStage",
    "FirstStage",
    "LegacyMode",
    "ScalableMode",
    "Translation",
    "Invalidation",
    "Interrupts",
    "Queue",
    "PageRequests",
)
"""The parts of `RemappingUnit` that a quirk may override."""


def quirks_of(version: Version) -> list[type[Quirk]]:
    """The quirks of that QEMU version."""
    return [quirk for quirk in QUIRKS if quirk.is_in(version)]


def profile(version: Version) -> type[RemappingUnit]:
    """The engine with the quirks of that QEMU version."""
    return unit_with(quirks_of(version))


def unit_with(quirks: Sequence[type[Quirk]]) -> type[RemappingUnit]:
    """The engine with these quirks."""
    parts = {}
    for name in PARTS:
        part = getattr(RemappingUnit, name)
        # A quirk may override a base class that several parts share.
        overrides = [quirk for quirk in quirks if issubclass(part, quirk.__bases__[-1])]
        overrides.sort(key=lambda quirk: not quirk.comes_first)
        parts[name] = type(name, (*overrides, part), {})
    return type("QemuUnit", (RemappingUnit,), parts)


__all__ = [
    "NEWEST",
    "PARTS",
    "POLICY",
    "QUIRKS",
    "Quirk",
    "Severity",
    "Version",
    "parse_version",
    "profile",
    "quirks_of",
    "unit_with",
    "version_text",
]
