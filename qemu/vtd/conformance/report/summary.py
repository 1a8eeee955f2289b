"""A report in short: where QEMU departs from the specification, the totals by chapter, every difference in full."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from qemu.vtd.conformance.judge import CHANGES, Result, Verdict
from qemu.vtd.conformance.report.words import (
    STYLE,
    chapter_title,
    print_hanging,
    quirks_shown,
    with_reason,
)
from qemu.vtd.conformance.runner import Report
from qemu.vtd.quirks import NEWEST, Quirk, Severity, version_text

_IN_WORDS = {
    Verdict.AGREES: "agree",
    Verdict.ALLOWED: "agree (allowed)",
    Verdict.QUIRK: "with a known quirk",
    Verdict.MODEL_ONLY: "on the model only",
}

_SERIOUS = CHANGES | {Verdict.QUIRK}


def print_summary(report: Report, console: Console) -> None:
    """Print what matters first: departures, totals, and all three outcomes of each difference."""
    shown = quirks_shown(report.results)
    print_hanging(console, "", headline(report), "bold" if report.passed else "bold red")
    print_hanging(console, "", report.path, "dim")
    if terms := terms_in_words(report):
        print_hanging(console, "", terms)
    for doubt in report.doubts:
        print_hanging(console, "", doubt, "bold yellow")
    console.print()
    for severity in Severity:
        _print_quirks(severity, [quirk for quirk in shown if quirk.severity is severity], console)
    _print_chapters(report, console)
    for result in report.changes:
        print_change(result, console)
    console.print()
    print_hanging(console, "", totals(report), "green" if report.passed else "bold red")


def headline(report: Report) -> str:
    """The result in one sentence."""
    ways = len(quirks_shown(report.results))
    known = f"departs from VT-d in {_number(ways, 'way')}" if ways else "shows no known quirk"
    more = [
        f"{text} {_number(report.count(verdict), 'scenario')}{rest}"
        for verdict, text, rest in (
            (Verdict.DIFFERS, "and in", " that nothing explains"),
            (Verdict.GONE, "no longer in", " with a known quirk"),
            (Verdict.MOVED, "uses another freedom in", ""),
        )
        if report.count(verdict)
    ]
    return ", ".join([f"QEMU {version_text(report.version)} {known}", *more])


def terms_in_words(report: Report) -> str:
    """What the QEMU is held to, when that is not what is known of its own version; empty when it is."""
    if report.terms.version != report.version or report.old is not None:
        return f"judged by the quirks of QEMU {version_text(report.terms.version)}: what is fixed does not fail"
    if not report.terms.fails:
        return f"newer than {version_text(NEWEST)}, the last version known: differences are shown and do not fail"
    if Verdict.GONE not in report.terms.fails:
        return "not a release: what is fixed does not fail"
    return ""


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def totals(report: Report) -> str:
    """One line: counts by verdict, QEMU's version; time and scenarios per second, if the run was timed."""
    rare = (Verdict.MOVED, Verdict.GONE)
    shown = [verdict for verdict in Verdict if verdict not in rare or report.count(verdict)]
    counts = [f"{report.count(verdict)} {verdict.value}" for verdict in shown]
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


def print_change(result: Result, console: Console, where: str = "") -> None:
    """Print a result that is not as known, with all three outcomes; `where` names the QEMU."""
    scenario = result.scenario
    console.print()
    head = f"{result.verdict.value} {scenario.id} (spec {scenario.section}){where and ', '}{where}"
    print_hanging(console, "", head, STYLE[result.verdict])
    print_hanging(console, "  ", scenario.title)
    if result.why:
        print_hanging(console, "  ", result.why)
    for heading, lines in (("expected", scenario.expect), ("model", result.model), ("QEMU", result.qemu)):
        for line in lines or ("-",):
            print_hanging(console, f"  {heading:>8}  ", with_reason(line))


def print_next(reports: list[Report], console: Console) -> None:
    """Print two commands to try next."""
    changed = [result.scenario.id for report in reports for result in report.changes]
    first = (f"vtd conform --only {changed[0]}", "that alone") if changed else ("vtd quirks", "each departure")
    commands = (first, ("vtd conform --html report.html", "every scenario with its tables and walks"))
    width = max(len(command) for command, _ in commands)
    console.print()
    for command, what in commands:
        print_hanging(console, f"{command:<{width}}   ", what)
