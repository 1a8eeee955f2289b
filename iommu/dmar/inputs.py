"""Reading tables from files of any form, which is recognised by content.

raw table, gzip, several tables in a row, a folder of tables, acpidump's text, the raw data that `iasl -d` prints,
hexdump and xxd, an ELF core, an image of physical memory, standard input (`-`)
"""

import gzip
import io
import json
import mmap
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iommu.dmar.hexdump import blocks
from iommu.dmar.images import Image
from iommu.dmar.pci import PciTree
from iommu.errors import VtdError

STDIN = Path("-")
_MAPPED = 16 << 20  # larger files are mapped, not read
_MOST_UNPACKED = 1 << 30
_SMALLEST_IMAGE = 1 << 16
_HEADER = 36
_SIGNATURE = re.compile(rb"[A-Z0-9_]{4}")


class InputError(VtdError):
    """A file cannot be read; the message is one line with its name and the reason."""


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
        found = [source for file in files for source in find_tables(_contents(file), str(file))]
        if not found:
            raise InputError(f"{path}: no DMAR in any of its {len(files)} files")
    else:
        data = _contents(path)
        found = list(find_tables(data, str(path))) or [Source(str(path), data)]
    return list({source.data: source for source in reversed(found)}.values())[::-1]


def holds_other_tables(data: bytes) -> bool:
    """Whether bytes without a DMAR are other ACPI tables, or a dump of some: those of a machine without VT-d, say."""
    if _row_of_tables(data) is not None:
        return True
    return b"\0" not in data[:4096] and any(True for _ in blocks(bytes(data).decode("latin-1")))


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


def find_tables(data: bytes, name: str) -> Iterator[Source]:
    """Every DMAR in bytes of any of the forms above."""
    if data[:2] == b"\x1f\x8b":
        yield from find_tables(_unpacked(data, name), name)
    elif data[:4] == b"\x7fELF":
        yield from _in_image(data, name)
    elif (tables := _row_of_tables(data)) is not None:
        yield from (
            Source(name if len(tables) == 1 else f"{name}+{offset:#x}", table)
            for offset, table in tables
            if table[:4] == b"DMAR"
        )
    elif data[:4] == b"DMAR" and data[4:7] != b" @ ":  # the heading of a DMAR in acpidump's text
        yield Source(name, bytes(data))
    else:
        yield from _in_text(data, name)
        if len(data) >= _SMALLEST_IMAGE:
            yield from _in_image(data, name)


def _row_of_tables(data: bytes) -> list[tuple[int, bytes]] | None:
    """Offset and bytes of tables that follow each other and fill the data; None if the data is anything else."""
    tables, offset = [], 0
    while offset < len(data):
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        if length < _HEADER or offset + length > len(data) or not _SIGNATURE.fullmatch(data[offset : offset + 4]):
            return None
        tables.append((offset, bytes(data[offset : offset + length])))
        offset += length
    return tables or None


def _in_text(data: bytes, name: str) -> Iterator[Source]:
    if b"\0" in data[:4096]:
        return
    for title, found in blocks(bytes(data).decode("latin-1")):
        if found[:4] == b"DMAR":
            yield Source(f"{name}: {title}" if title else name, found)


def _in_image(data: bytes, name: str) -> Iterator[Source]:
    for address, table in Image(data).dmars():
        yield Source(f"{name}@{address:#x}", table)


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: damaged gzip file: {error}") from None
    if len(unpacked) > _MOST_UNPACKED:
        raise InputError(f"{name}: unpacks to more than {_MOST_UNPACKED >> 20} MiB")
    return unpacked


def _contents(path: Path) -> bytes:
    """A file's bytes. A large file is mapped: a mapping can be sliced and searched like bytes."""
    try:
        if path == STDIN:
            return sys.stdin.buffer.read()
        with path.open("rb") as file:
            if path.stat().st_size > _MAPPED:
                mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return mapped  # type: ignore[no-any-return]
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """A JSON document. Raises InputError."""
    try:
        return json.loads(_contents(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None


def read_pci(path: Path) -> PciTree:
    """A PCI tree from a sysfs folder, live or copied, or from a JSON file. Raises InputError or MisuseError."""
    return PciTree.from_sysfs(path) if path.is_dir() else PciTree.from_plain(read_json(path))
