"""The invalidation queue: where it is, what is in it, and why it has stopped (spec 6.5.2)."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.engine.ats import invalidated_range
from iommu.engine.invalidation.selector import Selector, pages
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import FSTS, GSTS, IQA, IQERCD, IQH, IQT, QueueFault, TableMode
from iommu.snapshot.unit import UnitSnapshot
from iommu.structures import (
    DESCRIPTORS,
    ContextDescriptor,
    Descriptor,
    DeviceTlbDescriptor,
    InterruptDescriptor,
    IotlbDescriptor,
    PageResponseDescriptor,
    PasidCacheDescriptor,
    PasidDeviceTlbDescriptor,
    PasidIotlbDescriptor,
    ResponseCode,
    WaitDescriptor,
)

_STOPPED = {
    QueueFault.NO_INFORMATION: "the unit does not say why",
    QueueFault.TAIL: "the tail is beyond the end of the queue",
    QueueFault.FETCH: "a descriptor could not be read, or a status could not be written",
    QueueFault.TYPE: "the unit does not have this type of descriptor",
    QueueFault.RESERVED: "a descriptor has a reserved field or value",
    QueueFault.WIDTH: "the table mode needs descriptors of the other width",
    QueueFault.ALIGNMENT: "the tail is not a multiple of the width of descriptors",
    QueueFault.TABLE_MODE: "the table mode is not one that the unit has",
}


@dataclass(frozen=True)
class Command:
    """A descriptor: its byte offset in the queue, its bits, and what it asks for."""

    offset: int
    raw: int
    words: str


@dataclass(frozen=True)
class QueueState:
    """The invalidation queue.

    Attributes:
        on: GSTS.QIES.
        address, size, width: of the queue, and of one descriptor, in bytes.
        head, tail: byte offsets.
        stopped: why nothing is fetched, a sentence each; empty while the queue works.
        done: the last descriptors before the head, oldest first: carried out if the queue has been that far.
        waiting: those from the head to the tail, the next first.
        more: how many further ones wait.
        notes: what else is remarkable, a sentence each.
        unreadable: there is no memory where the queue is, or at a part of it.
    """

    on: bool
    address: int
    size: int
    width: int
    head: int
    tail: int
    stopped: tuple[str, ...]
    done: tuple[Command, ...]
    waiting: tuple[Command, ...]
    more: int
    notes: tuple[str, ...]
    unreadable: bool


def queue_state(snapshot: UnitSnapshot, unit: RemappingUnit, last: int | None) -> QueueState | None:
    """The queue of a snapshot, with up to `last` descriptors on both sides of the head; None if the unit has none."""
    if not unit.capabilities.queued_invalidation:
        return None
    address = IQA(snapshot.register(IQA.offset, 8))
    # 6.5.2: scalable mode has descriptors of 256 bits only. A unit may take them although DW reads as 0.
    is_scalable = unit.translation.mode == TableMode.SCALABLE
    size, width = 0x1000 << address.QS, 32 if address.DW or is_scalable else 16
    notes = (
        [] if address.DW or not is_scalable else ["IQA.DW is 0, but scalable mode has descriptors of 256 bits only"]
    )
    head = IQH.QH.get(snapshot.register(IQH.offset, 8))
    tail = IQT.QT.get(snapshot.register(IQT.offset, 8))
    is_on = bool(GSTS.QIES.get(snapshot.register(GSTS.offset, 4)))
    most = size // width if last is None else last
    reader = _Reader(unit, address.IQA, size, width)
    is_sane = not (head % width or tail % width) and head < size and tail < size
    waiting = (tail - head) % size // width if is_sane else 0
    done = reader.before(head, min(most, size // width - waiting - 1)) if is_on and is_sane else ()
    ahead = reader.commands(head, min(waiting, most)) if is_on else ()
    return QueueState(
        is_on,
        address.IQA,
        size,
        width,
        head,
        tail,
        tuple(stopped_in_words(snapshot)),
        done,
        ahead,
        waiting - len(ahead),
        tuple(notes),
        reader.unreadable,
    )


def stopped_in_words(snapshot: UnitSnapshot) -> list[str]:
    """What FSTS and IQERCD say about errors of the queue."""
    status, error = FSTS(snapshot.register(FSTS.offset, 4)), IQERCD(snapshot.register(IQERCD.offset, 8))
    found = []
    if status.IQE:
        known = error.IQEI in tuple(QueueFault)
        why = _STOPPED[QueueFault(error.IQEI)] if known else "the reason is not public"
        found.append(f"stopped at its head (FSTS.IQE, IQERCD.IQEI={error.IQEI}): {why}")
    if status.ITE:
        found.append(f"stopped (FSTS.ITE): device {SourceId.of(error.ITESID)} did not answer an invalidation in time")
    if status.ICE:
        found.append(f"device {SourceId.of(error.ICESID)} sent a wrong completion (FSTS.ICE)")
    return found


class _Reader:
    """Reads descriptors of one queue."""

    def __init__(self, unit: RemappingUnit, address: int, size: int, width: int) -> None:
        self.unit, self.address, self.size, self.width = unit, address, size, width
        self.unreadable = False

    def _command(self, offset: int) -> Command | None:
        try:
            raw = int.from_bytes(self.unit.memory.read(self.address + offset, self.width), "little")
        except MemoryAccessError:
            self.unreadable = True
            return None
        return Command(offset, raw, command_in_words(self.unit, raw))

    def commands(self, first: int, count: int) -> tuple[Command, ...]:
        """`count` descriptors from an offset on; the queue wraps at its end."""
        found = [self._command((first + n * self.width) % self.size) for n in range(count)]
        return tuple(each for each in found if each is not None)

    def before(self, head: int, count: int) -> tuple[Command, ...]:
        """Up to `count` descriptors before the head, as far back as software has ever written."""
        found: list[Command] = []
        for n in range(1, count + 1):
            command = self._command((head - n * self.width) % self.size)
            if command is None or not command.raw:
                break
            found.append(command)
        return tuple(found[::-1])


def command_in_words(unit: RemappingUnit, raw: int) -> str:
    """What a descriptor asks for, and what is wrong with it."""
    number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
    layout = DESCRIPTORS.get(number)
    if layout is None:
        return f"type {number}, which does not exist"
    wrong = raw & layout.reserved_mask(offered=unit.capabilities.offered) | raw >> layout.bits << layout.bits
    view = layout(raw & (1 << layout.bits) - 1)
    return _in_words(unit, view) + (f"; reserved bits {wrong:#x}" if wrong else "")


def _in_words(unit: RemappingUnit, view: Layout) -> str:
    assert unit.queue is not None, "the unit has a queue"
    named: Selector | None
    match view:
        case WaitDescriptor():
            return _wait_in_words(view)
        case DeviceTlbDescriptor():
            where = pages(invalidated_range(view.ADDR, view.S))
            return f"device-TLB invalidation of {where} for {SourceId.of(view.SID)}"
        case PasidDeviceTlbDescriptor():
            where = pages(invalidated_range(view.ADDR, view.S))
            which = "every PASID" if view.G else f"PASID {view.PASID:#x}"
            return f"device-TLB invalidation of {where} in {which} for {SourceId.of(view.SID)}"
        case PageResponseDescriptor():
            codes = {code.value: code.name.lower() for code in ResponseCode}
            pasid = f", PASID {view.PASID:#x}" if view.PP else ""
            answer = codes.get(view.RC, f"code {view.RC}, a failure")
            return f"page response to {SourceId.of(view.RID)}{pasid}, group {view.PRGI}: {answer}"
        case ContextDescriptor():
            named = unit.invalidation.select_contexts(view.G, view.DID, view.SID, view.FM)
        case IotlbDescriptor():
            named = unit.invalidation.select_translations(view.G, view.DID, view.ADDR, view.AM, view.IH)
        case InterruptDescriptor():
            named = unit.queue.select_interrupts(view)
        case PasidIotlbDescriptor():
            named = unit.queue.select_pasid_translations(view)
        case PasidCacheDescriptor():
            named = unit.queue.select_pasids(view)
        case _:
            named = None
    return str(named) if named is not None else f"{type(view).__name__} with a reserved value: {view!r}"


def _wait_in_words(view: WaitDescriptor) -> str:
    parts = []
    if view.SW:
        parts.append(f"then write {view.STDATA:#x} to {view.STADDR:#x}")
    if view.IF:
        parts.append("then an interrupt")
    if view.FN:
        parts.append("fence")
    if view.PD:
        parts.append("page requests drained")
    return ", ".join(["wait", *parts])
