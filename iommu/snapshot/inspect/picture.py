"""The tables of a unit as data for a picture: every present entry, where it is, its bits, and what it points to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from iommu.engine.caches.tables import FirstStageRoot
from iommu.engine.entry_format import PagingFormat
from iommu.engine.present import Entry, Table, Tables
from iommu.fields import Layout
from iommu.snapshot.unit import UnitSnapshot

Row = list[Any]
"""Of the first entry that it stands for: number in the table, how many entries there are, address, bits, layout, the
numbers of the tables below, why it is refused, and which of its bits are wrong."""


def picture(snapshot: UnitSnapshot, most_rows: int = 40_000) -> dict[str, Any]:
    """All tables that can be reached, those near the root table first.

    Pages that continue each other are one row. The numbers of `roots`, and of the tables below an entry, are places
    in `tables`; None stands for a table that is left out because there are `most_rows` rows already.

    Raises as `UnitSnapshot.unit` does.
    """
    tables = Tables(snapshot.unit_without_caches(), follow_refused=True)
    drawing = _Drawing(tables, most_rows)
    roots = [drawing.number_of(table) for table in tables.roots()]
    drawing.draw()
    shown = len(drawing.drawn)
    for table in drawing.drawn:
        for row in table["rows"]:
            row[5] = [number if number < shown else None for number in row[5]]
    return {
        "base": hex(snapshot.register_base),
        "tables": drawing.drawn,
        "roots": [number for number in roots if number < shown],
        "layouts": [_layout(layout) for layout in drawing.layouts],
        "cut_short": drawing.cut_short,
    }


class _Drawing:
    """Numbers the tables in the order in which they are met, and draws them in that order."""

    def __init__(self, tables: Tables, most_rows: int) -> None:
        self.tables, self.left = tables, most_rows
        self.drawn: list[dict[str, Any]] = []
        self.layouts: dict[type[Layout], int] = {}
        self.cut_short = False
        self._numbers: dict[object, int] = {}
        self._waiting: deque[Table] = deque()

    def number_of(self, table: Table) -> int:
        """The number of a table, which is drawn in its turn."""
        if table.key not in self._numbers:
            self._numbers[table.key] = len(self._numbers)
            self._waiting.append(table)
        return self._numbers[table.key]

    def draw(self) -> None:
        """Draw all tables that are waiting, and those that they lead to."""
        while self._waiting:
            table = self._waiting.popleft()
            rows = self._rows(table)
            self.left -= max(len(rows), table.length >> 9, 1)
            if self.left < 0:
                self.cut_short = True
                return
            own = self.tables.format_of(table)
            self.drawn.append(
                {
                    "kind": table.kind,
                    "name": own.name,
                    "address": hex(table.address),
                    "length": table.length,
                    "nested": isinstance(table.stage, FirstStageRoot) and table.stage.second is not None,
                    "level": table.level,
                    "levels": 0 if table.stage is None else table.stage.levels,
                    "rows": rows,
                }
            )

    def _rows(self, table: Table) -> list[Row]:
        own = self.tables.format_of(table)
        return [self._row(count, entry) for count, entry in _folded(self.tables.entries(table), own)]

    def _row(self, count: int, entry: Entry) -> Row:
        layout = self.layouts.setdefault(entry.layout, len(self.layouts))
        below = [self.number_of(table) for table in entry.below]
        bits = hex(0 if entry.problem is None else entry.problem.bits)
        problem = None if entry.problem is None else f"{entry.problem.what} (spec {entry.problem.section})"
        return [entry.number, count, hex(entry.where), hex(entry.raw), layout, below, problem, bits]


def _folded(entries: list[Entry], own: object) -> Iterator[tuple[int, Entry]]:
    """The entries, those of pages that continue each other as the first of them, with how many they are."""
    first: Entry | None = None
    count, step = 0, own.page_size if isinstance(own, PagingFormat) else 0
    for entry in entries:
        if first is not None:
            continues = entry.number == first.number + count and entry.raw == first.raw + count * step
            if step and continues and not (entry.below or first.below) and entry.layout is first.layout:
                count += 1
                continue
            yield count, first
        first, count = entry, 1
    if first is not None:
        yield count, first


def _layout(layout: type[Layout]) -> dict[str, Any]:
    """A declaration: name, section, bits, and of each field name, bits, shift, meaning and names of values."""
    fields = [
        [
            part.name,
            part.msb,
            part.lsb,
            part.shift,
            part.meaning,
            {} if part.names is None else {member.value: member.name for member in part.names},
        ]
        for part in layout.fields.values()
    ]
    return {"name": layout.__name__, "section": layout.section, "bits": layout.bits, "fields": fields}
