"""Whole arrays of requests compared with the scalar engine, which gets them one by one and has nothing cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from iommu import Access, DmaRequest, Memory, MemoryAccessError, RemappingUnit, SourceId
from iommu.batch import NO_ADDRESS, NO_PASID, BatchTranslator
from tests.engine.world import GCMD, RTADDR, SRTP, TE


class Asked(NamedTuple):
    """One request; `root` is the RTADDR it is translated with, None for the unit's own."""

    source_id: int
    address: int
    write: bool
    pasid: int | None = None
    root: int | None = None

    def request(self) -> DmaRequest:
        """For the scalar engine."""
        access = Access.WRITE if self.write else Access.READ
        return DmaRequest(SourceId.of(self.source_id), self.address, access, 1, pasid=self.pasid)


class Unwritten:
    """A memory that takes back what is written when it is told to. `read_only`: nothing can be written."""

    def __init__(self, memory: Memory, *, read_only: bool = False) -> None:
        self.memory, self.read_only = memory, read_only
        self.updates: dict[int, int] = {}

    def read_u64(self, address: int) -> int:
        return self.updates[address] if address in self.updates else self.memory.read_u64(address)

    def read(self, address: int, length: int) -> bytes:
        if self.updates:
            words = range(address, address + length, 8)
            return b"".join(self.read_u64(at).to_bytes(8, "little") for at in words)
        return self.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        self.memory.read(address, len(data))
        if self.read_only:
            raise MemoryAccessError(address, len(data))
        assert len(data) == 8, "an update is of one entry"
        self.updates[address] = int.from_bytes(data, "little")


MakeUnit = Callable[[Memory], RemappingUnit]


def scalar(
    make: MakeUnit, memory: Memory, asked: Sequence[Asked], *, read_only: bool = False
) -> list[tuple[int, int]]:
    """What the scalar engine says: host address or NO_ADDRESS, and the fault reason or 0."""
    apart = Unwritten(memory, read_only=read_only)
    unit, found = make(apart), []
    for each in asked:
        unit.caches.invalidate_dma()
        apart.updates.clear()
        if each.root is not None:
            latch(unit, each.root)
        outcome = unit.translate(each.request())
        host = NO_ADDRESS if outcome.host_address is None else outcome.host_address
        found.append((host, int(outcome.fault or 0)))
    return found


def latch(unit: RemappingUnit, root: int) -> None:
    """Write RTADDR and give SRTP."""
    unit.mmio_write(RTADDR, root, 8)
    unit.mmio_write(GCMD, unit.mmio_read(0x1C, 4) & 0x96FF_FFFF | SRTP, 4)


def started(unit: RemappingUnit, root: int) -> RemappingUnit:
    """With a root table, and translation on."""
    latch(unit, root)
    unit.mmio_write(GCMD, unit.mmio_read(0x1C, 4) & 0x96FF_FFFF | TE, 4)
    return unit


def batch(unit: RemappingUnit, asked: Sequence[Asked]) -> list[tuple[int, int]]:
    """What the batch engine says, in the same form."""
    pasids = [NO_PASID if each.pasid is None else each.pasid for each in asked]
    with_roots = any(each.root is not None for each in asked)
    hosts, reasons = BatchTranslator(unit).translate(
        np.array([each.source_id for each in asked], np.uint16),
        np.array([each.address for each in asked], np.uint64),
        np.array([each.write for each in asked], np.bool_),
        None if all(each.pasid is None for each in asked) else np.array(pasids, np.uint32),
        np.array([each.root for each in asked], np.uint64) if with_roots else None,
    )
    return list(zip(hosts.tolist(), reasons.tolist(), strict=True))


def compare(make: MakeUnit, memory: Memory, asked: Sequence[Asked], *, read_only: bool = False) -> None:
    """Both say the same of each request. With `read_only`, the memory itself refuses what the unit writes."""
    wanted = scalar(make, memory, asked, read_only=read_only)
    for each, one, other in zip(asked, wanted, batch(make(memory), asked), strict=True):
        assert one == other, f"{each}: scalar {one[0]:#x} {one[1]:#x}, batch {other[0]:#x} {other[1]:#x}"
