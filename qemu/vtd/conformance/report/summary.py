"""A report in short: where QEMU departs from the specification, the totals by chapter, every difference in full."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.words import (
    STYLE,
    chapter_title,
    print_hanging,
    quirks_shown,
    with_reason,
)
from qemu.vtd.conformance.runner import Report
from qemu.vtd.quirks import Quirk, Severity, version_text

_IN_WORDS = {
    Verdict.AGREES: "agree",
    Verdict.ALLOWED: "agree (allowed)",
    Verdict.QUIRK: "with a known quirk",
    Verdict.MODEL_ONLY: "on the model only",
}

_SERIOUS = frozenset((Verdict.QUIRK, Verdict.DIFFERS))


def print_summary(report: Report, console: Console) -> None:
    """Print what matters first: departures, totals, and all three outcomes of each difference."""
    shown = quirks_shown(report.results)
    print_hanging(console, "", headline(report), "bold" if report.passed else "bold red")
    print_hanging(console, "", report.path, "dim")
    for doubt in report.doubts:
        print_hanging(console, "", doubt, "bold yellow")
    console.print()
    for severity in Severity:
        _print_quirks(severity, [quirk for quirk in shown if quirk.severity is severity], console)
    _print_chapters(report, console)
    for result in report.results:
        if result.verdict is Verdict.DIFFERS:
            _print_difference(result, console)
    console.print()
    print_hanging(console, "", totals(report), "green" if report.passed else "bold red")


def headline(report: Report) -> str:
    """The result in one sentence."""
    ways = len(quirks_shown(report.results))
    differs = report.count(Verdict.DIFFERS)
    known = f"departs from VT-d in {ways} {'way' if ways == 1 else 'ways'}" if ways else "shows no known quirk"
    unknown = f", and in {differs} {'scenario' if differs == 1 else 'scenarios'} that nothing explains"
    return f"QEMU {version_text(report.version)} {known}{unknown if differs else ''}"


def totals(report: Report) -> str:
    """One line: counts by verdict, QEMU's version; time and scenarios per second, if the run was timed."""
    counts = [f"{report.count(verdict)} {verdict.value}" for verdict in Verdict]
    line = f"{len(report.results)} scenarios: {', '.join(counts)}; QEMU {version_text(report.version)}"
    if not report.seconds:
        return line
    return f"{line}; {report.seconds:.1f} s, {len(report.results) / report.seconds:.0f} cases a second"


def chapters(results: list[Result]) -> dict[str, Counter[Verdict]]:
    """The verdicts of each chapter, counted, in the order of the catalogue."""
    found: dict[str, Counter[Verdict]] = {}
    for result in results:
        found.setdefault(result.scenario.chapter, Counter())[result.verdict] += 1
    return found


def _print_quirks(severity: Severity, quirks: list[type[Quirk]], console: Console) -> None:
    """Quirks that mean the same for a driver, a line each."""
    if quirks:
        print_hanging(console, "", f"{severity.value}:", "bold yellow")
        for quirk in quirks:
            print_hanging(console, f"{quirk.id}  ", quirk.driver)
        console.print()


def _print_chapters(report: Report, console: Console) -> None:
    counted = chapters(report.results)
    name = max(len(chapter) for chapter in counted)
    number = max(len(str(verdicts.total())) for verdicts in counted.values())
    for chapter, verdicts in counted.items():
        head = f"{chapter_title(chapter):<{name}}  {verdicts.total():>{number}}  "
        print_hanging(console, head, _in_words(verdicts), _style(verdicts))


def _style(verdicts: Counter[Verdict]) -> str:
    """That of the most serious verdict; a chapter without a departure is good, whatever this QEMU cannot run."""
    return next(
        (STYLE[each] for each in reversed(Verdict) if verdicts[each] and each in _SERIOUS), STYLE[Verdict.AGREES]
    )


def _in_words(verdicts: Counter[Verdict]) -> str:
    """The verdicts of a chapter: "all agree", or each with its number."""
    if set(verdicts) == {Verdict.AGREES}:
        return "all agree"
    return ", ".join(f"{verdicts[each]} {_IN_WORDS.get(each, each.value)}" for each in Verdict if verdicts[each])


def _print_difference(result: Result, console: Console) -> None:
    scenario = result.scenario
    console.print()
    print_hanging(console, "", f"DIFFERS {scenario.id} (spec {scenario.section})", "bold red")
    print_hanging(console, "  ", scenario.title)
    if result.why:
        print_hanging(console, "  ", result.why)
    for heading, lines in (("expected", scenario.expect), ("model", result.model), ("QEMU", result.qemu)):
        for line in lines or ("-",):
            print_hanging(console, f"  {heading:>8}  ", with_reason(line))


def print_next(reports: list[Report], console: Console) -> None:
    """Print two commands to try next."""
    differing = [r.scenario.id for report in reports for r in report.results if r.verdict is Verdict.DIFFERS]
    first = (f"vtd conform --only {differing[0]}", "that alone") if differing else ("vtd quirks", "each departure")
    commands = (first, ("vtd conform --html report.html", "every scenario with its tables and walks"))
    width = max(len(command) for command, _ in commands)
    console.print()
    for command, what in commands:
        print_hanging(console, f"{command:<{width}}   ", what)
