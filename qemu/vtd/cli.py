"""The commands that need a QEMU. `vtd` finds them through the entry-point group "vtdlab.commands"."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

import sys
from pathlib import Path
from typing import Annotated

import typer

from qemu.vtd import qemu_cli

Qemu = Annotated[
    list[str] | None,
    typer.Option("--qemu", metavar="PATH", help="QEMU to run; may be repeated. Default: $VTD_QEMU, then PATH."),
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


def conform(
    qemu: Qemu = None,
    only: Only = "*",
    verbose: Verbose = False,
    as_json: Json = False,
    junit: Junit = None,
    html: Html = None,
    checklist: Checklist = False,
    export: Export = "",
    to: To = None,
) -> None:
    """Check the model and a QEMU against the specification, scenario by scenario.

    Exit status 0 when every difference is explained, 1 when one is not, 2 when a QEMU could not be run at all.
    """
    from iommu.cli.output import console, error_console, print_json
    from iommu.errors import MisuseError
    from qemu.vtd.conformance.progress import page_with_bar, run_with_bar
    from qemu.vtd.conformance.report.document import as_document
    from qemu.vtd.conformance.report.junit import as_junit
    from qemu.vtd.conformance.report.summary import print_next, print_summary
    from qemu.vtd.conformance.report.table import print_table
    from qemu.vtd.conformance.runner import Report, Unusable
    from qemu.vtd.conformance.scenario import catalogue
    from qemu.vtd.errors import QemuError

    if checklist:
        if junit is not None:
            raise MisuseError("--junit is for scenarios; the checklist of rules is printed, or written by --json")
        _checklist(qemu, only, as_json)
        return
    if export:
        _export(export, qemu, to, as_json)
        return
    scenarios = catalogue(only)
    if not scenarios:
        raise MisuseError(f"no scenario's id contains or matches {only!r}")
    for option, file in (("--junit", junit), ("--html", html)):
        if file is not None and not file.absolute().parent.is_dir():
            raise MisuseError(f"{option} {file}: no such directory: {file.absolute().parent}")
    reports: list[Report] = []
    unusable: list[Unusable] = []
    wanted: list[str | None] = [*qemu] if qemu else [None]
    for each in wanted:
        try:
            report = run_with_bar(scenarios, each)
        except QemuError as error:
            unusable.append(Unusable(each or "", " ".join(str(error).split())))
            error_console().print(f"vtd: {unusable[-1].why}", style="bold red", markup=False, soft_wrap=True)
            continue
        reports.append(report)
        if not as_json:
            if verbose:
                print_table(report, console())
            print_summary(report, console())
    if junit is not None:
        _write_whole(junit, as_junit(reports, unusable))
    if html is not None:
        _write_whole(html, page_with_bar(reports, unusable))
    if as_json:
        print_json(as_document(reports, unusable))
    elif reports:
        print_next(reports, console())
    if not all(report.passed for report in reports):
        raise typer.Exit(1)
    if unusable:
        raise typer.Exit(2)


def _checklist(qemu: list[str] | None, only: str, as_json: bool) -> None:
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
    wanted: list[str | None] = [*qemu] if qemu else [None]
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
    from qemu.vtd.conformance.export import export, find

    scenario = find(id_)
    if to is not None and not to.absolute().parent.is_dir():
        raise MisuseError(f"--to {to}: no such directory: {to.absolute().parent}")
    file = to / f"{scenario.id}.py" if to is not None and to.is_dir() else to
    text = export(scenario, qemu[0] if qemu else None)
    if file is not None:
        _write_whole(file, text.encode())
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
    from qemu.vtd.conformance.report.quirks import as_dict, parse_version, print_list, print_one
    from qemu.vtd.quirks import QUIRKS, quirks_of

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


def _write_whole(file: Path, data: bytes) -> None:
    """Write a file atomically: under a temporary name, then renamed."""
    from iommu.errors import VtdError

    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise VtdError(f"{file}: {error.strerror}") from error
