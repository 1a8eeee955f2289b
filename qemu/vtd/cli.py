"""The commands that need a QEMU. `vtd` finds them through the entry-point group "vtdlab.commands"."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

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
) -> None:
    """Check the model and a QEMU against the specification, scenario by scenario.

    Exit status 0 when every difference is explained, 1 when one is not, 2 when the run failed.
    """
    from iommu.cli.output import console, print_json
    from iommu.errors import MisuseError
    from qemu.vtd.conformance.progress import run_with_bar
    from qemu.vtd.conformance.report.document import as_dict
    from qemu.vtd.conformance.report.html.page import as_html
    from qemu.vtd.conformance.report.junit import as_junit
    from qemu.vtd.conformance.report.summary import print_next, print_summary
    from qemu.vtd.conformance.report.table import print_table
    from qemu.vtd.conformance.scenario import catalogue

    if checklist:
        if junit is not None:
            raise MisuseError("--junit is for scenarios; the checklist of rules is printed, or written by --json")
        _checklist(qemu, only, as_json)
        return
    scenarios = catalogue(only)
    if not scenarios:
        raise MisuseError(f"no scenario's id contains or matches {only!r}")
    for option, file in (("--junit", junit), ("--html", html)):
        if file is not None and not file.absolute().parent.is_dir():
            raise MisuseError(f"{option} {file}: no such directory: {file.absolute().parent}")
    reports = []
    wanted: list[str | None] = [*qemu] if qemu else [None]
    for each in wanted:
        report = run_with_bar(scenarios, each)
        reports.append(report)
        if not as_json:
            if verbose:
                print_table(report, console())
            print_summary(report, console())
    if as_json:
        print_json({"passed": all(report.passed for report in reports), "runs": list(map(as_dict, reports))})
    else:
        print_next(reports, console())
    if junit is not None:
        _write_whole(junit, as_junit(reports))
    if html is not None:
        _write_whole(html, as_html(reports))
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


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


def quirks(as_json: Json = False) -> None:
    """List where QEMU is known to depart from the specification, and the scenarios that show it."""
    from iommu.cli.output import console, print_json
    from qemu.vtd.conformance.report.words import version_text
    from qemu.vtd.quirks import QUIRKS

    if as_json:
        rows = [
            {
                "id": quirk.id,
                "title": quirk.title(),
                "section": quirk.section,
                "first": version_text(quirk.first),
                "gone": quirk.gone and version_text(quirk.gone),
                "scenarios": list(quirk.scenarios),
            }
            for quirk in QUIRKS
        ]
        print_json(rows)
        return
    for quirk in QUIRKS:
        until = f", gone in {version_text(quirk.gone)}" if quirk.gone else ""
        console().print(f"{quirk.id}  {quirk.title()}")
        console().print(f"     spec {quirk.section}; QEMU {version_text(quirk.first)} and later{until}")
        console().print(f"     shown by {', '.join(quirk.scenarios)}")


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
