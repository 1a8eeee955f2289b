"""The way of a request through the tables, box by box: what was read, what it held, where it stopped."""

from __future__ import annotations

from dataclasses import dataclass

from iommu import FaultReason, Outcome
from iommu.engine.trace import Step
from iommu.structures import InterruptEntry, PostedInterruptEntry, RemappableAddress, RemappedInterruptEntry
from qemu.vtd.conformance.stimulus.events import Interrupted, Requested
from qemu.vtd.conformance.stimulus.fields import fields_text

_TABLE = 0x1000


@dataclass(frozen=True)
class Box:
    """One box of the picture.

    Attributes:
        title: what it is: "root entry".
        where: its address, or that it was found in a cache.
        fields: the fields that are not 0.
        note: what was checked, and where it points; or why the request stops here.
        state: "passed", "stopped" or "arrived".
    """

    title: str
    where: str
    fields: str
    note: str
    state: str = "passed"


def walk_of(event: Requested | Interrupted) -> list[Box]:
    """The boxes from the request to where it arrived or stopped."""
    if isinstance(event, Interrupted):
        return _interrupt(event)
    steps = [step for step in event.outcome.trace if isinstance(step, Step)]
    return [*(_box(step) for step in steps), _end(event)]


def result_of(event: Requested | Interrupted) -> str:
    """How a request ended, in a few words: "0x800010", "blocked, 0x05"."""
    if event.outcome.fault is not None:
        return f"blocked, {event.outcome.fault.value:#04x}"
    if isinstance(event, Interrupted):
        message = event.outcome.message
        return "posted" if message is None else f"{message.address:#x} {message.data:#x}"
    if event.outcome.interrupt:
        return "interrupt message"
    host = event.outcome.host_address
    return "blocked" if host is None else f"{host:#x}"


def _box(step: Step) -> Box:
    fields = "" if step.view is None else fields_text(type(step.view), step.view.raw) or "0"
    if step.fault is not None:
        return Box(step.structure, _where(step), fields, f"{step.fault.condition}: {step.checked}", "stopped")
    # Where an entry points is among its fields already.
    checked = step.checked.partition(";")[0] if step.address is not None else step.checked
    return Box(step.structure, _where(step), fields, checked)


def _where(step: Step) -> str:
    if step.address is None:
        return "cached" if step.cached else ""
    if step.view is None:
        return f"at {step.address:#x}"
    return f"entry {step.address % _TABLE * 8 // step.view.bits:#x}, at {step.address:#x}"


def _end(event: Requested) -> Box:
    outcome, request = event.outcome, event.request
    if outcome.fault is not None:
        return _blocked(outcome.fault, recorded=outcome.recorded)
    if outcome.interrupt:
        return Box("interrupt message", "", "", "not DMA", "arrived")
    if outcome.host_address is None:
        return Box("blocked", "", "", "without a fault", "stopped")
    size = f"page of {outcome.page_size >> 10} KiB, {_rights(outcome)}"
    return Box(f"host {outcome.host_address:#x}", "", "", f"{size}; {request.access.name.lower()} done", "arrived")


def _rights(outcome: Outcome) -> str:
    return f"{'R' if outcome.readable else '-'}{'W' if outcome.writable else '-'}"


def _blocked(fault: FaultReason, *, recorded: bool) -> Box:
    note = "recorded" if recorded else "not recorded"
    return Box("blocked", f"fault {fault.value:#04x}", fault.condition, f"{fault.meaning}; {note}", "stopped")


def _interrupt(event: Interrupted) -> list[Box]:
    request, outcome = event.request, event.outcome
    remappable = bool(RemappableAddress.IF.get(request.address))
    form = "remappable format" if remappable else "compatibility format"
    layout = RemappableAddress if remappable else None
    fields = fields_text(layout, request.address & 0xFFFF_FFFF) if layout else ""
    boxes = [Box("interrupt request", f"{request.data:#x} to {request.address:#x}", fields, form)]
    if event.entry is not None:
        index, raw = event.entry
        posted = bool(InterruptEntry.IM.get(raw)) and outcome.posted is not None
        view = PostedInterruptEntry if posted else RemappedInterruptEntry
        state = "passed" if outcome.fault is None else "stopped"
        boxes.append(Box("interrupt-remapping entry", f"index {index:#x}", fields_text(view, raw) or "0", "", state))
    if outcome.fault is not None:
        boxes.append(_blocked(outcome.fault, recorded=outcome.recorded))
    elif outcome.posted is not None:
        posting = outcome.posted
        boxes.append(Box("posted", f"at {posting.descriptor:#x}", f"vector {posting.vector:#x}", "", "arrived"))
    elif outcome.message is not None:
        note = "unchanged" if outcome.passed else "remapped"
        where = f"{outcome.message.data:#x} to {outcome.message.address:#x}"
        boxes.append(Box("interrupt message", where, "", note, "arrived"))
    return boxes
