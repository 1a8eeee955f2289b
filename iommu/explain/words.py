"""Interrupts and recorded faults in words."""

from __future__ import annotations

from iommu.engine.interrupts.request import Interrupt
from iommu.engine.reasons import FaultReason
from iommu.explain.report import FaultReport
from iommu.structures import DeliveryMode

_MODES = {mode.value: mode.name.lower().replace("_", " ") for mode in DeliveryMode}


def reason_in_words(reason: FaultReason) -> str:
    """A fault reason with its section."""
    return f"{reason} (spec {reason.section})"


def delivery_mode_in_words(number: int) -> str:
    """The DLM field."""
    return _MODES.get(number, f"delivery mode {number}")


def interrupt_in_words(interrupt: Interrupt) -> str:
    """An interrupt as processors get it."""
    destination = f"{'logical' if interrupt.logical else 'physical'} destination {interrupt.destination:#x}"
    trigger = "level" if interrupt.level else "edge"
    hint = ", redirection hint" if interrupt.redirection_hint else ""
    mode = delivery_mode_in_words(interrupt.delivery_mode)
    return f"{destination}, vector {interrupt.vector:#x}, {mode}, {trigger}{hint}"


def fault_in_words(report: FaultReport) -> str:
    """A recorded fault in words: the reason, the request, the device."""
    reason = f"{report.code:#04x}" if report.reason is None else reason_in_words(report.reason)
    if report.index is not None:
        return f"{reason}: interrupt of {report.source_id}, index {report.index:#x}"
    pasid = "" if report.pasid is None else f", PASID {report.pasid:#x}"
    return f"{reason}: {report.kind} of {report.source_id}, address {report.address or 0:#x}{pasid}"
