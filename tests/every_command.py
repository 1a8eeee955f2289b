"""All commands there are, from the application itself: a test that covers them all fails on a new one."""

from collections.abc import Iterator
from typing import Any

import typer

from iommu.cli import main


def commands() -> list[str]:
    """ "dmar show", "explain", ..."""
    return [" ".join(path) for path in _below(typer.main.get_command(main.make_app()), ())]


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    found = getattr(command, "commands", None)
    if found is None:
        yield path
        return
    for name, each in found.items():
        yield from _below(each, (*path, name))
