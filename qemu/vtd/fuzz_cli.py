"""`vtd fuzz` and `vtd replay`: random cases on QEMUs, and one of them again."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qemu.vtd.fuzz.stream import Stream

Qemus = Annotated[
    list[str] | None,
    typer.Option(
        "--qemu",
        metavar="QEMU",
        help="Path, or suite of vtd qemu install; may be repeated. Default: $VTD_QEMU, PATH.",
    ),
]
Qemu = Annotated[
    str | None,
    typer.Option("--qemu", metavar="QEMU", help="Path, or suite of vtd qemu install. Default: $VTD_QEMU, PATH."),
]
Cases = Annotated[int, typer.Option("--cases", metavar="N", min=1, help="How many cases each QEMU runs.")]
Seed = Annotated[int, typer.Option("--seed", metavar="S", min=0, max=(1 << 62) - 1, help="Which cases they are.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", metavar="J", min=1, max=256, help="Processes. Default: one for each core.")
]
Mode = Annotated[
    str, typer.Option("--mode", metavar="MODE", help="legacy, second, first, interrupts, queue, registers or all.")
]
To = Annotated[
    Path, typer.Option("--to", metavar="FOLDER", help="Where the checkpoint and the findings go.", file_okay=False)
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="FOLDER", help="Go on with the campaign there, or of this checkpoint."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Python = Annotated[
    bool, typer.Option("--python", help="Print it as a scenario for the catalogue, and do not run it.")
]


def fuzz(
    cases: Cases = 10000,
    seed: Seed = 1,
    qemu: Qemus = None,
    jobs: Jobs = None,
    mode: Mode = "all",
    to: To = Path("vtd-fuzz"),
    resume: Resume = None,
    as_json: Json = False,
) -> None:
    """Compare random cases on QEMUs with the model, and shrink what differs.

    A case with the same seed, mode and number is always the same. An interrupted campaign goes on with --resume.

    Exit status 0 without differences, 1 with some, 2 when a QEMU or the folder could not be used.
    """
    from iommu.cli.output import console, error_console, print_json
    from qemu.vtd.fuzz import report
    from qemu.vtd.fuzz.campaign import Campaign
    from qemu.vtd.fuzz.progress import shown

    def tell(line: str) -> None:
        error_console().print(f"vtd: {line}", markup=False, soft_wrap=True)

    if resume is not None:
        folder, streams = _resumed(resume, qemu)
    else:
        folder, streams = to, _begun(cases, seed, qemu, mode, to, tell)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with shown(streams) as progress:
            Campaign(streams, folder, jobs or len(os.sched_getaffinity(0)), progress).run()
    except KeyboardInterrupt:
        tell(f"interrupted; it goes on with: vtd fuzz --resume {folder}")
        raise
    report.save(folder, streams)
    if as_json:
        print_json(report.as_document(streams, folder))
    else:
        report.print_summary(streams, folder, console())
    if any(stream.groups for stream in streams):
        raise typer.Exit(1)


def _begun(
    cases: int, seed: int, qemu: list[str] | None, mode: str, to: Path, tell: Callable[[str], None]
) -> list[Stream]:
    """The streams of a new campaign. Raises MisuseError."""
    from iommu.errors import MisuseError
    from qemu.vtd.fuzz import checkpoint
    from qemu.vtd.fuzz.campaign import streams
    from qemu.vtd.fuzz.generate import MODES

    if mode != "all" and mode not in MODES:
        raise MisuseError(f"no mode {mode!r}; the modes are {', '.join(MODES)} and all")
    if (to / checkpoint.NAME).exists():
        raise MisuseError(f"{to} holds a campaign: go on with --resume {to}, or name another folder with --to")
    found = streams(qemu or [None], list(MODES) if mode == "all" else [mode], cases, seed, tell)
    if not found:
        raise MisuseError(f"none of the QEMUs has a unit for mode {mode}")
    return found


def _resumed(path: Path, qemu: list[str] | None) -> tuple[Path, list[Stream]]:
    """The folder and the streams of a campaign that was interrupted. Raises MisuseError.

    A file cannot name any program to be run: it has to be a QEMU of `vtd qemu list`, or of --qemu.
    """
    from iommu.errors import MisuseError
    from qemu.vtd import probe
    from qemu.vtd.found import find_all
    from qemu.vtd.fuzz import checkpoint

    file = path / checkpoint.NAME if path.is_dir() else path
    streams = checkpoint.read(file)
    known = {probe.find_qemu(each) for each in qemu or ()} | {each.path for each in find_all()}
    for stream in streams:
        if stream.qemu not in known:
            raise MisuseError(f"{file} names {stream.qemu}, which vtd qemu list does not: name it with --qemu too")
        version = probe.version_text(probe.probe(probe.find_qemu(stream.qemu)).version)
        if version != stream.version:
            raise MisuseError(
                f"{stream.qemu} is QEMU {version} now, and was {stream.version} when {file} was written"
            )
    return file.parent, streams


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A case that vtd fuzz has found.")],
    qemu: Qemu = None,
    python: Python = False,
    as_json: Json = False,
) -> None:
    """Run a case that vtd fuzz has found, on a QEMU of its own, and print what it does step by step.

    Exit status 0 when that is right or explained, 1 when it is not, 2 when it cannot be run.
    """
    import sys

    from iommu.cli.output import console, print_json
    from qemu.vtd.fuzz import report
    from qemu.vtd.fuzz.case import Found, flat, read_found
    from qemu.vtd.fuzz.lanes import alone
    from qemu.vtd.fuzz.lawful import first_difference, freedom
    from qemu.vtd.probe import version_text

    found = read_found(file)
    if python:
        sys.stdout.write(found.case.python(flat(found.expected), found.origin))
        return
    seen, terms, trace = alone(found.case, qemu, traced=True)
    expected, _ = found.case.observe(terms.model())
    again = Found(found.case, version_text(terms.version), expected, seen, found.origin, trace)
    differs = first_difference(expected, seen) is not None
    right = freedom(found.case, expected, seen, terms) if differs else ""
    if as_json:
        print_json(report.replay_document(found, again, right))
    else:
        out = console()
        out.print(f"{found.origin}, found on QEMU {found.qemu}; now on QEMU {again.qemu}", markup=False)
        for line in report.steps(again):
            out.print(line, markup=False)
        if right:
            out.print(f"This is right too: {right}", markup=False)
        else:
            out.print("It differs." if differs else "It does what the model does.", markup=False)
    if differs and not right:
        raise typer.Exit(1)
