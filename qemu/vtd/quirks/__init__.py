"""Where a QEMU departs from the specification: one small override of the engine each, with its evidence.

A quirk is a class that overrides one part of `iommu.RemappingUnit` and says for which versions it holds and which
scenarios of the conformance catalogue show it. A QEMU is then the engine with its quirks:

    profile(version)            a RemappingUnit class that does what that QEMU does
    POLICY                      how every QEMU uses the freedom the architecture leaves

A departure that no quirk explains, and a quirk that no longer shows, both fail the conformance run.
"""

from __future__ import annotations

from iommu import Policy, RemappingUnit
from qemu.vtd.quirks.faults import FaultAddressUnmasked, PasidWithoutPasid, ReservedContextAlwaysRecorded
from qemu.vtd.quirks.quirk import Quirk, Version
from qemu.vtd.quirks.translation import (
    AllOnesUnreadable,
    InterruptRangeByPage,
    PassThroughPointerChecked,
    PassThroughUnlimited,
    SilentOnHit,
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
)

POLICY = Policy(compress_faults=True, permission_per_level=True)

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
    """The quirks a QEMU of that version has."""
    return [quirk for quirk in QUIRKS if quirk.first <= version and (quirk.gone is None or version < quirk.gone)]


def profile(version: Version) -> type[RemappingUnit]:
    """The engine with the overrides of that version in the parts they override."""
    parts = {}
    for name in _PARTS:
        part = getattr(RemappingUnit, name)
        overrides = [quirk for quirk in quirks_of(version) if issubclass(quirk, part)]
        parts[name] = type(name, (*overrides, part), {})
    return type("QemuUnit", (RemappingUnit,), parts)


__all__ = ["POLICY", "QUIRKS", "Quirk", "Version", "profile", "quirks_of"]
