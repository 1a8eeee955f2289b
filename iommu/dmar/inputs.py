"""Reading tables from files of any form, which is recognised by content.

raw table, gzip, several tables in a row, a folder of tables, acpidump's text, the raw data that `iasl -d` prints,
hexdump and xxd, an ELF core, an image of physical memory, standard input (`-`)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from iommu.dmar.hexdump import dmars, is_dump
from iommu.dmar.images import Image
from iommu.dmar.pci import PciTree
from iommu.errors import InputError
from iommu.files.documents import read_json
from iommu.files.limits import limits, over
from iommu.files.reading import STDIN, Data, contents, name_of
from iommu.files.unpacking import unpacked

_SMALLEST_IMAGE = 1 << 16
_HEADER = 36
_SIGNATURE = re.compile(rb"[A-Z0-9_]{4}")


@dataclass(frozen=True, slots=True)
class Source:
    """A table's bytes and where they were found: the file, and the place in it if the file can hold several."""

    name: str
    data: bytes


def read_tables(path: Path) -> list[Source]:
    """Every DMAR in a file or folder; of several copies of a table, only the first.

    A file in which nothing is recognised is returned as it is, so that the parser reports what is wrong with it.
    Raises InputError when there is nothing to read.
    """
    if path != STDIN and path.is_dir():
        files = _files_in(path)
        found = [source for file in files for source in tables_in(contents(file), str(file))]
        if not found:
            raise InputError(f"{path}: no DMAR in any of its {len(files)} files")
    else:
        data, name = unpacked(contents(path), name_of(path)), name_of(path)
        found = tables_in(data, name) or [Source(name, data[:] if len(data) <= limits().text else data[:_HEADER])]
    return list({source.data: source for source in reversed(found)}.values())[::-1]


def tables_in(data: Data, name: str) -> list[Source]:
    """Every DMAR in bytes of any of the forms above. Raises InputError for what is damaged, or beyond a limit."""
    most = limits().tables
    found = list(islice(find_tables(data, name), most + 1))
    if len(found) > most:
        raise over(name, "there are", "tables", "DMARs")
    return found


def holds_other_tables(data: bytes) -> bool:
    """Whether bytes without a DMAR are other ACPI tables, or a dump of some: those of a machine without VT-d, say."""
    if _row_of_tables(data) is not None:
        return True
    return b"\0" not in data[:4096] and is_dump(data)


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None


def read_table(path: Path) -> bytes:
    """The one DMAR of a file or folder. Raises InputError when there are several."""
    found = read_tables(path)
    if len(found) > 1:
        names = ", ".join(source.name for source in found)
        raise InputError(f"{path}: {len(found)} different DMARs: {names}; use vtd dmar survey, or give one of them")
    return found[0].data


def find_tables(data: Data, name: str) -> Iterator[Source]:
    """The same, one after the other, and however many there are."""
    data = unpacked(data, name)
    if data[:4] == b"\x7fELF":
        yield from _in_image(data, name)
    elif (tables := _row_of_tables(data)) is not None:
        yield from (
            _source(name if len(tables) == 1 else f"{name}+{place.start:#x}", data[place.start : place.stop])
            for place in tables
            if data[place.start : place.start + 4] == b"DMAR"
        )
    elif data[:4] == b"DMAR" and data[4:7] != b" @ ":  # the heading of a DMAR in acpidump's text
        yield _source(name, data)
    else:
        yield from _in_text(data, name)
        if len(data) >= _SMALLEST_IMAGE:
            yield from _in_image(data, name)


def _source(name: str, data: Data) -> Source:
    if len(data) > limits().table:
        raise over(name, "a DMAR of", "table")
    return Source(name, data[:])


def _row_of_tables(data: Data) -> list[range] | None:
    """The places of tables that follow each other and fill the data; None if the data is anything else."""
    tables, offset = [], 0
    if len(data) > limits().text:
        return None
    while offset < len(data):
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        if length < _HEADER or offset + length > len(data) or not _SIGNATURE.fullmatch(data[offset : offset + 4]):
            return None
        tables.append(range(offset, offset + length))
        offset += length
    return tables or None


def _in_text(data: Data, name: str) -> Iterator[Source]:
    if b"\0" in data[:4096] or len(data) > limits().text:  # a text of that size is taken for an image
        return
    for title, found in dmars(data[:]):
        yield _source(f"{name}: {title}" if title else name, found)


def _in_image(data: Data, name: str) -> Iterator[Source]:
    for address, table in Image(data).dmars():
        yield Source(f"{name}@{address:#x}", table)


def read_pci(path: Path) -> PciTree:
    """A PCI tree from a sysfs folder, live or copied, or from a JSON file. Raises InputError or MisuseError."""
    return PciTree.from_sysfs(path) if path.is_dir() else PciTree.from_plain(read_json(path))
