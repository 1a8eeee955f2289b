"""How a campaign goes, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn

from iommu.cli.output import error_console
from qemu.vtd.fuzz.stream import Stream

_LINE_SECONDS = 30.0


@contextmanager
def shown(streams: Sequence[Stream]) -> Iterator[Callable[[object], None]]:
    """A line with cases a second, outcomes reached and differences; what it gives is to be called now and then.

    On a terminal it moves; elsewhere there is one line every half minute.
    """
    out = error_console()
    began, before = time.monotonic(), sum(stream.done for stream in streams)
    total = sum(stream.cases for stream in streams)
    columns = TextColumn("fuzz"), BarColumn(), TextColumn("{task.description}")
    # It refreshes when it is told: a thread that does so would be forked with the workers.
    with Progress(*columns, console=out, transient=True, auto_refresh=False, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=total)
        last = began

        def tell(_: object) -> None:
            nonlocal last
            done = sum(stream.done + stream.left_out for stream in streams)
            progress.update(task, completed=done, description=_line(streams, began, before), refresh=True)
            if not out.is_terminal and time.monotonic() > last + _LINE_SECONDS:
                last = time.monotonic()
                out.print(_line(streams, began, before), markup=False, soft_wrap=True)

        yield tell


def _line(streams: Sequence[Stream], began: float, before: int) -> str:
    done = sum(stream.done for stream in streams)
    rate = (done - before) / max(time.monotonic() - began, 0.001)
    reached = len(set().union(*(stream.learning.reached for stream in streams)))
    groups = sum(len(stream.groups) for stream in streams)
    total = sum(stream.cases for stream in streams)
    return f"{done} of {total} cases, {rate:.0f} a second, {reached} outcomes reached, {groups} kinds of difference"
