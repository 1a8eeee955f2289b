"""`vtd replay-trace`: a DMA trace through the tables of a snapshot."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iommu.cli.sources import Chosen, takes_snapshot
from iommu.errors import MisuseError, TraceError

if TYPE_CHECKING:
    from iommu.batch.trace_results import Results

_BAR_AFTER = 2.0

State = Annotated[
    Path | None,
    typer.Option("--snapshot", metavar="SNAPSHOT", help="A snapshot: whose tables the trace goes through."),
]
Trace = Annotated[
    Path,
    typer.Argument(
        metavar="TRACE",
        help="CSV or Parquet with the columns source_id, address, write and perhaps pasid; or QEMU's log of its "
        "vtd_* events. - is standard input.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Where the results go: CSV, or Parquet if it ends in .parquet.",
        dir_okay=False,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the results that an earlier run has left.")]
Dask = Annotated[str | None, typer.Option("--dask", metavar="ADDRESS", help="Work on this Dask cluster.")]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page that shows who touched what too.", dir_okay=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot(State)
def replay_trace(
    trace: Trace,
    source: Chosen,
    output: Output = None,
    resume: Resume = False,
    dask: Dask = None,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Translate a DMA trace by the tables of a snapshot: the host address or the fault of each request.

    If a row makes no sense, the results of the rows before it are written: correct it, and add --resume.
    """
    from iommu.batch.trace_dask import on_cluster
    from iommu.batch.trace_replay import here, replay_trace
    from iommu.batch.trace_results import writer_to
    from iommu.batch.trace_touched import Touched
    from iommu.cli import output as out
    from iommu.cli.reaching.touched import touched_page
    from iommu.engine.request import SourceId
    from iommu.engine.unit import RemappingUnit
    from iommu.files.writing import write_file
    from iommu.snapshot import UnitSnapshot

    if resume and output is None:
        raise MisuseError("--resume continues the file of --output: give both")
    out.check_writable(("--output", output), ("--html", html))
    touched = Touched()
    watch: Callable[[Results], None] = (lambda _: None) if html is None else touched.add
    if output is not None and output.exists() and trace.exists() and output.samefile(trace):
        raise MisuseError(f"--output {output} is the trace itself")

    @cache
    def made(name: str, unit: int) -> RemappingUnit:
        return by_name[name, unit].unit_without_caches()

    by_name: dict[tuple[str, int], UnitSnapshot] = {}

    with source.open() as snapshot, _bar() as progress:

        def unit_of(device: SourceId) -> RemappingUnit:
            unit = snapshot.unit_for(device)
            by_name[unit.name, unit.register_base] = unit
            return made(unit.name, unit.register_base)

        cluster = nullcontext(here) if dask is None else on_cluster(dask)
        results = nullcontext(_Nowhere()) if output is None else writer_to(output, resume=resume)
        with cluster as run, results as writer:
            before = writer.written
            try:
                totals = replay_trace(trace, writer, unit_of, run=run, progress=progress, watch=watch)
            except TraceError as error:
                if output is None:
                    raise
                raise MisuseError(
                    f"{error}; {writer.written} rows are in {output}: correct it, and add --resume"
                ) from None
    if html is not None:
        write_file(html, touched_page(touched, str(trace)))
    faults = {reason.condition: count for reason, count in sorted(totals.faults.items())}
    if as_json:
        found = {"rows": totals.rows, "before": before, "translated": totals.translated, "dropped": totals.dropped}
        out.print_json({**found, "faults": faults})
        return
    text = out.console()
    more = f", behind {before} of an earlier run" if before else ""
    text.print(
        f"{out.counted(totals.rows, 'row')}{more}: {totals.translated} reach memory, {totals.dropped} are dropped"
    )
    for reason, count in sorted(totals.faults.items()):
        text.print(f"  {count:>9}  {reason}", markup=False)


class _Nowhere:
    """A writer that only counts."""

    written = 0

    def write(self, results: object) -> None:
        """Nothing is kept."""


@contextmanager
def _bar() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, once the work has gone on for two seconds."""
    import sys
    import time

    from rich.progress import Progress

    from iommu.cli.output import error_console

    begin = time.monotonic()
    with Progress(console=error_console(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("trace", total=1.0, visible=False)

        def progress(done: float) -> None:
            bar.update(task, completed=done, visible=time.monotonic() - begin > _BAR_AFTER)

        yield progress
