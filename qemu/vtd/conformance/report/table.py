"""Every scenario of a report, a line each, and what its verdicts refer to."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.words import STYLE, brief, print_hanging, same_or_brief, width_of
from qemu.vtd.conformance.runner import Report

# Minimum column widths when ids have to be folded, and the total width that needs.
_COLUMNS = {"scenario": 30, "section": 11, "expected": 20, "model": 5, "QEMU": 14, "verdict": 15}
_NARROWEST = sum(_COLUMNS.values()) + len(_COLUMNS)
_UNBOUNDED = 10_000


def print_table(report: Report, console: Console) -> None:
    """Print the scenarios, then which freedoms were used and which scenarios only the model could run."""
    width = width_of(console)
    if width is not None and width < _NARROWEST:
        _print_stacked(report, console)
    else:
        _print_columns(report, console, width)
    for verdict in (Verdict.ALLOWED, Verdict.MODEL_ONLY, Verdict.NOT_APPLICABLE):
        _print_reasons(report, verdict, console)
    console.print()


def _print_columns(report: Report, console: Console, width: int | None) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, least in _COLUMNS.items():
        table.add_column(heading, overflow="fold", min_width=least)
    for result in report.results:
        table.add_row(*_row(result))
    if width is not None:
        console.print(table, soft_wrap=False)
        return
    # A file or pipe has no width: nothing is folded, and trailing blanks are removed.
    wide = Console(width=_UNBOUNDED, highlight=False)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), markup=False)


def _print_stacked(report: Report, console: Console) -> None:
    """For narrow terminals: each scenario below its id, so that nothing is cut off."""
    for result in report.results:
        id_, section, expected, model, qemu, verdict = _row(result)
        print_hanging(console, "", f"{id_}: {verdict}", STYLE[result.verdict])
        print_hanging(console, "  ", f"spec {section}: expected {expected}; model {model}; QEMU {qemu}")
    console.print()


def _row(result: Result) -> tuple[str | Text, ...]:
    expected = result.scenario.expect
    verdict = result.verdict.value + (f" {result.why}" if result.verdict is Verdict.QUIRK else "")
    return (
        result.scenario.id,
        result.scenario.section,
        brief(expected),
        same_or_brief(result.model, expected),
        "-" if result.qemu is None else same_or_brief(result.qemu, expected),
        Text(verdict, STYLE[result.verdict]),
    )


def _print_reasons(report: Report, verdict: Verdict, console: Console) -> None:
    """The reasons that results with this verdict give, each with its scenarios."""
    given: dict[str, list[str]] = {}
    for result in report.results:
        if result.verdict is verdict:
            given.setdefault(result.why, []).append(result.scenario.id)
    for why, ids in given.items():
        print_hanging(console, "", f"{verdict.value}: {why}:")
        print_hanging(console, "    ", ", ".join(ids))
