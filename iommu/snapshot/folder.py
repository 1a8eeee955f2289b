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

import mmap
import zipfile
import zlib
from pathlib import Path

from iommu.errors import MisuseError
from iommu.memory import Memory
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PiecewiseMemory, from_elf
from iommu.snapshot.settings import Settings
from iommu.snapshot.unit import NOT_SHOWN, UnitSnapshot

FORMAT = "vtdlab-snapshot-1"
STATE = "state.bin"
_FILES = ("unit.json", "registers.bin", "memory.bin", "memory.elf", STATE)
_MOST_UNPACKED = 1 << 30
_CHUNK = 1 << 20


def from_folder(path: Path) -> Contents:
    """The snapshot in a directory. Its files are mapped privately: writes stay in this process.

    Raises FormatError, MisuseError, and OSError for the files.
    """
    files = {}
    for name in _FILES:
        place = path / name
        if place.is_file() and place.stat().st_size:
            with place.open("rb") as file:
                files[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return _contents(str(path), files)


def from_zip(path: Path, archive: zipfile.ZipFile) -> Contents:
    """The snapshot in a zip of a directory.

    Raises FormatError and MisuseError; the latter for one that unpacks to more than 1 GiB, before it is unpacked.
    """
    members = {Path(member.filename).name: member for member in archive.infolist()}
    members = {name: members[name] for name in _FILES if name in members}
    if (size := sum(member.file_size for member in members.values())) > _MOST_UNPACKED:
        raise MisuseError(
            f"{path} unpacks to {size >> 20} MiB, more than {_MOST_UNPACKED >> 20} MiB: unpack it yourself"
        )
    try:
        return _contents(str(path), {name: _unpacked(archive, member) for name, member in members.items()})
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise MisuseError(f"{path} is damaged: {error}") from error


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> memoryview:
    """A member's bytes, in pages that are allocated when touched: zeroes take no memory."""
    if not member.file_size:
        return memoryview(b"")
    target = memoryview(mmap.mmap(-1, member.file_size))
    with archive.open(member) as stream:
        at = 0
        while piece := stream.read(_CHUNK):
            if piece.count(0) != len(piece):
                target[at : at + len(piece)] = piece
            at += len(piece)
    return target


def _contents(name: str, files: dict[str, memoryview]) -> Contents:
    settings = Settings(_needed(files, "unit.json").tobytes(), "unit.json", FORMAT)
    registers = bytes(_needed(files, "registers.bin"))
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
