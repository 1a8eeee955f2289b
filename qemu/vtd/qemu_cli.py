"""`vtd qemu`: the QEMUs of this machine, and those of other Debian suites."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qemu.vtd.found import Found
    from qemu.vtd.private_cache import Installed

app = typer.Typer(help="The QEMUs of this machine, and those of other Debian suites.", no_args_is_help=True)

Suite = Annotated[str, typer.Argument(help="A Debian suite: trixie, bookworm-backports, sid, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every QEMU found: VTD_QEMU, those on PATH, and those installed with `vtd qemu install`."""
    from iommu.cli.output import console, line, print_json
    from qemu.vtd.found import find_all

    found = find_all()
    if as_json:
        print_json([_as_dict(each) for each in found])
        return
    out = console()
    for each in found:
        version = "?" if each.build is None else ".".join(map(str, each.build.version))
        out.print(line((version, "bold"), f"  --qemu {each.name}  ({each.where})"))
        if each.name != each.path:
            out.print(line(f"    {each.path}"))
        if each.build is None:
            out.print(line((f"    {each.problem}", "red")))
        else:
            out.print(line(f"    intel-iommu: {', '.join(sorted(each.build.iommu_properties))}"))
    if not found:
        out.print("no QEMU found; get one with: vtd qemu install trixie")


@app.command()
def install(suite: Suite, as_json: Json = False) -> None:
    """Install the QEMU of another Debian suite into the private cache, without root.

    It comes from the mirror that apt is set up with, and apt checks its signature. Exit status 2 when that fails.
    """
    from iommu.cli.output import console, print_json

    got = _with_bar(suite)
    if as_json:
        print_json({"suite": got.suite, "version": got.version, "path": got.path})
        return
    console().print(f"QEMU {got.version} of {got.suite}: {got.path}", markup=False)
    console().print(f"run it with: vtd conform --qemu {got.suite}")


def _with_bar(suite: str) -> Installed:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from iommu.cli.output import error_console
    from qemu.vtd import install as installing

    out = error_console()
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(f"QEMU of {suite}", total=1)

        def show(what: str, done: float) -> None:
            bar.update(task, description=f"QEMU of {suite}: {what}", completed=done)

        return installing.install(suite, show)


def _as_dict(found: Found) -> dict[str, Any]:
    build = found.build
    return {
        "name": found.name,
        "where": found.where,
        "path": found.path,
        "version": None if build is None else ".".join(map(str, build.version)),
        "properties": [] if build is None else sorted(build.iommu_properties),
        "devices": [] if build is None else sorted(build.devices),
        "problem": found.problem or None,
    }
