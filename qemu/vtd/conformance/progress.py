"""Progress bars, shown only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from iommu.cli.output import error_console
from qemu.vtd.conformance.report.html.page import as_html
from qemu.vtd.conformance.runner import Report, Unusable, conform
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.quirks import Version

_REFRESH_SECONDS = 0.1


def run_with_bar(
    scenarios: Sequence[Scenario],
    qemu: str | None,
    *,
    old: Version | None = None,
    quirks_of: Version | None = None,
) -> Report:
    """`conform` with a progress bar on stderr."""
    with _bar("conformance", len(scenarios)) as advance:
        return conform(scenarios, qemu, advance, old=old, quirks_of=quirks_of)


def page_with_bar(reports: list[Report], unusable: list[Unusable]) -> bytes:
    """`as_html` with a progress bar on stderr."""
    with _bar("page", max((len(report.results) for report in reports), default=0)) as advance:
        return as_html(reports, unusable, advance)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[object], None]]:
    """A bar; what it gives is to be called for each of `total` parts."""
    console = error_console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # It refreshes when it is told: a thread that does so would be forked with the workers of a run.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        shown = 0.0

        def advance(_: object) -> None:
            nonlocal shown
            due = time.monotonic() > shown + _REFRESH_SECONDS
            progress.update(task, advance=1, refresh=due)
            if due:
                shown = time.monotonic()

        yield advance
