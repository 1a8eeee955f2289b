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

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iommu.errors import FormatError, MisuseError
from iommu.files.archive import Archive
from iommu.files.limits import limits, over
from iommu.snapshot.contents import Contents
from iommu.snapshot.packed import FRAME, RUN, PackedMemory
from iommu.snapshot.settings import Settings
from iommu.snapshot.unit import MOST_REGISTERS, UnitSnapshot

FORMAT = "vtdlab-snapshot-2"
SETTINGS, DMAR = "snapshot.json", "dmar.bin"
RUNS, FRAMES, PAGES = "memory/runs.bin", "memory/frames.bin", "memory/pages.zst"
_MOST_UNITS = 256
_MOST_TEXTS = 64


def registers_name(unit: int) -> str:
    """The member with the registers of a unit."""
    return f"units/{unit}/registers.bin"


def state_name(unit: int) -> str:
    """The member with the saved state of a unit."""
    return f"units/{unit}/state.bin"


def from_file(path: Path, archive: Archive) -> Contents:
    """The snapshot in a zip file that has snapshot.json. Its memory is unpacked when it is read.

    Raises FormatError, MisuseError and InputError.
    """
    settings = Settings(_needed(archive, SETTINGS, path).tobytes(), SETTINGS, FORMAT)
    runs, sizes = _needed(archive, RUNS, path), _needed(archive, FRAMES, path)
    for name, data, layout in ((RUNS, runs, RUN), (FRAMES, sizes, FRAME)):
        if len(data) // layout.size > limits().values:
            raise over(f"{path}, {name}", "a list of", "values", "entries")
        if len(data) % layout.size:
            raise FormatError(
                f"not a multiple of {layout.size} bytes", offset=0, where=name, field="size", value=len(data)
            )
    memory = PackedMemory(
        list(_ranges(settings)),
        [(first, count) for first, count in RUN.iter_unpack(runs)],
        [size for (size,) in FRAME.iter_unpack(sizes)],
        _needed(archive, PAGES, path),
    )
    width, listed = settings.number("host_address_width"), settings.values.get("units")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_UNITS:
        raise settings.wrong(f"not a list of 1 to {_MOST_UNITS} units", "units")
    units = []
    for number, each in enumerate(listed):
        base = settings.as_number(
            each.get("register_base") if isinstance(each, dict) else None, "units.register_base"
        )
        registers = bytes(_needed(archive, registers_name(number), path)[:MOST_REGISTERS])
        state = archive.stored(state_name(number))
        units.append(UnitSnapshot(str(path), registers, memory, width, base, None if state is None else bytes(state)))
    dmar = archive.stored(DMAR)
    return Contents(
        str(path),
        memory,
        tuple(units),
        None if dmar is None else bytes(dmar),
        _text(settings, settings.values.get("origin", ""), "origin"),
        tuple(_texts(settings, "unknown")),
        settings.values.get("tables_only") is True,
    )


def _needed(archive: Archive, name: str, where: Path) -> memoryview:
    """A member. Raises MisuseError without it."""
    found = archive.stored(name)
    if found is None:
        raise MisuseError(f"{where} is damaged: it has no {name}")
    return found


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
