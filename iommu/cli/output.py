"""What commands print: colour only on a terminal, no wrapped lines, and no control characters from files."""

import errno
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from iommu.errors import MisuseError
from iommu.files.text import beneath, safe, safe_json, safe_lines


class _Safe(Console):
    """A console that writes nothing unprintable but its own styles, and lines."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(safe_lines(segment.text), segment.style)


class _Console(_Safe):
    """A console that leaves broken pipes to `main`: rich would exit with 1, "a check found something"."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def print(self, *objects: Any, **options: Any) -> None:
        """See Console. A line without styles is only written: rich takes a fifth of a millisecond for each."""
        if len(objects) == 1 and isinstance(objects[0], Text) and not options and not self.is_terminal:
            self.file.write(safe_lines(objects[0].plain) + "\n")
        else:
            super().print(*objects, **options)


def console() -> Console:
    """Output for people. If it is not a terminal, there are no styles and no line breaks within a line."""
    # Tools that do not know the width set COLUMNS=0, which rich would take literally.
    width = 80 if os.environ.get("COLUMNS") == "0" else None
    return _Console(file=beneath(sys.stdout), highlight=False, soft_wrap=True, width=width)


class _Bars(_Safe):
    """A console whose cursor is never hidden: a process that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def error_console() -> Console:
    """Output of progress bars, on stderr."""
    return _Bars(file=beneath(sys.stderr), highlight=False)


def print_json(value: Any) -> None:
    """Output for programs: one JSON document."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    sys.stdout.write(safe_json(value, only_ascii=encoding != "utf8") + "\n")


def line(*parts: str | tuple[str, str]) -> Text:
    """A line of plain texts and (text, style) pairs."""
    return Text.assemble(*parts)


def print_indented(out: Console, text: Text, indent: int = 0, hang: int = 2) -> None:
    """Print a line; on a terminal that is too narrow for it, the lines that follow are indented by `hang` more."""
    if not out.is_terminal:
        out.print(Text(" " * indent).append_text(text))
        return
    for number, part in enumerate(text.wrap(out, max(out.width - indent - hang, 20))):
        part.rstrip()
        out.print(Text(" " * (indent + (hang if number else 0))).append_text(part))


def counted(count: int, thing: str, things: str | None = None) -> str:
    """A number of things: "1 range", "3 ranges", "2 entries"."""
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def bytes_size(count: int) -> str:
    """A number of bytes in the largest unit that divides it: 128 KiB, 64 MiB, 4097 bytes."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> shift and not count & ((1 << shift) - 1):
            return f"{count >> shift} {unit}"
    return f"{count} bytes"


@contextmanager
def late_status(text: str, after: float) -> Iterator[None]:
    """Show on a terminal that something is going on, once it has gone on for `after` seconds."""
    out = error_console()
    if not out.is_terminal:
        yield
        return
    status = out.status(safe(text))
    timer = threading.Timer(after, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


def check_writable(*files: tuple[str, Path | None]) -> None:
    """Raise MisuseError for a file to be written whose directory does not exist: before the run, not after it."""
    for option, file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise MisuseError(f"{option} {file}: no such directory: {file.absolute().parent}")
