"""Faults in kernel logs: every form that Linux has printed since 2.6.24, and that of Xen.

The forms, with the year in which they appeared (drivers/pci/intel-iommu.c, then drivers/iommu/dmar.c, intel/dmar.c):

    2007   DMAR:[DMA Write] Request device [00:1f.2] fault addr 7ff000
           DMAR:[fault reason 05] PTE Write access is not set
    2009   INTR-REMAP: Request device [[f0:1f.0] fault index 1a
           INTR-REMAP:[fault reason 38] Blocked an interrupt request due to source-id verification failure
    2015   DMAR: [DMA Write] Request device [00:1f.2] fault addr 7ff000 [fault reason 05] ...     on one line
    2019   ... Request device [00:1f.2] PASID ffffffff fault addr ...                             all ones: no PASID
    2021   DMAR: [DMA Write NO_PASID] Request device [0x00:0x1f.2] fault addr 0x7ff000 [fault reason 0x05] ...
    2022   the same with [00:1f.2]; [DMA Write PASID 0x1]; [INTR-REMAP] with fault index 0x1a

Until 2021 Linux printed the reason in decimal, "38" for 0x26; Xen prints it in hexadecimal. Linux prints AtomicOps as
"DMA Read" and page requests as "DMA Write", because it looks at only one of the two type bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from iommu.engine.request import SourceId
from iommu.explain.report import FaultReport, is_interrupt
from iommu.registers import FSTS

_REQUEST = re.compile(
    r"(?:\[(?P<kind>DMA Read|DMA Write|INTR-REMAP)(?: (?P<none>NO_PASID)| PASID 0x(?P<pasid>[0-9a-f]+))?\]"
    r"|(?P<old>INTR-REMAP|UNKNOWN):)"
    r" Request device \[\[?(?:[0-9a-f]{4}:)?"
    r"(?:0x)?(?P<bus>[0-9a-f]{2}):(?:0x)?(?P<device>[01][0-9a-f])\.(?P<function>[0-7])\]"
    r"(?: PASID (?P<old_pasid>[0-9a-f]+))?"
    r" fault (?P<what>addr|index) (?:0x)?(?P<where>[0-9a-f]+)",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\[fault reason (?P<code>0x[0-9a-f]{1,8}|[0-9]{1,8})\]|: reason (?P<xen>[0-9a-f]{2}) - ", re.IGNORECASE
)
_STATUS = re.compile(r"handling fault status reg (?P<status>[0-9a-f]+)", re.IGNORECASE)
_NO_PASID = 0xFFFFFFFF


def faults(lines: Iterable[str]) -> Iterator[FaultReport]:
    """The faults that a log reports, in its order. Other lines, and faults whose reason is missing, are skipped."""
    waiting: tuple[re.Match[str], str] | None = None
    for line in lines:
        request = _REQUEST.search(line)
        if request is not None:
            waiting = request, line.strip()
        reason = _REASON.search(line)
        if reason is not None and waiting is not None:
            origin = waiting[1] if request is not None else f"{waiting[1]} {line.strip()}"
            if (code := _code(reason)) <= 0xFF:
                yield _report(waiting[0], code, origin)
            waiting = None


def lost_faults(lines: Iterable[str]) -> int:
    """How many times the log says that faults were lost, for want of a free recording register (FSTS.PFO)."""
    found = (_STATUS.search(line) for line in lines)
    return sum(FSTS.PFO.get(int(match["status"], 16)) for match in found if match is not None)


def _code(reason: re.Match[str]) -> int:
    """The reason as a number: Xen prints it in hexadecimal, Linux without 0x in decimal."""
    if reason["xen"] is not None:
        return int(reason["xen"], 16)
    return int(reason["code"], 16 if reason["code"].lower().startswith("0x") else 10)


def _report(request: re.Match[str], code: int, origin: str) -> FaultReport:
    device, function = int(request["device"], 16), int(request["function"])
    who = SourceId(int(request["bus"], 16), device, function)
    where = int(request["where"], 16)
    if request["what"].lower() == "index":
        return FaultReport(code, who, index=where & 0xFFFF, kind="interrupt", origin=origin)
    if is_interrupt(code):  # Linux knows 0x20 to 0x26 only, and prints the others as DMA faults
        return FaultReport(code, who, index=where >> 48 & 0xFFFF, kind="interrupt", origin=origin)
    kind = None if request["kind"] is None else request["kind"].split()[-1].lower()
    return FaultReport(code, who, where & (1 << 64) - 1, kind=kind, pasid=_pasid(request), origin=origin)


def _pasid(request: re.Match[str]) -> int | None:
    shown = request["pasid"] or request["old_pasid"]
    if shown is None or int(shown, 16) == _NO_PASID:
        return None
    return int(shown, 16) & 0xFFFFF
