"""The results of a trace, as CSV or Parquet: written as they come, and continued where a run has ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from iommu.batch.arrays import NO_ADDRESS, NO_PASID, Uint8, Uint64
from iommu.batch.trace_rows import Rows
from iommu.engine.reasons import FaultReason
from iommu.engine.request import SourceId
from iommu.errors import InputError, MisuseError
from iommu.files.reading import descriptor_of, mapped
from iommu.files.writing import whole_file

HEADER = ("source_id", "address", "write", "pasid", "host", "reason")
_FIRST_LINE = ",".join(HEADER) + "\n"


class Results(NamedTuple):
    """Rows, with the host address of each, and its fault reason."""

    rows: Rows
    hosts: Uint64
    reasons: Uint8


class Writer(Protocol):
    """Writes results.

    Attributes:
        written: how many rows are there, those of earlier runs included.
    """

    written: int

    def write(self, results: Results) -> None:
        """Append rows."""
        ...


@contextmanager
def writer_to(path: Path, *, resume: bool) -> Iterator[Writer]:
    """A writer to a file; Parquet if its name ends so, otherwise CSV.

    Args:
        resume: continue the file that an earlier run has left, behind its last whole row.

    Raises MisuseError for a file to continue that holds no results.
    """
    make = _parquet if path.suffix in (".parquet", ".pq") else _csv
    with make(path, resume) as writer:
        yield writer


# CSV.


class _CsvWriter:
    def __init__(self, stream: Any, written: int) -> None:
        self._stream, self.written = stream, written

    def write(self, results: Results) -> None:
        """See Writer. A row is there whole or not at all, except if the process is killed while it writes."""
        rows, hosts, reasons = results
        names = {number: str(SourceId.of(number)) for number in np.unique(rows.source_ids).tolist()}
        conditions = {code: FaultReason(code).condition for code in np.unique(reasons).tolist() if code}
        lines = [
            f"{names[source_id]},{address:#x},{'write' if write else 'read'},"
            f"{'' if pasid == NO_PASID else hex(pasid)},"
            f"{'' if host == NO_ADDRESS else hex(host)},{conditions.get(reason, '')}\n"
            for source_id, address, write, pasid, host, reason in zip(
                rows.source_ids.tolist(),
                rows.addresses.tolist(),
                rows.writes.tolist(),
                rows.pasids.tolist(),
                hosts.tolist(),
                reasons.tolist(),
                strict=True,
            )
        ]
        self._stream.write("".join(lines).encode())
        self._stream.flush()
        self.written += len(lines)


@contextmanager
def _csv(path: Path, resume: bool) -> Iterator[Writer]:
    written = end = 0
    if resume and path.exists():
        written, end = _whole_rows(path)
    with path.open("r+b" if end else "wb") as stream:
        if end:
            stream.truncate(end)
            stream.seek(end)
        else:
            stream.write(_FIRST_LINE.encode())
        yield _CsvWriter(stream, written)


def _whole_rows(path: Path) -> tuple[int, int]:
    """How many whole rows a file has, and where the last one ends."""
    data = mapped(path)
    first = len(_FIRST_LINE)
    if bytes(data[:first]) != _FIRST_LINE.encode():
        raise MisuseError(f"{path} has no results of a trace: it does not begin with {_FIRST_LINE.strip()}")
    rows, end = 0, first
    for start in range(first, len(data), 1 << 22):
        block = bytes(data[start : start + (1 << 22)])
        if count := block.count(b"\n"):
            rows, end = rows + count, start + block.rindex(b"\n") + 1
    return rows, end


# Parquet.


class _ParquetWriter:
    def __init__(self, writer: Any, arrow: Any, schema: Any, written: int) -> None:
        self._writer, self._arrow, self._schema, self.written = writer, arrow, schema, written

    def write(self, results: Results) -> None:
        """See Writer."""
        rows, hosts, reasons = results
        none = self._arrow.array
        columns = [
            none(rows.source_ids),
            none(rows.addresses),
            none(rows.writes),
            none(rows.pasids, mask=rows.pasids == NO_PASID),
            none(hosts, mask=hosts == NO_ADDRESS),
            none(reasons),
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self.written += len(rows)


@contextmanager
def _parquet(path: Path, resume: bool) -> Iterator[Writer]:
    """A Parquet file ends with its directory, so it is written anew; what was written before an error is kept."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise MisuseError(f"{path} is to be Parquet, which needs pyarrow: pip install 'vtdlab[parquet]'") from None
    kinds = (arrow.uint16(), arrow.uint64(), arrow.bool_(), arrow.uint32(), arrow.uint64(), arrow.uint8())
    schema = arrow.schema(list(zip(HEADER, kinds, strict=True)))
    ended: BaseException | None = None
    try:
        with whole_file(path) as file, parquet.ParquetWriter(file, schema) as writer:
            made = _ParquetWriter(writer, arrow, schema, 0)
            if resume and path.exists():
                made.written = _copied(path, writer, schema, arrow, parquet)
            try:
                yield made
            except BaseException as error:
                ended = error
        if ended is not None:
            raise ended
    except arrow.ArrowException as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None


def _copied(path: Path, writer: Any, schema: Any, arrow: Any, parquet: Any) -> int:
    """Copy the results of an earlier run. Returns how many there are."""
    try:
        with os.fdopen(descriptor_of(path), "rb") as stream, parquet.ParquetFile(stream) as before:
            if not before.schema_arrow.equals(schema):
                raise MisuseError(f"{path} has no results of a trace: its columns are {before.schema_arrow.names}")
            for group in range(before.num_row_groups):
                writer.write_table(before.read_row_group(group))
            return int(before.metadata.num_rows)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
