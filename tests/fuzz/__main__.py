"""Fuzzing of every way in: `make fuzz`.

    python -m tests.fuzz [--seconds 300] [--count N] [--seed 1] [--way NAME] [--found FOLDER]

A finding is an input that raises what it may not, or takes over a second or over 512 MiB. It is written to FOLDER
with what happened, and makes the exit status 1. Way, seed and number make an input again:
python -m tests.fuzz --way NAME --seed S --only N.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.progress import Progress

from iommu.cli.output import console, error_console
from tests.fuzz import readers
from tests.fuzz.registry import WAYS
from tests.fuzz.run import Result, keep, one, run
from tests.fuzz.way import Way


def main(
    seconds: Annotated[float, typer.Option(help="How long.")] = 300,
    count: Annotated[int, typer.Option(help="At most so many inputs for each way.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Other inputs for each.")] = 1,
    way: Annotated[list[str] | None, typer.Option(help="Only the way of this name; may be repeated.")] = None,
    only: Annotated[int | None, typer.Option(help="Only this input, and show what it does.")] = None,
    keep_them: Annotated[
        bool,
        typer.Option("--keep", help="Only functions; keep an input of each form of refusal in fixtures/fuzz."),
    ] = False,
    found: Annotated[Path, typer.Option(help="Where findings go.")] = Path("fuzz-findings"),
) -> None:
    """Read changed inputs in every way there is."""
    ways = [each for each in (readers.WAYS if keep_them else WAYS) if not way or each.name in way]
    if not ways:
        raise typer.BadParameter(f"no way of that name; there are: {', '.join(each.name for each in WAYS)}")
    if only is not None:
        for each in ways:
            show(each, seed, only)
        return
    results = {each.name: Result(each.name) for each in ways}
    began = time.monotonic()
    with Progress(console=error_console(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("inputs", total=count * len(ways))
        for result in run(ways, seed, count, seconds):
            results[result.way].add(result)
            bar.advance(task, result.inputs)
    report(list(results.values()), seed, time.monotonic() - began)
    for each in ways:
        write(each, seed, results[each.name], found)
        if keep_them:
            keep(each, seed, results[each.name])
    sys.exit(any(result.findings for result in results.values()))


def show(way: Way, seed: int, number: int) -> None:
    """Print one input and what it does."""
    data = way.input(seed, number, way.seeds())
    with TemporaryDirectory() as folder:
        refused, wrong = one(way, data, Path(folder) / "input")
    print(f"{way.name}, seed {seed}, input {number}: {data[:400]!r}\n{wrong or refused or 'read'}")


def report(results: list[Result], seed: int, seconds: float) -> None:
    """Print what was read, by way."""
    out = console()
    for result in results:
        slowest, number = result.slowest
        out.print(
            f"{result.inputs:>9} {result.way}: {result.refused.total()} refused in {len(result.refused)} forms; "
            f"slowest {slowest * 1000:.0f} ms (input {number}); {len(result.findings)} findings",
            markup=False,
        )
    inputs, findings = (sum(each) for each in zip(*((r.inputs, len(r.findings)) for r in results), strict=True))
    out.print(f"{inputs} inputs, seed {seed}, {seconds:.0f} s, {findings} findings")


def write(way: Way, seed: int, result: Result, folder: Path) -> None:
    """Write the findings of a way, at most ten."""
    for number, wrong in list(result.findings.items())[:10]:
        folder.mkdir(exist_ok=True)
        place = folder / f"{way.name.replace(' ', '-').replace('/', '-')}-{seed}-{number}"
        place.write_bytes(way.input(seed, number, way.seeds()))
        place.with_name(place.name + ".txt").write_text(wrong, errors="backslashreplace")
        print(f"{place}: {wrong.strip().splitlines()[-1]}")


if __name__ == "__main__":
    typer.run(main)
