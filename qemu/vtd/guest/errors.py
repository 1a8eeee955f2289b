"""Errors of a guest.

QemuError
├── GuestError              a guest did not do as it was told
│   ├── GuestEnded          it panicked, was switched off, or closed a line
│   └── GuestTimeout        it did not answer in time
└── NothingToBoot           there is no kernel, no busybox or no compiler; the message says what to do
"""

from __future__ import annotations

from collections.abc import Sequence

from qemu.vtd.errors import QemuError

_LINES_SHOWN = 12


class GuestError(QemuError):
    """A guest did something else than it should have.

    Attributes:
        step: what it was doing.
        lines: the last lines of its console, oldest first.
    """

    def __init__(self, what: str, step: str, lines: Sequence[str]) -> None:
        super().__init__(f"{what}, while {step}" if step else what)
        self.step, self.lines = step, list(lines)

    def console(self) -> str:
        """The last lines of its console, indented, to be shown below the message; empty when there are none."""
        return "".join(f"    {line}\n" for line in self.lines[-_LINES_SHOWN:])


class GuestEnded(GuestError):
    """The guest panicked, was switched off, or closed a line."""


class GuestTimeout(GuestError):
    """The guest did not answer in time.

    Attributes:
        waited_for: what it did not do.
        seconds: the time limit.
    """

    def __init__(self, waited_for: str, seconds: float, step: str, lines: Sequence[str]) -> None:
        super().__init__(f"no answer from the guest within {seconds:g} s (waited for {waited_for})", step, lines)
        self.waited_for, self.seconds = waited_for, seconds


class NothingToBoot(QemuError):
    """A kernel, busybox or a compiler is missing; the message says which, and what to do."""
