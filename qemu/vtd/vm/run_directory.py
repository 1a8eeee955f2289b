"""A directory for the sockets of one VM, for this user alone, that does not outlive it.

    $XDG_RUNTIME_DIR/vtdlab/vm/NAME/        or ~/.cache/vtdlab/run/vm/NAME/ where there is no such variable

The process that owns it holds a lock in it as long as it runs. A process that was killed cannot remove its directory;
its guard does. Where that was killed too, the lock is free, and the next VM that starts removes the directory.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from qemu.vtd.errors import QemuError
from qemu.vtd.private_cache import locked, private, root

# The length of sockaddr_un.sun_path, with the zero at its end.
_LONGEST_PATH = 107
_LONGEST_NAME = len("/abcd1234/console")
_LOCK = "owner"


def parent() -> Path:
    """Where the directories of all VMs are; it may not exist yet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return Path(runtime) / "vtdlab" / "vm" if Path(runtime).is_absolute() else root() / "run" / "vm"


class RunDirectory:
    """The directory; use it in a with-block.

    Attributes:
        path: of the directory.

    Raises:
        QemuError: it cannot be made, or its path is too long for a socket.
    """

    def __enter__(self) -> Self:
        folder = private(parent())
        if len(os.fsencode(folder)) + _LONGEST_NAME > _LONGEST_PATH:
            raise QemuError(f"{folder}: too long for the path of a socket; set XDG_RUNTIME_DIR to a shorter one")
        with locked(folder):
            remove_stale(folder)
            self.path = Path(mkdtemp(prefix="", dir=folder))
            self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_WRONLY, 0o600)
            flock(self._lock, LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def socket(self, name: str) -> Path:
        """The path of a socket in it."""
        return self.path / name


def remove_stale(folder: Path) -> None:
    """Remove the directories whose owners have ended. The caller has locked `folder`."""
    for each in folder.iterdir():
        if each.is_dir() and not _is_owned(each):
            shutil.rmtree(each, ignore_errors=True)


def _is_owned(directory: Path) -> bool:
    """Whether the process that made it still runs: it then holds the lock."""
    with suppress(OSError):
        lock = os.open(directory / _LOCK, os.O_WRONLY)
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
