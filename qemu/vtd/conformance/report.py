"""A conformance run as people read it, as JSON, and as JUnit XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iommu import FaultReason
from qemu.vtd.conformance.runner import Report, Result, Verdict
from qemu.vtd.quirks import QUIRKS, Version

_STYLE = {
    Verdict.AGREES: "green",
    Verdict.ALLOWED: "green",
    Verdict.QUIRK: "yellow",
    Verdict.MODEL_ONLY: "dim",
    Verdict.DIFFERS: "bold red",
}
# What each column keeps where ids have to be folded, and the width that takes.
_COLUMNS = {"scenario": 30, "section": 11, "expected": 20, "model": 5, "QEMU": 14, "verdict": 15}
_NARROWEST = sum(_COLUMNS.values()) + len(_COLUMNS)
_UNBOUNDED = 200
_REASONS = {reason.value: reason for reason in FaultReason}


def version_text(version: Version) -> str:
    """7.2.22."""
    return ".".join(map(str, version))


def print_report(report: Report, console: Console) -> None:
    """The table, then everything in it that needs a word, then the summary."""
    console.print(f"QEMU {version_text(report.version)}  {report.path}\n", style="bold")
    if console.is_terminal and console.width < _NARROWEST:
        _print_stacked(report, console)
    else:
        _print_table(report, console)
    _print_quirks(report, console)
    _print_freedom(report, console)
    _print_alone(report, console)
    for result in report.results:
        if result.verdict is Verdict.DIFFERS:
            _print_difference(result, console)
    console.print(summary(report), style="green" if report.passed else "bold red")


def _print_table(report: Report, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, least in _COLUMNS.items():
        table.add_column(heading, overflow="fold", min_width=least)
    for result in report.results:
        table.add_row(*_row(result))
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    # A file has no width, so nothing is folded there; nor does it need blanks at the ends of lines.
    wide = Console(width=_UNBOUNDED, highlight=False)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), markup=False)


def _print_stacked(report: Report, console: Console) -> None:
    """For narrow terminals: two lines for each scenario, so that nothing is cut off."""
    for result in report.results:
        id_, section, expected, model, qemu, verdict = _row(result)
        console.print(Text.assemble(verdict, f"  {id_}"))
        console.print(f"    spec {section}: expected {expected}; model {model}; QEMU {qemu}")
    console.print()


def summary(report: Report) -> str:
    """One line: counts, QEMU's version, cases a second."""
    counts = [f"{report.count(verdict)} {verdict.value}" for verdict in Verdict]
    rate = len(report.results) / max(report.seconds, 1e-9)
    return (
        f"{len(report.results)} scenarios: {', '.join(counts)}; QEMU {version_text(report.version)}; "
        f"{report.seconds:.1f} s, {rate:.0f} cases a second"
    )


def _row(result: Result) -> tuple[str | Text, ...]:
    expected = result.scenario.expect
    verdict = result.verdict.value + (f" {result.why}" if result.verdict is Verdict.QUIRK else "")
    return (
        result.scenario.id,
        result.scenario.section,
        brief(expected),
        _same_or_brief(result.model, expected),
        "-" if result.qemu is None else _same_or_brief(result.qemu, expected),
        Text(verdict, _STYLE[result.verdict]),
    )


def brief(lines: tuple[str, ...]) -> str:
    """An outcome in a few words: where each DMA went, the faults by code, the status where it says more than that."""
    words = []
    for line in lines:
        if "->" in line:
            words.append(line.split(" -> ")[1])
        elif line.startswith("fault"):
            words.append(line.split()[1])
        elif line.startswith("FSTS"):
            words += [name for name in line.split()[1:] if name not in ("0", "PPF")]
        else:
            words.append(line)
    return ", ".join(words) or "nothing pending"


def _same_or_brief(seen: tuple[str, ...], expected: tuple[str, ...]) -> str:
    """ "same", or what was seen; where that would read alike in brief, the first line that is not."""
    if seen == expected:
        return "same"
    if brief(seen) != brief(expected):
        return brief(seen)
    return next(line for line in seen if line not in expected)


def _print_quirks(report: Report, console: Console) -> None:
    shown = {id_ for result in report.results if result.verdict is Verdict.QUIRK for id_ in result.why.split(", ")}
    for quirk in QUIRKS:
        if quirk.id in shown:
            console.print(f"{quirk.id}  {quirk.title()} (spec {quirk.section})", style="yellow")


def _print_freedom(report: Report, console: Console) -> None:
    used: dict[str, list[str]] = {}
    for result in report.results:
        if result.verdict is Verdict.ALLOWED:
            used.setdefault(result.why, []).append(result.scenario.id)
    for because, ids in used.items():
        console.print(f"allowed: {because}: {', '.join(ids)}")


def _print_alone(report: Report, console: Console) -> None:
    alone: dict[str, list[str]] = {}
    for result in report.results:
        if result.qemu is None:
            alone.setdefault(result.why, []).append(result.scenario.id)
    for why, ids in alone.items():
        console.print(f"model only: {why}: {', '.join(ids)}")


def _print_difference(result: Result, console: Console) -> None:
    console.print(f"\nDIFFERS {result.scenario.id} (spec {result.scenario.section})", style="bold red")
    console.print(f"  {result.scenario.title}")
    if result.why:
        console.print(f"  {result.why}")
    for heading, lines in (("expected", result.scenario.expect), ("model", result.model), ("QEMU", result.qemu)):
        for line in lines or ("-",):
            console.print(f"  {heading:>8}  {in_words(line)}")


def in_words(line: str) -> str:
    """A line of an outcome with its fault reason spelled out."""
    words = line.split()
    reason = _REASONS.get(int(words[1], 16)) if words and words[0] == "fault" else None
    return f"{line}  ({reason.condition} {reason.meaning})" if reason else line


def as_dict(report: Report) -> dict[str, Any]:
    """For programs."""
    return {
        "qemu": report.path,
        "version": version_text(report.version),
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "counts": {verdict.name.lower(): report.count(verdict) for verdict in Verdict},
        "scenarios": [
            {
                "id": result.scenario.id,
                "section": result.scenario.section,
                "title": result.scenario.title,
                "expected": list(result.scenario.expect),
                "model": list(result.model),
                "qemu": None if result.qemu is None else list(result.qemu),
                "verdict": result.verdict.name.lower(),
                "why": result.why,
            }
            for result in report.results
        ],
    }


def as_junit(reports: list[Report]) -> bytes:
    """JUnit XML: one suite for each QEMU; a difference is a failure, what only the model can show is skipped."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"vtd conform, QEMU {version_text(report.version)}",
            tests=str(len(report.results)),
            failures=str(report.count(Verdict.DIFFERS)),
            skipped=str(report.count(Verdict.MODEL_ONLY)),
            time=f"{report.seconds:.3f}",
        )
        for result in report.results:
            chapter, _, name = result.scenario.id.rpartition(".")
            case = ElementTree.SubElement(suite, "testcase", classname=chapter, name=name)
            if result.verdict is Verdict.DIFFERS:
                failure = ElementTree.SubElement(case, "failure", message=result.why or "QEMU differs")
                failure.text = "\n".join(
                    f"{who}: {'; '.join(lines or ('-',))}"
                    for who, lines in (
                        ("expected", result.scenario.expect),
                        ("model", result.model),
                        ("QEMU", result.qemu),
                    )
                )
            elif result.verdict is Verdict.MODEL_ONLY:
                ElementTree.SubElement(case, "skipped", message=result.why)
            elif result.why:
                ElementTree.SubElement(case, "system-out").text = f"{result.verdict.value}: {result.why}"
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
