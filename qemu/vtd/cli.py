"""The commands that need a QEMU. `vtd` finds them through the entry-point group "vtdlab.commands"."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qemu.vtd import fuzz_cli, guest_cli, qemu_cli, vm_cli

if TYPE_CHECKING:
    from qemu.vtd.conformance.runner import Report
    from qemu.vtd.conformance.scenario import Scenario
    from qemu.vtd.quirks import Version

Qemu = Annotated[
    list[str] | None,
    typer.Option(
        "--qemu",
        metavar="QEMU",
        help="Path, or suite of vtd qemu install; may be repeated. Default: $VTD_QEMU, PATH.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every QEMU of vtd qemu list, side by side.")]
Chapter = Annotated[str | None, typer.Option("--chapter", metavar="NAME", help="Scenarios of this chapter.")]
FailedFirst = Annotated[bool, typer.Option("--failed-first", help="First those that failed last time.")]
QuirksOf = Annotated[
    str | None, typer.Option("--quirks-of", metavar="VERSION", help="Judge by the quirks of this QEMU version.")
]
Only = Annotated[str, typer.Option("--only", metavar="PATTERN", help="Scenarios whose id contains or matches it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Checklist = Annotated[
    bool, typer.Option("--checklist", help="Print what stands behind each rule; --only then selects rules.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print every scenario with its outcome.")]
Export = Annotated[
    str,
    typer.Option("--export", metavar="ID", help="Write a scenario, or a quirk's first, as a file that runs alone."),
]
To = Annotated[Path | None, typer.Option("--to", metavar="PATH", help="Where --export writes. Default: stdout.")]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.", dir_okay=False)]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.", dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this package to `vtd`."""
    app.command()(conform)
    app.command()(quirks)
    app.add_typer(qemu_cli.app, name="qemu")
    app.add_typer(guest_cli.app, name="guest")
    app.command()(vm_cli.vm)
    app.command()(fuzz_cli.fuzz)
    app.command()(fuzz_cli.replay)


def conform(
    qemu: Qemu = None,
    every: All = False,
    only: Only = "*",
    chapter: Chapter = None,
    failed_first: FailedFirst = False,
    quirks_of: QuirksOf = None,
    verbose: Verbose = False,
    as_json: Json = False,
    junit: Junit = None,
    html: Html = None,
    checklist: Checklist = False,
    export: Export = "",
    to: To = None,
) -> None:
    """Check the model and a QEMU against the specification, scenario by scenario.

    With --qemu OLD --qemu NEW, a NEW of no known release, or of OLD's version, is judged by OLD's quirks: what it
    fixes is listed and does not fail.

    Exit status 0 when every difference is explained, 1 when one is not, 2 when a QEMU could not be run at all.
    """
    from iommu.cli.output import check_writable, error_console, print_json
    from iommu.errors import MisuseError
    from iommu.files.writing import write_file
    from qemu.vtd.conformance.failed import record_failed
    from qemu.vtd.conformance.progress import page_with_bar
    from qemu.vtd.conformance.report.document import as_document
    from qemu.vtd.conformance.report.junit import as_junit
    from qemu.vtd.conformance.runner import Unusable
    from qemu.vtd.errors import QemuError
    from qemu.vtd.quirks import parse_version

    if checklist:
        for option, given in (
            *(("--junit", junit), ("--html", html), ("--export", export), ("--chapter", chapter)),
            *(("--failed-first", failed_first), ("--quirks-of", quirks_of)),
        ):
            if given:
                raise MisuseError(f"{option} is for scenarios; the checklist of rules is printed, also as --json")
        _checklist(_wanted(qemu, every), only, as_json)
        return
    if export:
        if every or (qemu and len(qemu) > 1):
            raise MisuseError("--export runs one scenario on one QEMU; name it with --qemu")
        _export(export, qemu, to, as_json)
        return
    scenarios = _selected(only, chapter)
    check_writable(("--junit", junit), ("--html", html))
    judge_by = None if quirks_of is None else parse_version(quirks_of)
    wanted = _wanted(qemu, every)
    reports: list[Report] = []
    unusable: list[Unusable] = []
    for each in wanted:
        old = reports[0].version if reports and len(wanted) == 2 and not every else None
        try:
            report = _run(scenarios, each, old, judge_by, failed_first=failed_first, quiet=as_json)
        except QemuError as error:
            unusable.append(Unusable(each or "", " ".join(str(error).split())))
            error_console().print(f"vtd: {unusable[-1].why}", style="bold red", markup=False, soft_wrap=True)
            continue
        record_failed(report)
        reports.append(report)
        if not as_json and not every:
            _print_report(report, verbose)
    if junit is not None:
        write_file(junit, as_junit(reports, unusable))
    if html is not None:
        write_file(html, page_with_bar(reports, unusable))
    if as_json:
        print_json(as_document(reports, unusable))
    elif reports:
        _print_end(reports, every, verbose)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)
    if unusable:
        raise typer.Exit(2)


def _print_report(report: Report, verbose: bool) -> None:
    from iommu.cli.output import console
    from qemu.vtd.conformance.report.summary import print_summary
    from qemu.vtd.conformance.report.table import print_table

    if verbose:
        print_table(report, console())
    print_summary(report, console())


def _print_end(reports: list[Report], every: bool, verbose: bool) -> None:
    """Print what comes after the reports: of every QEMU the matrix, then what to try next."""
    from iommu.cli.output import console
    from qemu.vtd.conformance.matrix import print_matrix
    from qemu.vtd.conformance.report.summary import print_next

    if every:
        print_matrix(sorted(reports, key=lambda report: report.version), console(), whole=verbose)
    print_next(reports, console())


def _selected(only: str, chapter: str | None) -> list[Scenario]:
    """The scenarios that --only and --chapter select. Raises MisuseError when there are none."""
    from iommu.errors import MisuseError
    from qemu.vtd.conformance.scenario import catalogue, of_chapter

    scenarios = of_chapter(catalogue(only), chapter)
    if not scenarios:
        where = f" in chapter {chapter}" if chapter else ""
        raise MisuseError(f"no scenario's id contains or matches {only!r}{where}")
    return scenarios


def _run(
    scenarios: Sequence[Scenario],
    qemu: str | None,
    old: Version | None,
    quirks_of: Version | None,
    *,
    failed_first: bool,
    quiet: bool,
) -> Report:
    """Run scenarios on one QEMU; with `failed_first` those first that failed last time."""
    from iommu.cli.output import console
    from qemu.vtd.conformance import failed
    from qemu.vtd.conformance.progress import run_with_bar

    def run(part: Sequence[Scenario]) -> Report:
        return run_with_bar(part, qemu, old=old, quirks_of=quirks_of)

    if not failed_first:
        return run(scenarios)

    def tell(part: Report) -> Report:
        if not quiet and len(part.results) < len(scenarios):
            still = [result.scenario.id for result in part.failures]
            fixed = len(part.results) - len(still)
            console().print(f"of {len(part.results)} that failed before, {fixed} do no longer")
            for id_ in still:
                console().print(f"    still {id_}", markup=False)
        return part

    *_, whole = map(tell, failed.failed_first(scenarios, qemu, run))
    return whole


def _wanted(qemu: list[str] | None, every: bool) -> Sequence[str | None]:
    """The QEMUs to run: those named, those of `vtd qemu list`, or None for the default.

    Prints a line on stderr for each that is listed and of no use.
    """
    from iommu.cli.output import error_console
    from iommu.errors import MisuseError
    from qemu.vtd.errors import QemuNotFound
    from qemu.vtd.found import find_all

    if not every:
        return qemu or [None]
    if qemu:
        raise MisuseError("--all and --qemu exclude each other: --all runs every QEMU of vtd qemu list")
    found = find_all()
    for each in found:
        if each.build is None:
            error_console().print(f"vtd: not run: {each.problem}", markup=False, soft_wrap=True)
    paths = [each.path for each in found if each.build is not None]
    if not paths:
        raise QemuNotFound("no QEMU that can be used; get one with: vtd qemu install trixie")
    return paths


def _checklist(wanted: Sequence[str | None], only: str, as_json: bool) -> None:
    """Run the scenarios that stand behind the selected rules, and print what stands behind each rule."""
    from iommu.cli.output import console, print_json
    from iommu.errors import MisuseError
    from qemu.vtd.conformance.checklist import selected, standing
    from qemu.vtd.conformance.progress import run_with_bar
    from qemu.vtd.conformance.scenario import catalogue

    rules = selected(only)
    if not rules:
        raise MisuseError(f"no rule's id contains or matches {only!r}")
    scenarios = [each for each in catalogue() if any(rule.is_shown_by(each.id) for rule in rules)]
    reports = [run_with_bar(scenarios, each) for each in wanted] if scenarios else []
    all_ = standing.standings(rules, reports)
    if as_json:
        print_json(standing.as_dict(all_))
    else:
        standing.print_checklist(all_, console())
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def _export(id_: str, qemu: list[str] | None, to: Path | None, as_json: bool) -> None:
    """Write a reproducer of a scenario to a file, into a directory, or to stdout."""
    from iommu.cli.output import console, print_json
    from iommu.errors import MisuseError
    from iommu.files.writing import write_file
    from qemu.vtd.conformance.export import export, find

    scenario = find(id_)
    if to is not None and not to.absolute().parent.is_dir():
        raise MisuseError(f"--to {to}: no such directory: {to.absolute().parent}")
    file = to / f"{scenario.id}.py" if to is not None and to.is_dir() else to
    text = export(scenario, qemu[0] if qemu else None)
    if file is not None:
        write_file(file, text.encode())
    if as_json:
        print_json({"scenario": scenario.id, "file": file and str(file), "text": text})
    elif file is not None:
        console().print(f"{file}: run it as python3 {file} [QEMU]", markup=False)
    else:
        sys.stdout.write(text)


def quirks(
    id_: Annotated[str, typer.Argument(metavar="[ID]", help="One quirk, such as Q05, in full.")] = "",
    version: Annotated[str, typer.Option("--version", metavar="N", help="Only those of a QEMU, such as 10.0.")] = "",
    as_json: Json = False,
) -> None:
    """List where QEMU is known to depart from the specification, and what each departure means for a driver."""
    from iommu.cli.output import console, print_json
    from iommu.errors import MisuseError
    from qemu.vtd.conformance.report.quirks import as_dict, print_list, print_one
    from qemu.vtd.quirks import QUIRKS, parse_version, quirks_of

    chosen = quirks_of(parse_version(version)) if version else list(QUIRKS)
    if id_:
        chosen = [quirk for quirk in chosen if quirk.id == id_.upper()]
        if not chosen:
            where = f" in QEMU {version}" if version else ""
            raise MisuseError(f"no quirk {id_!r}{where}; vtd quirks lists them")
    if as_json:
        print_json([as_dict(quirk) for quirk in chosen])
    elif id_:
        print_one(chosen[0], console())
    else:
        print_list(chosen, version, console())
