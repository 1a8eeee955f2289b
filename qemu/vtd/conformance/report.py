"""A conformance report as text, as JSON, and as JUnit XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iommu import FaultReason
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.runner import Report
from qemu.vtd.quirks import QUIRKS, version_text

_STYLE = {
    Verdict.AGREES: "green",
    Verdict.ALLOWED: "green",
    Verdict.QUIRK: "yellow",
    Verdict.MODEL_ONLY: "dim",
    Verdict.DIFFERS: "bold red",
}
# Minimum column widths when ids have to be folded, and the total width that needs.
_COLUMNS = {"scenario": 30, "section": 11, "expected": 20, "model": 5, "QEMU": 14, "verdict": 15}
_NARROWEST = sum(_COLUMNS.values()) + len(_COLUMNS)
_UNBOUNDED = 200
_REASONS = {reason.value: reason for reason in FaultReason}


def print_report(report: Report, console: Console) -> None:
    """Print the table, then what its verdicts refer to, then the summary."""
    console.print(f"QEMU {version_text(report.version)}  {report.path}\n", style="bold")
    if console.is_terminal and console.width < _NARROWEST:
        _print_stacked(report, console)
    else:
        _print_table(report, console)
    _print_quirks(report, console)
    _print_freedom(report, console)
    _print_model_only(report, console)
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
    # A file or pipe has no width: nothing is folded, and trailing blanks are removed.
    wide = Console(width=_UNBOUNDED, highlight=False)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), markup=False)


def _print_stacked(report: Report, console: Console) -> None:
    """For narrow terminals: two lines per scenario, so that nothing is cut off."""
    for result in report.results:
        id_, section, expected, model, qemu, verdict = _row(result)
        console.print(Text.assemble(verdict, f"  {id_}"))
        console.print(f"    spec {section}: expected {expected}; model {model}; QEMU {qemu}")
    console.print()


def summary(report: Report) -> str:
    """One line: counts by verdict, QEMU's version, time, scenarios per second."""
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
    """An outcome in brief: where each DMA went, the fault codes, and status bits other than PPF."""
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
    """`seen` in brief; "same" when it is as expected, and the first differing line when both read alike in brief."""
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


def _print_model_only(report: Report, console: Console) -> None:
    model_only: dict[str, list[str]] = {}
    for result in report.results:
        if result.qemu is None:
            model_only.setdefault(result.why, []).append(result.scenario.id)
    for why, ids in model_only.items():
        console.print(f"model only: {why}: {', '.join(ids)}")


def _print_difference(result: Result, console: Console) -> None:
    console.print(f"\nDIFFERS {result.scenario.id} (spec {result.scenario.section})", style="bold red")
    console.print(f"  {result.scenario.title}")
    if result.why:
        console.print(f"  {result.why}")
    for heading, lines in (("expected", result.scenario.expect), ("model", result.model), ("QEMU", result.qemu)):
        for line in lines or ("-",):
            console.print(f"  {heading:>8}  {with_reason(line)}")


def with_reason(line: str) -> str:
    """A line of an outcome, with the fault reason spelled out."""
    words = line.split()
    reason = _REASONS.get(int(words[1], 16)) if words and words[0] == "fault" else None
    return f"{line}  ({reason.condition} {reason.meaning})" if reason else line


def as_dict(report: Report) -> dict[str, Any]:
    """The report as a JSON document."""
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
    """JUnit XML: one suite per QEMU. A difference is a failure; a scenario only the model can run is skipped."""
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
