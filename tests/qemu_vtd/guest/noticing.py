"""Broken models before a guest that stands still: each break must differ from what the guest saw."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from iommu import RemappingUnit, SourceId
from iommu.explain.report import FaultReport
from iommu.snapshot import UnitSnapshot
from qemu.vtd.guest import check, domains, log, messages, nvme
from qemu.vtd.guest.check import Finding, Inspection
from qemu.vtd.guest.deep import Watched
from qemu.vtd.guest.guest import Guest
from qemu.vtd.quirks import POLICY, profile
from tests.qemu_vtd.guest.breaks import BREAKS, broken


class Still:
    """A guest that stands still: every unit of it is of one class, over the same registers and memory."""

    def __init__(self, snapshot: UnitSnapshot, kind: type[RemappingUnit]) -> None:
        self._snapshot, self._kind = snapshot, kind

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[RemappingUnit]:
        """As Guest.unit."""
        yield self._snapshot.unit(POLICY, self._kind)


class Witnesses:
    """What a guest saw, apart from its mappings, which its inspection holds."""

    def __init__(
        self,
        arrived: list[messages.Arrival],
        activity: nvme.Activity,
        kinds: dict[SourceId, str],
        reports: list[FaultReport],
    ) -> None:
        self.arrived, self.activity, self.kinds, self.reports = arrived, activity, kinds, reports

    @classmethod
    async def of(cls, found: Inspection, seen: Watched) -> Witnesses:
        """Ask the guest, and QEMU."""
        arrived = await messages.arrivals(found, seen.trace)
        activity = await nvme.activity(found, seen.trace)
        return cls(arrived, activity, await domains.shown(found), await log.printed(found))

    async def differences(self, found: Inspection, still: Still) -> list[Finding]:
        """What a model says otherwise, by the checks of every guest test."""
        judged = Inspection(cast(Guest, still), found.variant, mapped=found.mapped)
        await check.check_tables(judged)
        await check.check_mappings(judged)
        async with still.unit() as unit:
            nvme.judge(judged, unit, self.activity)
            domains.judge(judged, unit, self.kinds)
            log.judge(judged, unit, self.reports)
            for each in self.arrived:
                messages.judge(judged, unit, each)
        return [each for each in judged.findings if not each.agrees]


async def unnoticed(found: Inspection, seen: Watched) -> list[str]:
    """The breaks of this variant that no check notices; "none" is the model itself, in which none may see one."""
    witnesses = await Witnesses.of(found, seen)
    whole = profile(seen.guest.build.version)
    async with seen.guest.snapshot() as snapshot:
        missed = [] if not await witnesses.differences(found, Still(snapshot, whole)) else ["none"]
        for rule in BREAKS.get(found.variant.id, ()):
            if not await witnesses.differences(found, Still(snapshot, broken(whole, rule))):
                missed.append(rule.__name__)
    return missed
