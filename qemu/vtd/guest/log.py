"""Every fault that a guest's kernel has printed: the model must say the same of such a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from iommu.engine.unit import RemappingUnit
from iommu.explain import linux
from iommu.explain.report import FaultReport
from iommu.snapshot.request import request_of
from qemu.vtd.guest.check import Inspection


async def check_log(found: Inspection) -> None:
    """The mappings are still those of the time of the faults."""
    reports = await printed(found)
    async with found.guest.unit() as unit:
        judge(found, unit, reports)


async def printed(found: Inspection) -> list[FaultReport]:
    """The faults in the kernel's log."""
    return list(linux.faults((await found.guest.run("dmesg")).splitlines()))


def judge(found: Inspection, unit: RemappingUnit, reports: Sequence[FaultReport]) -> None:
    """Compare faults that the kernel printed with those of the same requests in the model."""
    for report in reports:
        if (request := request_of(report)) is not None:
            # The devices here send no PASID; QEMU 10.0 records the one that it took from RID_PASID.
            fault = unit.translate(replace(request, length=4, pasid=None, privileged=False, execute=False)).fault
            what = f"{request.source_id} {report.kind} {request.address:#x}"
            found.compare(f"the kernel's fault: {what}", hex(report.code or 0), fault and hex(fault))
