"""Errors of a QEMU process, its connections and its devices.

    QemuError(VtdError)         root of the others; the message is one readable line
    ├── QemuNotFound            no QEMU was found
    ├── QemuUnsuitable          the program is not a QEMU, is too old, or lacks a required feature
    │   ├── PropertyMissing     its intel-iommu has no such property
    │   └── FalseAnswer         it answers QMP as no QEMU does
    ├── QemuDied                the process exited unexpectedly
    ├── QemuTimeout             the process did not answer in time and was killed
    ├── QmpError                QEMU refused a QMP command
    ├── QtestError              QEMU refused a qtest command, or an exchange was interrupted
    ├── DeviceError             an emulated device is missing or did not behave as documented
    └── InstallError            the QEMU of another Debian suite could not be installed

After QemuDied and QemuTimeout no process is left. After the others the machine can still be used.
"""

import re
import signal
from collections.abc import Sequence

from iommu.errors import VtdError


class QemuError(VtdError):
    """Root of every error that involves a QEMU."""


class QemuNotFound(QemuError):
    """No QEMU program was found; the message says how to get one."""


class QemuUnsuitable(QemuError):
    """The program is not a QEMU, is too old, or lacks a required device or property."""


class PropertyMissing(QemuUnsuitable):
    """The QEMU's intel-iommu has no such property. `name` is the property's name, without "x-"."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class FalseAnswer(QemuUnsuitable):
    """The program answers a QMP command as no QEMU does.

    Attributes:
        command: its name.
        answer: the beginning of the answer, as JSON.
    """

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(f"no QEMU answers QMP {command} with {answer}")
        self.command = command
        self.answer = answer


# What a program prints when it fails in a way that ends it by a signal. Any other line was printed before, for
# another reason: it must not be named as the cause.
_CAUSE = re.compile(r"(?i)\bassert|\babort|\bfatal\b|sanitizer|runtime error|\*\*\*|free\(\)|malloc\(\)|corrupt")


class _ProcessError(QemuError):
    """A process that has ended, and the end of its output.

    Attributes:
        how: what happened, without the output: "QEMU ended by SIGSEGV". It is the same in every build.
        stderr: the last lines the process wrote, oldest first; empty when it wrote nothing.
    """

    def __init__(self, how: str, stderr: Sequence[str] = (), *, cause: str = "") -> None:
        super().__init__(f"{how}: {cause}" if cause else how)
        self.how = how
        self.stderr = list(stderr)


class QemuDied(_ProcessError):
    """The process exited unexpectedly.

    Attributes:
        status: its exit status; -N when signal N killed it, None when it was still running.
    """

    def __init__(self, status: int | None, stderr: Sequence[str] = ()) -> None:
        super().__init__(_ending(status), stderr, cause=_cause(status, stderr))
        self.status = status


def _ending(status: int | None) -> str:
    if status is None:
        return "QEMU broke off a connection"
    return f"QEMU ended by {signal_name(-status)}" if status < 0 else f"QEMU ended, status {status}"


def signal_name(number: int) -> str:
    """The name of a signal: "SIGSEGV"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cause(status: int | None, stderr: Sequence[str]) -> str:
    """The last line that can be the cause of this end; empty when there is none."""
    by_signal = status is not None and status < 0
    return next((line for line in reversed(stderr) if not by_signal or _CAUSE.search(line)), "")


class QemuTimeout(_ProcessError):
    """The process did not answer in time and was killed.

    Attributes:
        waited_for: what it did not do.
        seconds: the time limit.
    """

    def __init__(self, waited_for: str, seconds: float, stderr: Sequence[str] = ()) -> None:
        super().__init__(f"no answer from QEMU within {seconds:g} s ({waited_for})", stderr)
        self.how = "QEMU did not answer"
        self.waited_for = waited_for
        self.seconds = seconds


class QmpError(QemuError):
    """QEMU refused a QMP command.

    Attributes:
        command: its name.
        error_class: QEMU's class of error ("GenericError", "CommandNotFound", ...).
    """

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QMP {command}: {description}")
        self.command = command
        self.error_class = error_class


class QtestError(QemuError):
    """QEMU refused a qtest command.

    Attributes:
        command: the line that was sent.
        answer: what came back.
    """

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(f"qtest {command!r} failed: {answer!r}")
        self.command = command
        self.answer = answer


class DeviceError(QemuError):
    """An emulated device is missing, or did not behave as documented."""


class InstallError(QemuError):
    """The QEMU of another Debian suite could not be installed; the message says why, in one line."""
