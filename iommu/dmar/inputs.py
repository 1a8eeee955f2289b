"""Where tables come from."""

import json
import sys
from pathlib import Path
from typing import Any

from iommu.dmar.pci import PciTree
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


def write_file(path: Path, data: bytes) -> None:
    """Write a file; `-` is standard output. Raises InputError."""
    try:
        if path == STDIN:
            sys.stdout.buffer.write(data)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """A JSON document. Raises InputError."""
    try:
        return json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: this is no JSON: {error}") from None


def read_pci(path: Path) -> PciTree:
    """A PCI tree: from a sysfs folder or its copy, or from a JSON file. Raises InputError or MisuseError."""
    return PciTree.from_sysfs(path) if path.is_dir() else PciTree.from_plain(read_json(path))
