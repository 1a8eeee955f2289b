"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it has started ends, and its temporary files are gone."""

import signal
import sys
from types import FrameType

CTRL_C = 128 + signal.SIGINT
_last = signal.SIGINT


def by_signals() -> None:
    """Take SIGTERM and SIGHUP for Ctrl-C from here on, unless they are ignored, as nohup does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def status() -> int:
    """The exit status of a command that was interrupted: 128 and the number of the signal."""
    return 128 + _last


def is_behind(error: Exception) -> bool:
    """Whether an error is what Python made of an interruption: while a class is made, 3.11 wraps all exceptions."""
    return isinstance(error, RuntimeError) and isinstance(error.__cause__, KeyboardInterrupt | SystemExit)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _last  # noqa: PLW0603 - there is one process, and it ends once
    _last = signal.Signals(number)
    # An event loop has a handler of its own for Ctrl-C. Python's raises KeyboardInterrupt, which may end the process
    # by SIGINT although it is caught; and a shell has background jobs ignore Ctrl-C, but not these.
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or handler is signal.default_int_handler:
        sys.exit(status())
    handler(signal.SIGINT, frame)
