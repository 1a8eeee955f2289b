"""Save a unit of the model as a snapshot."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from iommu.snapshot.folder import FORMAT, STATE

PAGE = 1 << 12
_NOTHING = bytes(PAGE)


def save(unit: RemappingUnit, path: Path | str, *, register_base: int = 0xFED9_0000, state: bool = True) -> None:
    """Write a snapshot of `unit`: a zip file if `path` ends in .zip, otherwise a directory, created if necessary.

    In a directory, memory.bin is sparse: pages of zeroes take no space if the file system supports that.

    Args:
        register_base: where the registers are, for display.
        state: write state.bin as well. Without it the snapshot is as one that was taken of a machine. A unit that
            departs from RemappingUnit has no state.bin: whoever loads the snapshot gets a RemappingUnit.

    Raises:
        MisuseError: the unit's memory is not a FlatMemory, the only kind that can be saved.
        OSError: the files cannot be written.
    """
    memory = unit.memory if unit.ledger is None else unit.ledger.memory
    if not isinstance(memory, FlatMemory):
        raise MisuseError("only a unit whose memory is a FlatMemory can be saved as a snapshot")
    path = Path(path)
    settings = {
        "format": FORMAT,
        "register_base": hex(register_base),
        "host_address_width": unit.capabilities.host_address_width,
    }
    small = {"unit.json": json.dumps(settings, indent=1).encode() + b"\n", "registers.bin": registers_of(unit)}
    if state and type(unit) is RemappingUnit:
        small[STATE] = unit.save()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in small.items():
                archive.writestr(name, data)
            with archive.open("memory.bin", "w", force_zip64=True) as file:
                for start in range(0, memory.size, PAGE):
                    file.write(_page(memory, start))
        return
    path.mkdir(parents=True, exist_ok=True)
    (path / STATE).unlink(missing_ok=True)
    for name, data in small.items():
        (path / name).write_bytes(data)
    with (path / "memory.bin").open("wb") as plain:
        for start in range(0, memory.size, PAGE):
            if (page := _page(memory, start)) == _NOTHING:
                plain.seek(len(page), io.SEEK_CUR)
            else:
                plain.write(page)
        plain.truncate(memory.size)


def registers_of(unit: RemappingUnit) -> bytes:
    """The register window, in whole pages."""
    end = max(slot.offset + slot.size for slot in unit.registers)
    offsets = range(0, -(-end // PAGE) * PAGE, 4)
    return b"".join(unit.mmio_read(offset, 4).to_bytes(4, "little") for offset in offsets)


def _page(memory: FlatMemory, start: int) -> bytes:
    return memory.read(start, min(PAGE, memory.size - start))
