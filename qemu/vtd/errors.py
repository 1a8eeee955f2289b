"""What can go wrong with a QEMU.

    QemuError(VtdError)         everything below; one readable line, for people
    ├── QemuNotFound            there is no QEMU where one was looked for
    ├── QemuUnsuitable          there is a program, but it is no QEMU, too old, or lacks what is asked of it
    ├── QemuDied                the process ended by itself
    ├── QemuTimeout             the process did not answer in time; it has been ended
    ├── QmpError                QEMU refused a QMP command
    ├── QtestError              QEMU refused a qtest command, or a conversation broke off
    └── DeviceError             an emulated device did not do what its registers promise

After QemuDied and QemuTimeout no process is left. After the others the machine goes on working.
"""

from collections.abc import Sequence

from iommu.errors import VtdError


class QemuError(VtdError):
    """Root of every error that has to do with a QEMU."""


class QemuNotFound(QemuError):
    """There is no program to run; the message says how to get one."""


class QemuUnsuitable(QemuError):
    """The program found cannot serve: it is no QEMU, it is too old, or it has no such device or property."""


class _ProcessError(QemuError):
    """A process that is gone, and its last words.

    Attributes:
        stderr: the last lines the process wrote, oldest first; empty when it wrote none.
    """

    def __init__(self, message: str, stderr: Sequence[str] = ()) -> None:
        super().__init__(f"{message}: {stderr[-1]}" if stderr else message)
        self.stderr = list(stderr)


class QemuDied(_ProcessError):
    """The process ended by itself.

    Attributes:
        status: its exit status; negative for the signal that ended it, None when that is not known.
    """

    def __init__(self, status: int | None, stderr: Sequence[str] = ()) -> None:
        how = "ended" if status is None else f"ended by signal {-status}" if status < 0 else f"ended, status {status}"
        super().__init__(f"QEMU {how}", stderr)
        self.status = status


class QemuTimeout(_ProcessError):
    """The process did not do something in time, and was ended for it.

    Attributes:
        waited_for: what it did not do.
        seconds: how long it had.
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
        super().__init__(f"qtest {command!r} was answered {answer!r}")
        self.command = command
        self.answer = answer


class DeviceError(QemuError):
    """An emulated device is missing, or did not do what its registers promise."""
