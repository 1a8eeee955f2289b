"""`vtd`: one command, whose parts come from here and from packages above this one.

This package never imports those packages. They add commands through the entry-point group "vtdlab.commands":

    [project.entry-points."vtdlab.commands"]
    conform = "qemu.vtd.cli:register"

Each entry point names a function `register(app: typer.Typer) -> None`, which adds its commands with `@app.command()`
or `app.add_typer()`. It is called whenever `vtd` starts, `vtd --help` included, so its module must import nothing
heavy at its top: what a command needs is imported inside the command's function. A part that cannot be loaded is
reported in one line on stderr, and the rest works.

Every command keeps to this:

    exit status 0   fine
    1               the check that was asked for found something
    2               wrong use, or input that cannot be read: one line on stderr, "vtd: ...", from any VtdError
    130             interrupted

Output is for people, and for programs with `--json`. Errors go to stderr.
"""

import os
import sys
from importlib.metadata import entry_points
from io import TextIOWrapper

import typer

from iommu.cli import dmar, explain, walk
from iommu.errors import VtdError

GROUP = "vtdlab.commands"


def make_app() -> typer.Typer:
    """The whole command: the parts that come with iommu, and those that entry points name."""
    app = typer.Typer(
        name="vtd",
        help="An executable model of Intel VT-d.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    app.add_typer(dmar.app, name="dmar")
    app.command()(explain.explain)
    app.command()(walk.walk)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(app)
        except Exception as error:  # a broken neighbour must not take this command down
            print(f"vtd: {entry.name} ({entry.value}) is not available: {_one_line(error)}", file=sys.stderr)
    return app


def _root() -> None:
    """Without a callback of its own, a Typer with a single command would drop the command's name."""


_root.__doc__ = "An executable model of Intel VT-d."


def main() -> None:
    """The console script. Never returns: it exits with one of the statuses above."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name or a character the locale has none for is not a reason to fail
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout
    try:
        make_app()()
    except SystemExit:
        if sys.stdout is stdout:
            raise
        # Typer puts something else there when the reader has gone, and would exit with 1: "a check found something".
        sys.stdout = stdout
        _leave_the_pipe()
    except VtdError as error:
        print(f"vtd: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        _leave_the_pipe()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"vtd: {where}{error.strerror or _one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _flush()


def _flush() -> None:
    """What is still to be written, while there is someone to say that it could not be."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_the_pipe()
    except OSError as error:
        print(f"vtd: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _leave_the_pipe() -> None:
    """The reader has gone: exit as a process killed by SIGPIPE would, and let nothing flush into the pipe again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


if __name__ == "__main__":
    main()
