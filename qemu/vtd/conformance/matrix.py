"""Several QEMUs side by side: a line a scenario, a column a QEMU."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.text import Text

from qemu.vtd.conformance.judge import CHANGES, Result, Verdict
from qemu.vtd.conformance.report.summary import print_change, terms_in_words
from qemu.vtd.conformance.report.words import STYLE, print_hanging, width_of
from qemu.vtd.conformance.runner import Report
from qemu.vtd.quirks import version_text

_GAP = "  "


def print_matrix(reports: list[Report], console: Console, *, whole: bool = False) -> None:
    """Print the scenarios in which the QEMUs are not alike, or all; the totals; every change in full.

    The reports are of the same scenarios, in the same order.
    """
    names = columns(reports)
    for name, report in zip(names, reports, strict=True):
        print_hanging(console, f"{name}{_GAP}", report.path, "dim")
        if terms := terms_in_words(report):
            print_hanging(console, " " * len(f"{name}{_GAP}"), terms)
    console.print()
    rows = [(row[0].scenario.id, [cell(each) for each in row]) for row in zip(*_results(reports), strict=True)]
    shown = [row for row in rows if whole or not _alike(row[1])]
    totals = [
        (verdict.value, [Text(str(report.count(verdict)), STYLE[verdict]) for report in reports])
        for verdict in Verdict
        if any(report.count(verdict) for report in reports)
    ]
    _print_rows(names, shown, totals, console)
    if len(shown) < len(rows):
        print_hanging(console, "", f"{len(rows) - len(shown)} scenarios more, alike on every QEMU: -v shows them")
    for name, report in zip(names, reports, strict=True):
        for result in report.changes:
            print_change(result, console, f"QEMU {name}")
    console.print()
    for name, report in zip(names, reports, strict=True):
        failed = Counter(result.verdict.value for result in report.failures)
        text = ", ".join(f"{count} {verdict}" for verdict, count in failed.items()) or "as known"
        print_hanging(console, "", f"QEMU {name}: {text}", "green" if report.passed else "bold red")


def columns(reports: list[Report]) -> list[str]:
    """A heading for each report: its version, numbered when another has the same."""
    versions = [version_text(report.version) for report in reports]
    seen: Counter[str] = Counter()
    names = []
    for version in versions:
        seen[version] += 1
        names.append(version if versions.count(version) == 1 else f"{version} ({seen[version]})")
    return names


def cell(result: Result) -> Text:
    """A verdict in short: a quirk by its id."""
    words = {Verdict.QUIRK: result.why, Verdict.ALLOWED: "allowed"}.get(result.verdict, result.verdict.value)
    return Text(words, STYLE[result.verdict])


def _results(reports: list[Report]) -> list[list[Result]]:
    return [report.results for report in reports]


def _alike(cells: list[Text]) -> bool:
    return len({each.plain for each in cells}) == 1 and cells[0].plain not in {verdict.value for verdict in CHANGES}


def _print_rows(
    names: list[str],
    rows: list[tuple[str, list[Text]]],
    totals: list[tuple[str, list[Text]]],
    console: Console,
) -> None:
    first = max(len(head) for head, _ in [("scenario", []), *rows, *totals])
    widths = [
        max(len(name), *(len(cells[number]) for _, cells in [*rows, *totals])) for number, name in enumerate(names)
    ]
    width = width_of(console)
    stacked = width is not None and first + sum(widths) + len(_GAP) * len(widths) > width

    def show(head: str, cells: list[Text], style: str = "") -> None:
        if stacked:
            print_hanging(console, "", head, style)
            text = ", ".join(f"{name} {each.plain}" for name, each in zip(names, cells, strict=True))
            print_hanging(console, _GAP, text)
            return
        line = Text(head.ljust(first), style)
        for each, size in zip(cells, widths, strict=True):
            line.append(_GAP).append(each).append(" " * (size - len(each)))
        line.rstrip()
        console.print(line)

    if rows and not stacked:
        show("scenario", [Text(name) for name in names], "bold")
    for head, cells in rows:
        show(head, cells)
    if rows:
        console.print()
    if not stacked:
        show("verdict", [Text(name) for name in names], "bold")
    for head, cells in totals:
        show(head, cells)
    console.print()
