"""Saving a unit and restoring it: everything but its memory and its devices (docs/embedding.md).

A restored unit answers as the original would have. What follows from capabilities, policy or cached entries is not
saved but derived again, by the part that owns the rule. Nothing of a saved state is trusted: see `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from iommu.engine import state_caches, state_ledger
from iommu.engine.ats import AtsDevice, PageRequest
from iommu.engine.audit import Ledger
from iommu.engine.caches.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.listeners import Listeners
from iommu.engine.page_requests.page_requests import PageRequests
from iommu.engine.policy import Policy
from iommu.engine.register_file import RegisterFile
from iommu.engine.request import SourceId
from iommu.engine.state_format import (
    COMMANDS,
    EVENTS,
    IGNORED,
    LATCHED,
    NO_PASID,
    OVERDUE,
    POSTED,
    PROTECTED,
    REGISTERS,
    SECTIONS,
    Reader,
    Section,
    build,
    pasid_of,
)
from iommu.engine.steps import IgnoredWrite, Pending, Steps, Work
from iommu.engine.translation.translation import Translation
from iommu.errors import MisuseError
from iommu.memory import Memory
from iommu.registers import PMEN

Key = TypeVar("Key")
Item = TypeVar("Item")
Rows = list[tuple[Any, ...]]


class Unit(Protocol):
    """What this module needs of a RemappingUnit."""

    memory: Memory
    capabilities: Capabilities
    policy: Policy
    ledger: Ledger | None
    registers: RegisterFile
    caches: Caches
    formats: Formats
    faults: FaultLog
    invalidation: Invalidation
    interrupts: Interrupts
    devices: dict[int, AtsDevice]
    translation: Translation
    page_requests: PageRequests
    queue: Queue | None
    steps: Steps | None
    listeners: Listeners


class Latched(NamedTuple):
    """A number that a part of the unit holds: the path of the attribute, and the values it can have."""

    path: str
    allowed: Callable[[Unit], Container[int]]


def _any_of(values: Container[int]) -> Callable[[Unit], Container[int]]:
    return lambda _: values


def _counted(cache: str) -> Callable[[Unit], Container[int]]:
    """A cache counts what was filled since all was dropped: no less than it holds."""
    tags: Callable[[Unit], Any] = attrgetter(f"caches.{cache}")
    return lambda unit: range(
        sum(len(sized) for _, pages in tags(unit).tags() for sized in pages), unit.policy.cache_capacity + 1
    )


_FLAG, _MODE, _PAGE = _any_of(range(2)), _any_of(range(4)), _any_of(range(0, 1 << 64, 4096))

LATCHED_NUMBERS = (
    Latched("translation.enabled", _FLAG),
    Latched("translation.mode", _MODE),
    Latched("translation.legacy.root_table", _PAGE),
    Latched("translation.scalable.root_table", _PAGE),
    Latched("invalidation.mode", _MODE),
    Latched("interrupts.enabled", _FLAG),
    Latched("interrupts.compatibility_passes", _FLAG),
    Latched("interrupts.table", _PAGE),
    Latched("interrupts.size", _any_of([2 << size for size in range(16)])),
    Latched("interrupts.extended", _FLAG),
    Latched("page_requests.enabled", _FLAG),
    Latched("page_requests.mode", _MODE),
    Latched("faults._next", lambda unit: range(unit.capabilities.fault_records)),
    Latched("queue.enabled", _FLAG),
    Latched("queue.mode", _MODE),
    # IQA may differ from it only within one write of software.
    Latched("queue._effective_address", lambda unit: () if unit.queue is None else (unit.queue._address.value,)),
    Latched("caches.iotlb._count", _counted("iotlb")),
    Latched("caches.first_stage._count", _counted("first_stage")),
    Latched("caches.second_stage._count", _counted("second_stage")),
)


# Saving.


def save(unit: Unit) -> bytes:
    """The state of a unit, in the format of state_format.py.

    Raises MisuseError while the invalidation queue carries out a descriptor: a device that it calls cannot save.
    """
    if unit.queue is not None and unit.queue._running:
        raise MisuseError("a unit cannot be saved while its invalidation queue carries out a descriptor")
    rows: dict[Section, Rows] = {
        REGISTERS: [(slot.offset, slot.value) for slot in unit.registers],
        LATCHED: [(_latched(unit, each),) for each in LATCHED_NUMBERS],
        PROTECTED: list(unit.translation.protected.ranges),
        EVENTS: list(unit.listeners.kept),
        POSTED: [_posted_row(request) for request in unit.page_requests._posted],
        COMMANDS: []
        if unit.steps is None
        else [(_WORKS.index(each.work), each.value) for each in unit.steps.commands],
        IGNORED: [] if unit.steps is None else list(unit.steps.ignored),
        OVERDUE: [] if unit.queue is None else [(source_id,) for source_id in unit.queue.overdue],
        **state_caches.rows(unit.caches),
    }
    if unit.ledger is not None:
        rows.update(state_ledger.rows(unit.ledger, unit.caches, unit.formats))
    packed = {section: section.pack(rows.get(section, ())) for section in SECTIONS}
    kept = {"audited": unit.ledger is not None, "stepped": unit.steps is not None}
    return build(unit.capabilities, unit.policy, packed, **kept)


def _latched(unit: Unit, number: Latched) -> int:
    if unit.queue is None and number.path.startswith("queue."):
        return 0
    return int(attrgetter(number.path)(unit))


def _posted_row(request: PageRequest) -> tuple[int, ...]:
    source_id, address, pasid, *rest = request
    return source_id, address, NO_PASID if pasid is None else pasid, *map(int, rest)


# Restoring.


def load(unit: Unit, reader: Reader) -> None:
    """Put a saved state into a new unit that has its capabilities and policy.

    Every number is checked: a unit that was restored from changed bytes may answer differently, but it answers.

    Raises:
        StateError: the unit cannot be in this state.
    """
    _load_registers(unit.registers, reader)
    state_caches.load(unit.caches, unit.translation, reader)
    _load_latched(unit, reader)
    _load_pending(unit, reader)
    _load_steps(unit, reader)
    if unit.ledger is not None:
        state_ledger.load(unit.ledger, unit.caches, unit.formats, reader)


def _load_registers(registers: RegisterFile, reader: Reader) -> None:
    slots = list(registers)
    offsets, values = reader.columns(REGISTERS)
    if len(offsets) != len(slots):
        reader.refuse(REGISTERS, 0, "offset", len(offsets), f"the unit has {len(slots)} registers")
    for n, (slot, offset, value) in enumerate(zip(slots, offsets, values, strict=True)):
        if offset != slot.offset:
            reader.refuse(REGISTERS, n, "offset", offset, f"the register here is at {slot.offset:#x}")
        if value & ~registers.possible_bits(slot) or (registers.is_constant(slot) and value != slot.value):
            reader.refuse(REGISTERS, n, "value", value, f"not a value of {slot.layout.__name__}")
        slot.value = value


def _load_latched(unit: Unit, reader: Reader) -> None:
    (values,) = reader.columns(LATCHED)
    if len(values) != len(LATCHED_NUMBERS):
        reader.refuse(LATCHED, 0, "value", len(values), f"there are {len(LATCHED_NUMBERS)} latched numbers")
    for n, (number, value) in enumerate(zip(LATCHED_NUMBERS, values, strict=True)):
        absent = unit.queue is None and number.path.startswith("queue.")
        if value not in ((0,) if absent else number.allowed(unit)):
            reader.refuse(LATCHED, n, "value", value, f"not a value of {number.path.replace('._', '.')}")
        if not absent:
            owner, _, name = number.path.rpartition(".")
            part = attrgetter(owner)(unit)
            setattr(part, name, bool(value) if isinstance(getattr(part, name), bool) else value)
    queue = unit.queue
    # The head would never meet the tail.
    if queue is not None and (queue.head() % queue.width() or queue.head() >= queue.size()):
        offset = [slot.offset for slot in unit.registers].index(queue._head.offset)
        reader.refuse(REGISTERS, offset, "value", queue._head.value, "the head of the queue is at no descriptor")


def _load_pending(unit: Unit, reader: Reader) -> None:
    """What waits: messages, page requests, devices that have not answered; and the protected ranges."""
    for n, (first, last) in enumerate(zip(*reader.columns(PROTECTED), strict=True)):
        if first > last or unit.registers.get(PMEN) is None or n > 1:
            reader.refuse(PROTECTED, n, "first", first, "not a protected range of this unit")
        unit.translation.protected.ranges.append((first, last))
    unit.listeners.kept += [Message(*each) for each in zip(*reader.columns(EVENTS), strict=True)]
    for n, row in enumerate(zip(*reader.columns(POSTED), strict=True)):
        source_id, address, pasid, *flags, group, last = row
        read, write, execute, privileged = map(bool, flags)
        request = PageRequest(
            SourceId.of(source_id), address, pasid_of(pasid), read, write, execute, privileged, group, bool(last)
        )
        try:
            unit.page_requests.post(request.check())
        except MisuseError as error:
            reader.refuse(POSTED, n, "pasid", pasid, str(error))
    (overdue,) = reader.columns(OVERDUE)
    if unit.queue is not None:
        unit.queue.overdue += overdue
    elif overdue:
        reader.refuse(OVERDUE, 0, "source_id", overdue[0], "the unit has no invalidation queue")


def _load_steps(unit: Unit, reader: Reader) -> None:
    """The commands that are pending in a stepped unit, and the writes that it has ignored."""
    commands = []
    for n, (number, value) in enumerate(zip(*reader.columns(COMMANDS), strict=True)):
        command = Pending(_WORKS[number], value) if number < len(_WORKS) else None
        if command is None or unit.steps is None or not unit.steps.may_be_pending(command):
            reader.refuse(COMMANDS, n, "work", number, f"not a command that can be pending, with {value:#x}")
        commands.append(command)
    ignored = [IgnoredWrite(*each) for each in zip(*reader.columns(IGNORED), strict=True)]
    if unit.steps is not None:
        unit.steps.restore(commands)
        unit.steps.ignored += ignored
    elif ignored:
        reader.refuse(IGNORED, 0, "offset", ignored[0].offset, "the unit is not stepped")


_WORKS = list(Work)


# Copies.


def state_for_copy(unit: Unit, saved: bytes) -> dict[str, Any]:
    """What a copy or a pickle of a unit consists of: its saved state, its memory and its devices."""
    records = [] if unit.ledger is None else state_ledger.device_records(unit.ledger, unit.formats)
    return {"saved": saved, "memory": unit.memory, "devices": dict(unit.devices), "records": records}


def load_copy(unit: Unit, state: dict[str, Any], reader: Reader) -> None:
    """Put what `state_for_copy` returned into a new unit over that memory; `reader` has the saved state."""
    unit.devices.update(state["devices"])
    load(unit, reader)
    if unit.ledger is not None:
        state_ledger.load_device_records(unit.ledger, unit.formats, state["records"])
