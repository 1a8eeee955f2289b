"""An interrupt in a snapshot: the remapping entry it uses, and its outcome."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.request import SourceId
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import IRTA
from iommu.snapshot.snapshot import Snapshot
from iommu.structures import InterruptEntry, PostedInterruptEntry, RemappableAddress, RemappedInterruptEntry


class RemappedIn(NamedTuple):
    """An interrupt of a snapshot.

    Attributes:
        address: where its remapping entry is (spec 9.9, 9.10).
        entry: the entry, in the form it says it has; None where there is no memory.
        outcome: what the unit does with the interrupt.
    """

    address: int
    entry: Layout | None
    outcome: InterruptOutcome


def remap_in(snapshot: Snapshot, source_id: SourceId, index: int) -> RemappedIn:
    """The outcome of an interrupt of `source_id` with this index, 16 bits, by the tables in memory."""
    address = IRTA.IRTA.get(snapshot.register(IRTA.offset, 8)) + 16 * index
    try:
        raw = int.from_bytes(snapshot.memory.read(address, 16), "little")
        entry: Layout | None = (PostedInterruptEntry if InterruptEntry.IM.get(raw) else RemappedInterruptEntry)(raw)
    except MemoryAccessError:
        entry = None
    message = RemappableAddress.make(RANGE=0xFEE, HANDLE_LOW=index & 0x7FFF, HANDLE_HIGH=index >> 15, IF=1)
    outcome = snapshot.unit().remap_interrupt(InterruptRequest(source_id, message, 0))
    return RemappedIn(address, entry, outcome)
