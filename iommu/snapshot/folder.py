"""Snapshots as people make them by hand: a directory of files, or a zip of one.

    unit.json         {"format": "vtdlab-snapshot-1", "register_base": "0xfed90000", "host_address_width": 48}
    registers.bin     the register window from its start, as many bytes of it as were saved
    memory.bin        physical memory from address 0; or
    memory.elf        an ELF core with physical addresses in its segments (QEMU's dump-guest-memory)
    state.bin         optional, of a unit of the model: all that `RemappingUnit.save` returns

Addresses in unit.json are hexadecimal strings. register_base is optional. "memory_base", also optional, is the
address of the first byte of memory.bin if that is not 0.
"""

from __future__ import annotations

from pathlib import Path

from iommu.errors import MisuseError
from iommu.files.archive import Archive
from iommu.files.reading import mapped
from iommu.memory import Memory
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PiecewiseMemory, from_elf
from iommu.snapshot.settings import Settings
from iommu.snapshot.unit import MOST_REGISTERS, NOT_SHOWN, UnitSnapshot

FORMAT = "vtdlab-snapshot-1"
STATE = "state.bin"
_FILES = ("unit.json", "registers.bin", "memory.bin", "memory.elf", STATE)


def from_folder(path: Path) -> Contents:
    """The snapshot in a directory. Its files are mapped privately: writes stay in this process.

    Raises FormatError, MisuseError and InputError.
    """
    return _contents(str(path), {name: mapped(path / name) for name in _FILES if (path / name).is_file()})


def from_zip(path: Path, archive: Archive) -> Contents:
    """The snapshot in a zip of a directory. Raises FormatError, MisuseError and InputError."""
    members = {Path(name).name: name for name in archive.names}
    wanted = {members[name]: name for name in _FILES if name in members}
    unpacked = archive.unpacked(wanted)
    return _contents(str(path), {wanted[name]: data for name, data in unpacked.items()})


def _contents(name: str, files: dict[str, memoryview]) -> Contents:
    settings = Settings(_needed(files, "unit.json").tobytes(), "unit.json", FORMAT)
    registers = bytes(_needed(files, "registers.bin")[:MOST_REGISTERS])
    memory: Memory
    if "memory.elf" in files:
        memory = from_elf(files["memory.elf"])
    else:
        memory = PiecewiseMemory([(settings.number("memory_base", 0), _needed(files, "memory.bin"))])
    state = bytes(files[STATE]) if files.get(STATE) else None
    width, base = settings.number("host_address_width", 64), settings.number("register_base", 0)
    unit = UnitSnapshot(name, registers, memory, width, base, state)
    return Contents(name, memory, (unit,), unknown=() if state is not None else NOT_SHOWN)


def _needed(files: dict[str, memoryview], name: str) -> memoryview:
    if not files.get(name):
        raise MisuseError(f"the snapshot has no {name}, or it is empty")
    return files[name]
