"""The one-file form of a snapshot, and how it is read. docs/snapshots.md describes it for other programs.

It is a zip file whose members are stored without compression by zip:

    snapshot.json           what it is (below)
    dmar.bin                the DMAR, if it was found
    units/N/registers.bin   the register window of unit N, from its start
    units/N/state.bin       of a unit of the model: all that `RemappingUnit.save` returns
    memory/runs.bin         which pages there are: pairs of 64-bit numbers, the first page and how many follow it
    memory/frames.bin       the size in bytes of each frame: 32-bit numbers
    memory/pages.zst        the pages in this order, 256 in each frame of Zstandard, fewer in the last

Numbers in .bin files are little-endian; a page is 4096 bytes, its number is its address >> 12. A page of zeroes is
not there. snapshot.json:

    {"format": "vtdlab-snapshot-2",
     "origin": "QEMU 10.0.2",                        what was captured, for people
     "unknown": ["what the unit has cached"],        what it does not show, for people
     "tables_only": false,                           true: memory is tables and queues only
     "host_address_width": 48,                       in bits
     "units": [{"register_base": "0xfed90000"}],
     "memory": [["0x0", "0x80000000"]]}              where there is memory: first address, and the one behind the last
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iommu.errors import FormatError, MisuseError
from iommu.snapshot.contents import Contents
from iommu.snapshot.packed import FRAME, RUN, PackedMemory
from iommu.snapshot.settings import Settings
from iommu.snapshot.unit import UnitSnapshot

FORMAT = "vtdlab-snapshot-2"
SETTINGS, DMAR = "snapshot.json", "dmar.bin"
RUNS, FRAMES, PAGES = "memory/runs.bin", "memory/frames.bin", "memory/pages.zst"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_MOST_UNITS = 256
_MOST_TEXTS = 64


def registers_name(unit: int) -> str:
    """The member with the registers of a unit."""
    return f"units/{unit}/registers.bin"


def state_name(unit: int) -> str:
    """The member with the saved state of a unit."""
    return f"units/{unit}/state.bin"


def from_file(path: Path, archive: zipfile.ZipFile) -> Contents:
    """The snapshot in a zip file that has snapshot.json. Its memory is unpacked when it is read.

    Raises FormatError, MisuseError and OSError.
    """
    members = _Members(path, archive)
    settings = Settings(members.needed(SETTINGS).tobytes(), SETTINGS, FORMAT)
    runs, sizes = members.needed(RUNS), members.needed(FRAMES)
    for name, data, layout in ((RUNS, runs, RUN), (FRAMES, sizes, FRAME)):
        if len(data) % layout.size:
            raise FormatError(
                f"not a multiple of {layout.size} bytes", offset=0, where=name, field="size", value=len(data)
            )
    memory = PackedMemory(
        list(_ranges(settings)),
        [(first, count) for first, count in RUN.iter_unpack(runs)],
        [size for (size,) in FRAME.iter_unpack(sizes)],
        members.needed(PAGES),
    )
    width, listed = settings.number("host_address_width"), settings.values.get("units")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_UNITS:
        raise settings.wrong(f"not a list of 1 to {_MOST_UNITS} units", "units")
    units = []
    for number, each in enumerate(listed):
        base = settings.as_number(
            each.get("register_base") if isinstance(each, dict) else None, "units.register_base"
        )
        registers = bytes(members.needed(registers_name(number)))
        state = members.get(state_name(number))
        units.append(UnitSnapshot(str(path), registers, memory, width, base, None if state is None else bytes(state)))
    dmar = members.get(DMAR)
    return Contents(
        str(path),
        memory,
        tuple(units),
        None if dmar is None else bytes(dmar),
        _text(settings, settings.values.get("origin", ""), "origin"),
        tuple(_texts(settings, "unknown")),
        settings.values.get("tables_only") is True,
    )


class _Members:
    """The members of a zip file, as parts of the mapped file. Raises MisuseError for one that cannot be used so."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        with path.open("rb") as file:
            self._file = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._members = {member.filename: member for member in archive.infolist()}

    def needed(self, name: str) -> memoryview:
        """A member. Raises MisuseError without it."""
        found = self.get(name)
        if found is None:
            raise MisuseError(f"{self._path} is damaged: it has no {name}")
        return found

    def get(self, name: str) -> memoryview | None:
        """A member; None without it."""
        member = self._members.get(name)
        if member is None:
            return None
        header = self._file[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
        if member.compress_type != zipfile.ZIP_STORED or len(header) < _LOCAL_HEADER.size:
            raise MisuseError(f"{self._path} is damaged: {name} is not stored as it should be")
        magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        start = member.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        data = self._file[start : start + member.file_size]
        if magic != zipfile.stringFileHeader or len(data) != member.file_size:  # type: ignore[attr-defined]
            raise MisuseError(f"{self._path} is damaged: it ends within {name}")
        return data


def _ranges(settings: Settings) -> Iterator[range]:
    listed = settings.values.get("memory")
    if not isinstance(listed, list):
        raise settings.wrong("not a list of ranges", "memory")
    end = 0
    for each in listed:
        if not isinstance(each, list) or len(each) != 2:
            raise settings.wrong(f"{each!r:.60} is not a range", "memory")
        start, stop = (settings.as_number(part, "memory") for part in each)
        if not end <= start < stop:
            raise settings.wrong(f"the range at {start:#x} is empty or not in order", "memory")
        yield range(start, stop)
        end = stop


def _texts(settings: Settings, name: str) -> Iterator[str]:
    listed = settings.values.get(name, [])
    if not isinstance(listed, list) or len(listed) > _MOST_TEXTS:
        raise settings.wrong(f"not a list of up to {_MOST_TEXTS} texts", name)
    yield from (_text(settings, each, name) for each in listed)


def _text(settings: Settings, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise settings.wrong(f"{value!r:.60} is not a text", name)
    return value
