"""Where tables come from."""

import sys
from pathlib import Path

from iommu.errors import VtdError

STDIN = Path("-")


class InputError(VtdError):
    """A file cannot be read; the message is one line with its name and the reason."""


def read_file(path: Path) -> bytes:
    """A file's bytes; `-` is standard input. Raises InputError."""
    try:
        return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
