"""A progress bar while the catalogue runs, shown only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from qemu.vtd.conformance.runner import Report, conform
from qemu.vtd.conformance.scenario import Scenario

_REFRESH_SECONDS = 0.1


def run_with_bar(scenarios: Sequence[Scenario], qemu: str | None) -> Report:
    """`conform` with a progress bar on stderr."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # It refreshes when a result arrives: a thread that does so would be forked with the workers.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("conformance", total=len(scenarios))

        shown = 0.0

        def show(result: object) -> None:
            nonlocal shown
            due = time.monotonic() > shown + _REFRESH_SECONDS
            progress.update(task, advance=1, refresh=due)
            if due:
                shown = time.monotonic()

        return conform(scenarios, qemu, show)
