"""DMA traces as whole arrays, a chunk at a time: CSV, Parquet, or the trace log of a QEMU.

A trace of any length takes the memory of a few chunks: a file is mapped, and read from its beginning to its end.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from iommu.batch.arrays import NO_PASID, Bools, Int64, Uint16, Uint32, Uint64, checked
from iommu.engine.request import SourceId
from iommu.errors import InputError, MisuseError, TraceError, VtdError
from iommu.files.documents import shown
from iommu.files.reading import STDIN, Data, beginning, contents, descriptor_of, name_of
from iommu.files.unpacking import unpacked

CHUNK = 1 << 16
"""Rows in a chunk."""

_PARQUET = b"PAR1"
_COLUMNS = ("source_id", "address", "write", "pasid")
_BLOCK = 1 << 22
_LONGEST_LINE = 1 << 16
_DEVICE = re.compile(r"^(?:[0-9a-f]{4}:)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$", re.IGNORECASE)
_ACCESS = {"0": False, "1": True, "false": False, "true": True, "read": False, "write": True, "r": False, "w": True}
# What QEMU prints for a request that went through, and for one that faulted; other events belong to these.
_TRANSLATE = re.compile(r"vtd_dmar_translate dev ([0-9a-f]{2}):([0-9a-f]{2})\.([0-9a-f]{2}) iova 0x([0-9a-f]{1,16}) ")
_FAULT = re.compile(r"vtd_dmar_fault sid 0x([0-9a-f]{1,4}) fault \d+ addr 0x([0-9a-f]{1,16}) write ([01])")


@dataclass(frozen=True)
class Rows:
    """A chunk of a trace.

    Attributes:
        first: the number of its first row.
        source_ids, addresses, writes, pasids: as BatchTranslator.translate takes them.
        done: how much of the trace has been read with it, from 0 to 1.
    """

    first: int
    source_ids: Uint16
    addresses: Uint64
    writes: Bools
    pasids: Uint32
    done: float

    def __len__(self) -> int:
        return len(self.addresses)

    def part(self, start: int, stop: int | None = None) -> Rows:
        """Some of the rows."""
        return replace(self.at(slice(start, stop)), first=self.first + start)

    def at(self, which: slice | Int64) -> Rows:
        """Some of the rows, wherever they are."""
        return replace(
            self,
            source_ids=self.source_ids[which],
            addresses=self.addresses[which],
            writes=self.writes[which],
            pasids=self.pasids[which],
        )


Row = tuple[int, int, bool, int]
"""Source-id, address, whether it is a write, and PASID or NO_PASID."""


def rows_of(path: Path, skip: int = 0, chunk: int = CHUNK) -> Iterator[Rows]:
    """The rows of a trace, without the first `skip`, in chunks.

    Raises TraceError for a row that makes no sense, once all rows before it have been yielded; InputError for what
    cannot be read, and MisuseError for what is not a trace.
    """
    is_parquet = path != STDIN and beginning(path, 4) == _PARQUET
    found = _parquet(path, chunk) if is_parquet else _text(path, chunk)
    for rows in found:
        if rows.first + len(rows) > skip:
            yield rows.part(max(skip - rows.first, 0))


def _text(path: Path, chunk: int) -> Iterator[Rows]:
    name = name_of(path)
    data = unpacked(contents(path), name)
    lines = _lines(data, name)
    line, _ = next(lines, ("", 0.0))
    if any(each.strip().lower() in _COLUMNS for each in line.split(",")):
        parse = _csv(line, name)
        return _parsed(lines, parse, name, chunk)
    if data[:_BLOCK].find(b"vtd_") < 0:
        raise MisuseError(
            f"{name} is not a trace: neither CSV with {', '.join(_COLUMNS)}, nor Parquet, nor vtd_* events"
        )
    return _parsed(_lines(data, name), _event, name, chunk)


def _lines(data: Data, name: str) -> Iterator[tuple[str, float]]:
    """The lines, and how much of the text they end."""
    start, size = 0, len(data)
    while start < size:
        stop = size if start + _BLOCK >= size else data.rfind(b"\n", start, start + _BLOCK) + 1
        if stop <= start:
            raise InputError(f"{name} is not text: a line of more than {_BLOCK} bytes at offset {start:#x}")
        for line in data[start:stop].decode("utf-8", "replace").splitlines():
            yield line, stop / size
        start = stop


def _parsed(
    lines: Iterator[tuple[str, float]], parse: Callable[[str], Row | None], name: str, chunk: int
) -> Iterator[Rows]:
    """The rows of lines; a line for which `parse` gives None has none."""
    found: list[Row] = []
    first, done = 0, 0.0
    for line, done in lines:
        try:
            row = parse(line)
        except ValueError as error:
            if found:
                yield _columns(first, found, done)
            raise TraceError(name, first + len(found), str(error)) from None
        if row is not None:
            found.append(row)
            if len(found) == chunk:
                yield _columns(first, found, done)
                first, found = first + len(found), []
    if found:
        yield _columns(first, found, done)


def _columns(first: int, found: list[Row], done: float) -> Rows:
    source_ids, addresses, writes, pasids = zip(*found, strict=True)
    return Rows(
        first,
        np.array(source_ids, np.uint16),
        np.array(addresses, np.uint64),
        np.array(writes, np.bool_),
        np.array(pasids, np.uint32),
        done,
    )


# CSV.


def _csv(header: str, name: str) -> Callable[[str], Row | None]:
    """What makes a row of a line. Raises MisuseError for a header without the columns that there must be."""
    names = [each.strip().lower() for each in header.split(",")]
    if missing := [each for each in _COLUMNS[:3] if each not in names]:
        raise MisuseError(
            f"{name} has no column {missing[0]}: it must have {', '.join(_COLUMNS[:3])}, and may have pasid"
        )
    places = [names.index(each) if each in names else None for each in _COLUMNS]

    def parse(line: str) -> Row | None:
        if not line.strip():
            return None
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"the line has {len(line)} characters")
        fields = next(csv.reader([line]))
        if len(fields) != len(names):
            raise ValueError(f"{len(fields)} fields, and the header has {len(names)}")
        texts = ["" if place is None else fields[place].strip() for place in places]
        return _device(texts[0]), _number("address", texts[1], 64), _write(texts[2]), _pasid(texts[3])

    return parse


def _number(what: str, text: str, bits: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise ValueError(f"{what} {shown(text)} is not a number") from None
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{what} {shown(text)} is not a number of {bits} bits")
    return number


def _device(text: str) -> int:
    found = _DEVICE.match(text)
    if found is not None:
        return int(SourceId(*(int(part, 16) for part in found.groups())))
    return _number("source_id", text, 16)


def _write(text: str) -> bool:
    known = _ACCESS.get(text.lower())
    if known is None:
        raise ValueError(f"write {shown(text)} is none of {', '.join(_ACCESS)}")
    return known


def _pasid(text: str) -> int:
    return _number("pasid", text, 20) if text else NO_PASID


# QEMU's log.


def _event(line: str) -> Row | None:
    """The request of an event. QEMU does not say of one that went through whether it was a write."""
    at = line.find("vtd_dmar_")
    if at < 0:
        return None
    if found := _TRANSLATE.match(line, at):
        bus, slot, function, address = (int(part, 16) for part in found.groups())
        if slot > 31 or function > 7:
            raise ValueError(f"no device is {bus:02x}:{slot:02x}.{function:x}")
        return SourceId(bus, slot, function), address, False, NO_PASID
    if found := _FAULT.match(line, at):
        source_id, address = (int(part, 16) for part in found.groups()[:2])
        return source_id, address, found[3] == "1", NO_PASID
    if line.startswith(("vtd_dmar_translate", "vtd_dmar_fault"), at):
        raise ValueError(f"{shown(line[at : at + 80])} is not an event as QEMU prints it")
    return None


# Parquet.


def _parquet(path: Path, chunk: int) -> Iterator[Rows]:
    name = name_of(path)
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise MisuseError(f"{name} is Parquet, which needs pyarrow: pip install 'vtdlab[parquet]'") from None
    first = 0
    try:
        with os.fdopen(descriptor_of(path), "rb") as stream, parquet.ParquetFile(stream) as file:
            if missing := [each for each in _COLUMNS[:3] if each not in file.schema_arrow.names]:
                raise MisuseError(f"{name} has no column {missing[0]}")
            wanted = [each for each in _COLUMNS if each in file.schema_arrow.names]
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=chunk, columns=wanted):
                columns = {each: batch.column(each) for each in wanted}
                yield from _batch(columns, first, name, min((first + len(batch)) / total, 1.0))
                first += len(batch)
    except VtdError:
        raise
    # Names and strings of a damaged file are decoded by Python.
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None


def _batch(columns: dict[str, Any], first: int, name: str, done: float) -> Iterator[Rows]:
    """A batch of Parquet; the rows before a wrong one, if there is one."""
    pasids = columns.get("pasid")
    try:
        given = checked(
            columns["source_id"].to_numpy(zero_copy_only=False),
            columns["address"].to_numpy(zero_copy_only=False),
            columns["write"].to_numpy(zero_copy_only=False),
            None if pasids is None else pasids.fill_null(NO_PASID).to_numpy(zero_copy_only=False),
        )
    except (MisuseError, ValueError, TypeError):
        # Something is wrong, or written in another way: one row after the other.
        texts = [
            [("" if value is None else str(value)) for value in column.to_pylist()] for column in columns.values()
        ]
        names = list(columns)
        rows: list[Row] = []
        for number, fields in enumerate(zip(*texts, strict=True)):
            row = dict(zip(names, fields, strict=True))
            try:
                made = _device(row["source_id"]), _number("address", row["address"], 64), _write(row["write"])
                rows.append((*made, _pasid(row.get("pasid", ""))))
            except ValueError as error:
                if rows:
                    yield _columns(first, rows, done)
                raise TraceError(name, first + number, str(error)) from None
        if rows:
            yield _columns(first, rows, done)
        return
    absent = np.full(len(given), NO_PASID, np.uint32)
    pasid = absent if given.pasids is None else given.pasids
    yield Rows(first, given.source_ids, given.addresses, given.writes, pasid, done)
