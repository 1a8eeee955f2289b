"""`vtd`: one command. Its subcommands come from here and from packages that depend on this one.

This package never imports those packages. They register commands in the entry-point group "vtdlab.commands":

    [project.entry-points."vtdlab.commands"]
    conform = "qemu.vtd.cli:register"

Each entry point names a function `register(app: typer.Typer) -> None`, which adds its commands with `@app.command()`
or `app.add_typer()`. It is called whenever `vtd` starts, `vtd --help` included, so its module must not
import anything slow at the top: a command imports what it needs inside its function. An entry point that cannot be
loaded is reported in one line on stderr, and the other commands still work.

Conventions for every command:

    exit status 0   success
    1               a check found something
    2               wrong usage or unreadable input; any VtdError becomes one line on stderr, "vtd: ..."
    130             interrupted; 143 by SIGTERM, 129 by SIGHUP

Output is for people, or with `--json` for programs. Errors go to stderr. Nothing from outside moves a terminal: see
iommu.files.text. No file takes the number of a standard descriptor that is closed: to read from it or
to print to it fails with status 2 ("Bad file descriptor"), as on a full disk; a command that has nothing to print
succeeds. Messages to a closed stderr are lost, and the exit status stays.
"""

# ruff: noqa: PLC0415 - what takes time to import is imported where Ctrl-C is waited for

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from iommu.cli import interruption
from iommu.errors import VtdError
from iommu.files import standard
from iommu.files.text import protected, safe

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    import typer

GROUP = "vtdlab.commands"
_STDOUT = "standard output"


def entry_points(group: str) -> EntryPoints:
    """The entry points of all packages in a group."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def make_app() -> typer.Typer:
    """The whole command: the subcommands of iommu, and those of the entry points."""
    import typer

    from iommu.cli import dmar, explain, inspect, reach, replay_trace, root, snapshot, walk

    app = typer.Typer(
        name="vtd",
        help="An executable model of Intel VT-d.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(root.root)
    app.add_typer(dmar.app, name="dmar")
    app.command()(explain.explain)
    app.command()(walk.walk)
    app.command()(snapshot.snapshot)
    app.command()(inspect.inspect)
    app.command()(reach.reach)
    app.command(name="replay-trace")(replay_trace.replay_trace)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(app)
        except Exception as error:  # one broken entry point must not break the others
            if interruption.is_behind(error):
                raise
            _say(f"{entry.name} ({entry.value}) is not available: {_one_line(error)}")
    return app


def main() -> None:
    """The console script. It never returns, but exits with one of the statuses above."""
    standard.open_all()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # print what the locale cannot encode as escapes
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout = protected(sys.stdout, _STDOUT)
    sys.stderr = protected(sys.stderr, "standard error")
    interruption.by_signals()
    try:
        make_app()()
    except SystemExit as left:
        if left.code == interruption.CTRL_C:
            sys.exit(interruption.status())
        if sys.stdout is stdout:
            raise
        # On a broken pipe, Typer replaces stdout and exits with 1, which here means that a check found something.
        sys.stdout = stdout
        _exit_as_if_by_sigpipe()
    except VtdError as error:
        _say(_one_line(error))
        sys.exit(2)
    except BrokenPipeError:
        _exit_as_if_by_sigpipe()
    except OSError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(interruption.status())
    except RuntimeError as error:
        if not interruption.is_behind(error):
            raise
        sys.exit(interruption.status())
    finally:
        _flush()


def _flush() -> None:
    """Write what is buffered now, while a failure can still be reported."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _exit_as_if_by_sigpipe()
    except OSError as error:
        _fail(error)


def _fail(error: OSError) -> None:
    """Say what failed, and exit with status 2. If it is standard output, what is still buffered is dropped."""
    where = f"{error.filename}: " if error.filename else ""
    _say(f"{where}{error.strerror or _one_line(error)}")
    if error.filename == _STDOUT:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)


def _say(message: str) -> None:
    print(f"vtd: {safe(message)}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _exit_as_if_by_sigpipe() -> None:
    """Exit with the status of a process killed by SIGPIPE; nothing is flushed into the broken pipe any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


if __name__ == "__main__":
    main()
