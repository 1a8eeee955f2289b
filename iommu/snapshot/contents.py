"""What every form of snapshot is read into."""

from __future__ import annotations

from typing import NamedTuple

from iommu.memory import Memory
from iommu.snapshot.unit import UnitSnapshot


class Contents(NamedTuple):
    """Memory, and the units whose tables it holds.

    Attributes:
        name: where the snapshot comes from: a path, a socket.
        memory: physical memory. Writes to it change neither a file nor a running machine.
        units: in the order of the DMAR if that is known.
        dmar: the bytes of the DMAR; None if it was not found.
        origin: what was captured: "the model", "QEMU 10.0.2", "an ELF core"; empty if that is not known.
        unknown: what the snapshot cannot show, a line each; empty for the model's own state.
        tables_only: whether memory holds tables and queues only.
    """

    name: str
    memory: Memory
    units: tuple[UnitSnapshot, ...]
    dmar: bytes | None = None
    origin: str = ""
    unknown: tuple[str, ...] = ()
    tables_only: bool = False
