"""Many tables at once: one row for each, and counts over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import islice
from os import cpu_count
from pathlib import Path

from iommu.dmar.header import HeaderFlags
from iommu.dmar.inputs import Source, holds_other_tables, read_tables
from iommu.dmar.lint import lint
from iommu.dmar.survey_workers import in_processes
from iommu.dmar.table import Table
from iommu.errors import VtdError

_CHUNK = 250


@dataclass(slots=True)
class Row:
    """One table in a survey.

    `error` says why it could not be read; `absent` means a file of tables without a DMAR. The rest is then empty.
    """

    file: str
    error: str = ""
    absent: bool = False
    vendor: str = ""
    revision: int = 0
    width: int = 0
    flags: list[str] = field(default_factory=list)
    structures: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)


def files_of(paths: list[Path]) -> list[Path]:
    """The given files, and all files below the given folders, in order."""
    found: list[Path] = []
    for path in paths:
        found += sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    return found


def survey(files: list[Path], processes: int | None = None) -> Generator[list[Row], None, None]:
    """The rows of each batch of files, in order. Several processes share the work where that is faster.

    Raises VtdError when one of them is killed.
    """
    batches = _batches(files)
    processes = processes or min(cpu_count() or 1, len(batches))
    if processes <= 1:
        yield from map(rows_of, batches)
        return
    yield from in_processes(rows_of, batches, processes)


def _batches(files: list[Path]) -> list[list[Path]]:
    remaining, batches = iter(files), []
    while batch := list(islice(remaining, _CHUNK)):
        batches.append(batch)
    return batches


def rows_of(files: list[Path]) -> list[Row]:
    """The rows of some files: one for each table, or one with an error."""
    rows = []
    for file in files:
        try:
            rows += [_row(source) for source in read_tables(file)]
        except VtdError as error:
            rows.append(Row(str(file), error=str(error)))
    return rows


def _row(source: Source) -> Row:
    try:
        table = Table.parse(source.data, strict=False)
    except VtdError as error:
        if source.data[:4] != b"DMAR" and holds_other_tables(source.data):
            return Row(source.name, absent=True)
        return Row(source.name, error=str(error))
    flags = [part.name for part in reversed(HeaderFlags.fields.values()) if table.header.flags & part.mask]
    return Row(
        source.name,
        vendor=table.header.oem_id.strip(),
        revision=table.header.revision,
        width=table.header.width,
        flags=flags,
        structures=dict(Counter(structure.kind for structure in table.structures)),
        findings=dict(Counter(finding.rule for finding in lint(table))),
    )


def counts(rows: list[Row]) -> dict[str, dict[str, int]]:
    """The number of tables with each structure, flag, width, revision, finding and vendor; most frequent first."""
    good = [row for row in rows if not row.error and not row.absent]
    return {
        "tables": {
            "read": len(good),
            "files without DMAR": sum(row.absent for row in rows),
            "not read": sum(bool(row.error) for row in rows),
        },
        "structures": _sorted(Counter(kind for row in good for kind in row.structures)),
        "flags": _sorted(Counter(name for row in good for name in row.flags or ["none"])),
        "widths": _sorted(Counter(f"{row.width} bits" for row in good)),
        "revisions": _sorted(Counter(str(row.revision) for row in good)),
        "findings": _sorted(Counter(rule for row in good for rule in row.findings or ["none"])),
        "vendors": _sorted(Counter(row.vendor or "(none)" for row in good)),
    }


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
