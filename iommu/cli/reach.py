"""`vtd reach`: what each device can reach, who can reach an address, and proofs that a device cannot."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iommu.cli.sources import Chosen, takes_snapshot
from iommu.errors import MisuseError

if TYPE_CHECKING:
    from iommu.cli.reaching.found import Progress
    from iommu.engine.request import SourceId

_BAR_AFTER = 2.0

Device = Annotated[str | None, typer.Option("--device", metavar="BDF", help="Only this device, such as 00:04.0.")]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="RANGE", help="Who reaches these host addresses: FIRST-LAST or FIRST+SIZE."),
]
Never = Annotated[
    str | None,
    typer.Option(
        "--never",
        metavar="RANGE",
        help="With --device: prove that it reaches none of these host addresses (status 0), or show a request that "
        "does (status 1).",
    ),
]
Symbols = Annotated[
    Path | None,
    typer.Option("--symbols", metavar="FILE", help="System.map or vmlinux: who reaches the kernel's text?"),
]
KernelAt = Annotated[
    str | None,
    typer.Option(
        "--kernel-at",
        metavar="ADDRESS",
        help='With --symbols: where the text is, if KASLR moved it ("Kernel code" in /proc/iomem).',
    ),
]
StaleToo = Annotated[bool, typer.Option("--stale", help="Count what the caches may still let through.")]
All = Annotated[bool, typer.Option("--all", help="Read all tables, however long that takes, and print all ranges.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with a chart instead.", dir_okay=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot()
def reach(
    source: Chosen,
    device: Device = None,
    host: Host = None,
    never: Never = None,
    symbols: Symbols = None,
    kernel_at: KernelAt = None,
    stale: StaleToo = False,
    everything: All = False,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Show what each device can reach by the tables in a snapshot, and what of that matters.

    That is another domain's memory, the tables themselves, registers, the kernel's text, and addresses without RAM.
    """
    from iommu.cli import output
    from iommu.cli.reaching.found import Wanted, parse_range, reach_of
    from iommu.cli.reaching.page import as_html
    from iommu.cli.reaching.plain import as_dict
    from iommu.cli.reaching.show import show
    from iommu.files.writing import write_file
    from iommu.snapshot.kernel import kernel_text
    from iommu.snapshot.request import device_of, number_of

    wanted_device = None if device is None else device_of(device, "--device")
    if never is not None:
        if wanted_device is None or html is not None:
            raise MisuseError("--never takes one device: give --device, and no --html")
        _prove(source, wanted_device, parse_range(never, "--never"), everything=everything, as_json=as_json)
        return
    if kernel_at is not None and symbols is None:
        raise MisuseError("--kernel-at says where the kernel of --symbols is: give both")
    output.check_writable(("--html", html))
    at = None if kernel_at is None else number_of(kernel_at, "--kernel-at")
    wanted = Wanted(
        wanted_device,
        None if host is None else parse_range(host, "--host"),
        everything,
        stale,
        None if symbols is None else kernel_text(symbols, at),
    )
    with source.open() as snapshot, _bar() as progress:
        found = reach_of(snapshot, wanted, progress)
    if html is not None:
        write_file(html, as_html(found, wanted))
    if as_json:
        output.print_json(as_dict(found, wanted))
    elif html is None:
        show(output.console(), found, wanted)


def _prove(source: Chosen, device: SourceId, host: range, *, everything: bool, as_json: bool) -> None:
    from iommu.batch.reach_never import never
    from iommu.cli import output
    from iommu.cli.reaching.plain import certificate_dict
    from iommu.cli.reaching.show import certificate_lines
    from iommu.cli.walk import describe, outcome_in, to_dict
    from iommu.snapshot.request import show_request

    with source.open() as snapshot, output.late_status("reading page tables", _BAR_AFTER):
        unit = snapshot.unit_for(device).unit_without_caches()
        found = never(unit, device, host, unlimited=everything)
        request = found.counterexample
        outcome = None if request is None else outcome_in(snapshot, request)
    if found.cut_short and request is None:
        raise MisuseError("not decided: there are more tables than are read without --all")
    if as_json:
        walk = None if request is None or outcome is None else to_dict(request, outcome)
        output.print_json(certificate_dict(found, walk, None if everything else 10_000))
    else:
        out = output.console()
        for indent, text in certificate_lines(found):
            output.print_indented(out, text, indent)
        if request is not None and outcome is not None:
            for text in describe(request, outcome):
                out.print(text)
            out.print(f'vtd walk {source.words} --request "{show_request(request)}"', markup=False)
    raise typer.Exit(0 if found.holds else 1)


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on a terminal, once the work has gone on for two seconds."""
    import sys
    import time

    from rich.progress import Progress as Bar

    from iommu.cli.output import error_console

    begin = time.monotonic()
    with Bar(console=error_console(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("page tables", total=None, visible=False)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, visible=time.monotonic() - begin > _BAR_AFTER)

        yield progress
