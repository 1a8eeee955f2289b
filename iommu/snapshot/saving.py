"""Save units of the model as a snapshot."""

from __future__ import annotations

from pathlib import Path

from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError
from iommu.memory import Memory
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PAGE, ranges_of
from iommu.snapshot.unit import NOT_SHOWN, UnitSnapshot
from iommu.snapshot.writer import packer
from iommu.system import System

ORIGIN = "the model"


def save(
    what: RemappingUnit | System, path: Path | str, *, register_base: int = 0xFED9_0000, state: bool = True
) -> None:
    """Write a snapshot of a unit, or of all units of a system with their DMAR, to one file of mode 0600.

    Args:
        register_base: where the registers of a single unit are, for display.
        state: write the whole state as well. Without it the snapshot is as one that was taken of a machine. A unit
            that departs from RemappingUnit is saved without it: whoever loads the snapshot gets a RemappingUnit.

    Raises:
        MisuseError: memory does not say where it is, as FlatMemory does; or it is not the same for all units.
        OSError: the file cannot be written.
    """
    units = what.units if isinstance(what, System) else {register_base: what}
    memories = {id(memory): memory for memory in map(_memory_of, units.values())}
    if len(memories) > 1:
        raise MisuseError("the units of a system that is saved must have the same memory")
    (memory,) = memories.values()
    ranges_of(memory)
    saved = tuple(_saved(unit, base, memory, state) for base, unit in units.items())
    dmar = what.table.build() if isinstance(what, System) else None
    unknown = NOT_SHOWN if any(unit.state is None for unit in saved) else ()
    with packer(Path(path)) as packing:
        packing.take(Contents(str(path), memory, saved, dmar, ORIGIN, unknown))
        packing.finish()


def _memory_of(unit: RemappingUnit) -> Memory:
    return unit.memory if unit.ledger is None else unit.ledger.memory


def _saved(unit: RemappingUnit, base: int, memory: Memory, state: bool) -> UnitSnapshot:
    whole = unit.save() if state and type(unit) is RemappingUnit else None
    return UnitSnapshot(ORIGIN, registers_of(unit), memory, unit.capabilities.host_address_width, base, whole)


def registers_of(unit: RemappingUnit) -> bytes:
    """The register window, in whole pages."""
    end = max(slot.offset + slot.size for slot in unit.registers)
    offsets = range(0, -(-end // PAGE) * PAGE, 4)
    return b"".join(unit.mmio_read(offset, 4).to_bytes(4, "little") for offset in offsets)
