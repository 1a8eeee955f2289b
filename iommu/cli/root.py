"""`vtd` itself, without a subcommand."""

from importlib.metadata import version
from typing import Annotated

import typer


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vtd {version('vtdlab')}")
        raise typer.Exit


def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """An executable model of Intel VT-d."""
