"""A recording in words: each step of software and devices as a driver author would write it down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from iommu import AddressType, DmaRequest
from iommu.engine.trace import Step as WalkStep
from iommu.fields import Layout
from qemu.vtd.conformance.stimulus.events import (
    Event,
    Interrupted,
    MemoryWritten,
    Recording,
    RegisterRead,
    RegisterWritten,
    Requested,
    Told,
)
from qemu.vtd.conformance.stimulus.fields import RegisterNames, fields_text
from qemu.vtd.conformance.stimulus.tables import Table, tables_of
from qemu.vtd.platform import stamp

PAGE = 0x1000
_MOST_BYTES_SHOWN = 16
_MOST_ALIKE = 8


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: "memory", "register", "read", "device" or "machine".
        text: what was done: "root entry, bus 0x00".
        detail: fields and values.
        where: the address in memory, if it is one.
        event: the request, if a device sent one.
    """

    kind: str
    text: str
    detail: str = ""
    where: int | None = None
    event: Requested | Interrupted | None = None


def steps_of(recording: Recording) -> list[Step]:
    """The steps of a recording, without what the bench does before every scenario."""
    narrator = _Narrator(recording)
    steps: list[Step] = []
    for number, event in enumerate(recording.events):
        if number == 0 and isinstance(event, Told):
            continue
        steps += narrator.steps(event)
    return list(_shortened(_with_reads_joined(steps)))


class _Narrator:
    """Puts the events of one recording into words."""

    def __init__(self, recording: Recording) -> None:
        self.tables = tables_of(recording.events)
        self.registers = RegisterNames(recording.capabilities)
        # Entries that a walk has read: also those of first-stage tables at guest addresses.
        self.walked = {
            step.address: step
            for event in recording.events
            if isinstance(event, Requested)
            for step in event.outcome.trace
            if isinstance(step, WalkStep) and step.address is not None
        }

    def steps(self, event: Event) -> Iterator[Step]:
        """One event as steps: none for what the bench prepares, several for a write of several entries."""
        match event:
            case MemoryWritten():
                yield from self._memory(event)
            case RegisterWritten():
                name, fields = self.registers.describe(event.offset, event.size, event.value)
                yield Step("register", f"write {name} {event.value:#x}", fields)
            case RegisterRead():
                name, fields = self.registers.describe(event.offset, event.size, event.value)
                yield Step("read", f"{name} {event.value:#x}", fields)
            case Requested():
                yield Step("device", request_text(event.device, event.request), event=event)
            case Interrupted():
                request = event.request
                text = f"{event.device} ({request.source_id}) writes {request.data:#x} to {request.address:#x}"
                yield Step("device", f"{text}, an interrupt request", event=event)
            case Told():
                yield Step("machine", event.what)

    def _memory(self, event: MemoryWritten) -> Iterator[Step]:
        written = event.after[event.address - event.start :][: event.length]
        if event.length == PAGE and written == stamp(event.address) * (PAGE // 4):
            return
        if not any(written) and event.length > PAGE // 8:
            yield Step("memory", f"clear {event.length:#x} bytes", where=event.address)
            return
        touched = [(table, *change) for table in self.tables for change in table.touched(event)]
        if touched:
            for table, index, before, after in touched:
                yield _entry_step(table, index, before, after)
            return
        step = self.walked.get(event.address)
        if step is not None and step.view is not None and event.length == step.view.bits // 8:
            detail = fields_text(type(step.view), int.from_bytes(written, "little"))
            yield Step("memory", step.structure, detail or "0", event.address)
            return
        shown = f"{int.from_bytes(written, 'little'):#x}" if event.length <= _MOST_BYTES_SHOWN else ""
        yield Step("memory", f"write {event.length} bytes", shown, event.address)


def request_text(device: str, request: DmaRequest) -> str:
    """A request in words: "A (00:04.0) writes 4 bytes at 0x5000"."""
    kind = {
        AddressType.UNTRANSLATED: f"{request.access.name.lower()}s {request.length} bytes at",
        AddressType.TRANSLATION_REQUEST: "requests a translation of",
        AddressType.TRANSLATED: f"{request.access.name.lower()}s {request.length} bytes at the translated address",
    }[request.address_type]
    pasid = "" if request.pasid is None else f", PASID {request.pasid:#x}"
    return f"{device} ({request.source_id}) {kind} {request.address:#x}{pasid}"


def _entry_step(table: Table, index: int, before: int, after: int) -> Step:
    place = table.place(index)
    text = f"{table.name}, {place}" if place else table.name
    layout = table.layout(after)
    if before and after:
        changed = before ^ after
        old, new = (
            fields_text(table.layout(raw), raw, _whole_fields(table.layout(raw), changed)) or "0"
            for raw in (before, after)
        )
        detail = f"{new} (was {old})"
    else:
        detail = fields_text(layout, after) or "0"
    return Step("memory", text, detail, table.start + index * table.size)


def _whole_fields(layout: type[Layout], bits: int) -> int:
    """These bits, with all bits of each field that has one of them."""
    for part in layout.fields.values():
        if part.mask & bits:
            bits |= part.mask
    return bits


def _with_reads_joined(steps: list[Step]) -> list[Step]:
    """The same with each run of register reads as one step; software that polls reads the same many times."""
    joined: list[Step] = []
    for step in steps:
        before = joined[-1] if joined else None
        if step.kind == "read":
            text = f"{step.text} ({step.detail})" if step.detail else step.text
            if before is not None and before.kind == "read":
                if not before.text.endswith(text):
                    joined[-1] = Step("read", f"{before.text}, {text}")
                continue
            joined.append(Step("read", f"read {text}"))
        else:
            joined.append(step)
    return joined


def _shortened(steps: list[Step]) -> Iterator[Step]:
    """The same with long runs of writes to entries of one kind cut to their first two and their last."""
    for kind, group in groupby(steps, key=_kind):
        run = list(group)
        if not kind or len(run) <= _MOST_ALIKE:
            yield from run
        else:
            yield from (*run[:2], Step("memory", f"... {len(run) - 3} more of the kind"), run[-1])


def _kind(step: Step) -> str:
    """The kind of entry that a step writes; empty for other steps."""
    return step.text.partition(",")[0] if step.kind == "memory" else ""
