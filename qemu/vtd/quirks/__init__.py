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
from qemu.vtd.quirks.faults import (
    EventKeptUntilStatusWritten,
    FaultAddressUnmasked,
    PasidWithoutPasid,
    ReservedContextAlwaysRecorded,
)
from qemu.vtd.quirks.interrupts import (
    BusRangeReversed,
    CompatibilityAlwaysPasses,
    InterruptFaultsUnrecorded,
    InterruptFieldsUnchecked,
)
from qemu.vtd.quirks.queue import (
    DevicesAlwaysAnswer,
    DeviceTlbAlwaysAccepted,
    FenceOnlyWaitRefused,
    QueueErrorWithoutCode,
    QueueWaitsForTail,
    WaitForBothAborts,
)
from qemu.vtd.quirks.quirk import NEWEST, Quirk, Severity, Version, version_text
from qemu.vtd.quirks.scalable import (
    BothHalvesOfRootChecked,
    ContextFieldsUnchecked,
    DirectoryUnchecked,
    EveryStageIsTheSecond,
    LegacyReasonsForSecondStage,
    LegacyReasonsForTables,
    OneReasonForPasidTables,
    PasidEntryUnchecked,
    TypeBeforePresence,
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
    TranslationsByRequester,
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
)

POLICY = Policy(compress_faults=True, permission_per_level=True, cache_pasids=False)

_PARTS = (
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


def quirks_of(version: Version) -> list[type[Quirk]]:
    """The quirks of that QEMU version."""
    return [quirk for quirk in QUIRKS if quirk.is_in(version)]


def profile(version: Version) -> type[RemappingUnit]:
    """The engine with the quirks of that QEMU version."""
    return unit_with(quirks_of(version))


def unit_with(quirks: Sequence[type[Quirk]]) -> type[RemappingUnit]:
    """The engine with these quirks."""
    parts = {}
    for name in _PARTS:
        part = getattr(RemappingUnit, name)
        overrides = [quirk for quirk in quirks if issubclass(quirk, part)]
        parts[name] = type(name, (*overrides, part), {})
    return type("QemuUnit", (RemappingUnit,), parts)


__all__ = [
    "NEWEST",
    "POLICY",
    "QUIRKS",
    "Quirk",
    "Severity",
    "Version",
    "profile",
    "quirks_of",
    "unit_with",
    "version_text",
]
