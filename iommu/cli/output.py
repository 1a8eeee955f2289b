"""What commands print: colour only on a terminal, lines never wrapped, and no file can drive the terminal."""

import errno
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text


class _Console(Console):
    """Leaves a reader that has gone to `main`: rich would exit with 1, which means that a check found something."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console() -> Console:
    """For people: styles vanish where output is not a terminal, and long lines stay whole there."""
    # COLUMNS=0 is a habit of tools that do not know the width; to rich it would mean that there is none.
    width = 80 if os.environ.get("COLUMNS") == "0" else None
    return _Console(highlight=False, soft_wrap=True, width=width)


def error_console() -> Console:
    """For progress, which goes where errors go."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """For programs: one JSON document."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def safe(text: str) -> str:
    """A text from a file, with everything unprintable written as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def line(*parts: str | tuple[str, str]) -> Text:
    """A line of plain and (text, style) parts."""
    return Text.assemble(*parts)


def bytes_size(count: int) -> str:
    """A number of bytes in the largest unit that divides it: 128 KiB, 64 MiB, 4097 bytes."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> shift and not count & ((1 << shift) - 1):
            return f"{count >> shift} {unit}"
    return f"{count} bytes"
