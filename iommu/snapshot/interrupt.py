"""An interrupt in a snapshot: the remapping entry it uses, and its outcome."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.request import SourceId
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import IRTA
from iommu.snapshot.unit import UnitSnapshot
from iommu.structures import InterruptEntry, PostedInterruptEntry, RemappableAddress, RemappedInterruptEntry


class RemappedIn(NamedTuple):
    """An interrupt of a snapshot.

    Attributes:
        address: of its remapping entry (spec 9.9, 9.10).
        entry: the entry, remapped or posted form as its IM bit says; None if there is no memory at that address.
        outcome: what the unit does with the interrupt.
    """

    address: int
    entry: Layout | None
    outcome: InterruptOutcome


def remap_in(snapshot: UnitSnapshot, source_id: SourceId, index: int) -> RemappedIn:
    """The outcome of an interrupt of `source_id` with this 16-bit index, according to the tables in the snapshot."""
    address = IRTA.IRTA.get(snapshot.register(IRTA.offset, 8)) + 16 * index
    try:
        raw = int.from_bytes(snapshot.memory.read(address, 16), "little")
        entry: Layout | None = (PostedInterruptEntry if InterruptEntry.IM.get(raw) else RemappedInterruptEntry)(raw)
    except MemoryAccessError:
        entry = None
    message = RemappableAddress.make(RANGE=0xFEE, HANDLE_LOW=index & 0x7FFF, HANDLE_HIGH=index >> 15, IF=1)
    outcome = snapshot.unit_without_caches().remap_interrupt(InterruptRequest(source_id, message, 0))
    return RemappedIn(address, entry, outcome)
