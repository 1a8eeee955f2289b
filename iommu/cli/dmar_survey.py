"""`vtd dmar survey`: counts over many tables, for people, as JSON, CSV or a page with charts."""

import csv
import sys
from contextlib import closing
from dataclasses import asdict
from html import escape
from pathlib import Path

from rich.progress import Progress

from iommu.cli.output import console, error_console, line, print_json
from iommu.dmar.survey import Row, counts, files_of, survey
from iommu.files.text import safe
from iommu.files.writing import write_file

_FIXED = ["file", "error", "absent", "vendor", "revision", "width"]


def run(paths: list[Path], as_json: bool, as_csv: bool, html_file: Path | None) -> list[Row]:
    """Survey, with a progress bar on a terminal, and print or write the result in the forms that are wanted."""
    files, rows = files_of(paths), list[Row]()
    with Progress(console=error_console(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("tables", total=len(files))
        with closing(survey(files)) as batches:  # its processes end here, also after Ctrl-C
            for batch in batches:
                rows += batch
                progress.advance(task, len(batch))
    if html_file is not None:
        write_file(html_file, page(rows).encode())
    if as_json:
        print_json({"counts": counts(rows), "tables": [asdict(row) for row in rows]})
    elif as_csv:
        print_csv(rows)
    else:
        print_counts(rows)
    return rows


def print_counts(rows: list[Row]) -> None:
    """Print each count as a small table, and the files that could not be read."""
    out = console()
    for title, group in counts(rows).items():
        out.print(line((title, "bold")))
        for name, number in group.items():
            out.print(f"  {number:>6}  {safe(name)}", markup=False)
    for row in rows:
        if row.error:
            out.print(line(("not read: ", "red"), f"{safe(row.file)}: {safe(row.error)}"))


def print_csv(rows: list[Row]) -> None:
    """Print a line for each table, with a column for each structure, flag and finding that occurs."""
    kinds = sorted({kind for row in rows for kind in row.structures})
    flags = sorted({flag for row in rows for flag in row.flags})
    rules = sorted({rule for row in rows for rule in row.findings})
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*_FIXED, *kinds, *flags, *rules])
    for row in rows:
        fixed = [safe(str(getattr(row, name))) for name in _FIXED]
        numbers = [row.structures.get(kind, 0) for kind in kinds] + [int(flag in row.flags) for flag in flags]
        writer.writerow([*fixed, *numbers, *(row.findings.get(rule, 0) for rule in rules)])


def page(rows: list[Row]) -> str:
    """A page with a bar chart of each count."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DMAR survey</title></head>',
        '<body style="font-family:sans-serif;margin:2em"><h1>DMAR survey</h1>',
    ]
    for title, group in counts(rows).items():
        parts.append(f"<h2>{escape(title)}</h2>{_bars(group)}")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _bars(group: dict[str, int]) -> str:
    most, height = max(group.values(), default=1) or 1, 22 * len(group) + 4
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" font-size="13">']
    for number, (name, count) in enumerate(group.items()):
        y = 22 * number + 4
        drawn.append(f'<text x="270" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        drawn.append(f'<rect x="280" y="{y}" width="{max(1, 500 * count // most)}" height="17" fill="#1976d2"/>')
        drawn.append(f'<text x="{290 + max(1, 500 * count // most)}" y="{y + 13}">{count}</text>')
    return "".join([*drawn, "</svg>"])
