"""Errors of a QEMU process, its connections and its devices.

    QemuError(VtdError)         root of the others; the message is one readable line
    ├── QemuNotFound            no QEMU was found
    ├── QemuUnsuitable          the program is not a QEMU, is too old, or lacks a required feature
    │   └── PropertyMissing     its intel-iommu has no such property
    ├── QemuDied                the process exited unexpectedly
    ├── QemuTimeout             the process did not answer in time and was killed
    ├── QmpError                QEMU refused a QMP command
    ├── QtestError              QEMU refused a qtest command, or an exchange was interrupted
    ├── DeviceError             an emulated device is missing or did not behave as documented
    └── InstallError            the QEMU of another Debian suite could not be installed

After QemuDied and QemuTimeout no process is left. After the others the machine can still be used.
"""

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


class _ProcessError(QemuError):
    """A process that has ended, and the end of its output.

    Attributes:
        stderr: the last lines the process wrote, oldest first; empty when it wrote nothing.
    """

    def __init__(self, message: str, stderr: Sequence[str] = ()) -> None:
        super().__init__(f"{message}: {stderr[-1]}" if stderr else message)
        self.stderr = list(stderr)


class QemuDied(_ProcessError):
    """The process exited unexpectedly.

    Attributes:
        status: its exit status; -N when signal N killed it, None when unknown.
    """

    def __init__(self, status: int | None, stderr: Sequence[str] = ()) -> None:
        how = "ended" if status is None else f"ended by signal {-status}" if status < 0 else f"ended, status {status}"
        super().__init__(f"QEMU {how}", stderr)
        self.status = status


class QemuTimeout(_ProcessError):
    """The process did not answer in time and was killed.

    Attributes:
        waited_for: what it did not do.
        seconds: the time limit.
    """

    def __init__(self, waited_for: str, seconds: float, stderr: Sequence[str] = ()) -> None:
        super().__init__(f"no answer from QEMU within {seconds:g} s ({waited_for})", stderr)
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
