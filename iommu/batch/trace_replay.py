"""Runs a trace through the tables of a machine's units, chunk by chunk, here or on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iommu.batch.arrays import NO_ADDRESS, Int64, Uint8, Uint64
from iommu.batch.trace_results import Results, Writer
from iommu.batch.trace_rows import Rows, rows_of
from iommu.batch.translator import BatchTranslator
from iommu.engine.reasons import FaultReason
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import RoutingError, TraceError
from iommu.files.reading import name_of

Answer = tuple[Uint64, Uint8]
"""Host addresses and fault reasons, as BatchTranslator.translate returns them."""


class Part(NamedTuple):
    """Rows of a chunk that one unit remaps: the number of the unit, and where they are in the chunk."""

    unit: int
    where: Int64
    rows: Rows


@dataclass
class Totals:
    """What has become of the rows of a run, without those of earlier runs.

    Attributes:
        rows: how many there were.
        translated: how many reached memory.
        faults: how many were blocked, by reason.
    """

    rows: int = 0
    translated: int = 0
    faults: Counter[FaultReason] = field(default_factory=Counter)

    @property
    def dropped(self) -> int:
        """Blocked without a fault: messages in the interrupt range, and protected memory regions."""
        return self.rows - self.translated - self.faults.total()

    def count(self, results: Results) -> None:
        """Count the rows of a chunk."""
        self.rows += len(results.rows)
        self.translated += int(np.count_nonzero(results.hosts != NO_ADDRESS))
        counts = np.bincount(results.reasons, minlength=256)
        self.faults.update({FaultReason(code): int(counts[code]) for code in np.flatnonzero(counts).tolist() if code})


class Router:
    """Which unit remaps which rows. `unit_of` gives the unit of a source-id, or raises RoutingError.

    Attributes:
        units: those that have been asked for, by number.
    """

    def __init__(self, unit_of: Callable[[SourceId], RemappingUnit], name: str) -> None:
        self._unit_of, self._name = unit_of, name
        self.units: list[RemappingUnit] = []
        self._numbers: dict[int, int] = {}

    def parts(self, rows: Rows) -> list[Part]:
        """A chunk by unit. Raises TraceError with the first row whose unit is not known."""
        found, inverse = np.unique(rows.source_ids, return_inverse=True)
        numbers = np.array([self._number(int(each)) for each in found], np.int64)[inverse]
        if (numbers < 0).any():
            row = int((numbers < 0).argmax())
            device = SourceId.of(int(rows.source_ids[row]))
            raise TraceError(self._name, rows.first + row, f"no unit of the snapshot remaps {device}")
        where = {unit: np.flatnonzero(numbers == unit) for unit in np.unique(numbers).tolist()}
        return [Part(unit, own, rows.at(own) if len(where) > 1 else rows) for unit, own in where.items()]

    def _number(self, source_id: int) -> int:
        if source_id not in self._numbers:
            try:
                unit = self._unit_of(SourceId.of(source_id))
            except RoutingError:
                self._numbers[source_id] = -1
                return -1
            if all(unit is not each for each in self.units):
                self.units.append(unit)
            self._numbers[source_id] = next(n for n, each in enumerate(self.units) if each is unit)
        return self._numbers[source_id]


Run = Callable[[Router, Iterator[tuple[Rows, list[Part]]]], Iterator[tuple[Rows, list[Part], list[Answer]]]]
"""Translates the parts of chunks; the chunks come back in their order."""


def answer(unit: RemappingUnit, rows: Rows) -> Answer:
    """What the unit does with requests."""
    return BatchTranslator(unit).translate(rows.source_ids, rows.addresses, rows.writes, rows.pasids)


def here(
    router: Router, chunks: Iterator[tuple[Rows, list[Part]]]
) -> Iterator[tuple[Rows, list[Part], list[Answer]]]:
    """A Run in this process."""
    for rows, parts in chunks:
        yield rows, parts, [answer(router.units[part.unit], part.rows) for part in parts]


def replay_trace(
    path: Path,
    writer: Writer,
    unit_of: Callable[[SourceId], RemappingUnit],
    *,
    run: Run = here,
    progress: Callable[[float], None] = lambda _: None,
    watch: Callable[[Results], None] = lambda _: None,
) -> Totals:
    """Translate a trace, behind the rows that the writer has already, by the tables as they stand in memory.

    A trace of any length takes the memory of a few chunks.

    Args:
        run: where the work is done.
        progress: called with how much of the trace is done, from 0 to 1.
        watch: called with the results of each chunk, once they are written.

    Raises TraceError for a row that makes no sense, when the results of all rows before it have been written; and as
    `rows_of` and BatchTranslator do.
    """
    totals = Totals()
    router = Router(unit_of, name_of(path))
    reading = _Reading(rows_of(path, writer.written), router)
    for rows, parts, answers in run(router, iter(reading)):
        results = _united(rows, parts, answers)
        writer.write(results)
        totals.count(results)
        watch(results)
        progress(rows.done)
    if reading.error is not None:
        raise reading.error
    return totals


class _Reading:
    """Chunks by unit, up to the first row that makes no sense: the error is kept until their results are written."""

    def __init__(self, found: Iterator[Rows], router: Router) -> None:
        self._found, self._router = found, router
        self.error: TraceError | None = None

    def __iter__(self) -> Iterator[tuple[Rows, list[Part]]]:
        try:
            for rows in self._found:
                try:
                    yield rows, self._router.parts(rows)
                except TraceError as error:
                    if before := error.row - rows.first:
                        some = rows.part(0, before)
                        yield some, self._router.parts(some)
                    raise
        except TraceError as error:
            self.error = error


def _united(rows: Rows, parts: list[Part], answers: list[Answer]) -> Results:
    if len(parts) == 1:
        return Results(rows, *answers[0])
    hosts, reasons = np.empty(len(rows), np.uint64), np.empty(len(rows), np.uint8)
    for part, (host, reason) in zip(parts, answers, strict=True):
        hosts[part.where], reasons[part.where] = host, reason
    return Results(rows, hosts, reasons)
