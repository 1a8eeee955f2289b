"""The standard descriptors: each is open, whatever the parent has closed.

The next file that is opened gets the lowest free number. If that were 0, 1 or 2, what is printed would go into that
file, and a child process would lose it.
"""

from __future__ import annotations

import os
import sys


def open_all() -> None:
    """Open /dev/null in the place of every closed standard descriptor, before anything else is opened.

    What is read from standard input, or written to standard output, still fails (EBADF): to read nothing, or to lose
    what was asked for, must not pass for success. Messages to a closed standard error are lost.
    """
    for number, name, flags in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number: those below are open
            os.set_inheritable(opened, True)
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
