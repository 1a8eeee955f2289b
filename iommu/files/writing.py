"""Every file that is written for a user: whole, or not there.

A file appears under its name when all of it is on the disk, in one step. Only regular files are replaced: what is a
device, a pipe or an open descriptor (/dev/stdout) is written to as it is.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from iommu.errors import MisuseError
from iommu.files.text import beneath

STDOUT = Path("-")
"""Stands for standard output."""
_TERMINAL = "{} is a terminal, which would obey what is in the file: redirect it, or name a file"


def write_file(path: Path, data: bytes) -> None:
    """Write a file; see `whole_file`. Raises OSError."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` once the block has succeeded. Until then, and if it fails, nothing is.

    A file that is there already is replaced, and its mode and owner are kept. If `path` is a link, what it leads to
    is replaced, under the rules that the kernel has for links.

    Args:
        private: only its owner can read it (mode 0600), whatever is there now.

    Raises:
        MisuseError: a private file is to be something that is not a file, or any file a terminal.
        OSError: the file cannot be written. It has the name that the user gave, not the temporary one.
    """
    if path == STDOUT and not private:
        if sys.stdout.isatty():
            raise MisuseError(_TERMINAL.format("standard output"))
        sys.stdout.flush()
        yield beneath(sys.stdout).buffer
        return
    with _naming(path):
        opened = _not_replaced(path)
    if opened is None:
        with _replacing(path, private) as file:
            yield file
        return
    with cast(BinaryIO, io.BufferedWriter(_File(opened, path))) as file:
        if private:
            raise MisuseError(f"{path} is not a file")
        if os.isatty(opened):
            raise MisuseError(_TERMINAL.format(path))
        yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system name the file as the user did."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class _File(io.FileIO):
    """A file whose failed writes name it. A block that writes it may have other files open."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: object) -> int:
        with _naming(self._path):
            return super().write(data)  # type: ignore[arg-type]


def _not_replaced(path: Path) -> int | None:
    """A descriptor of what is at `path`, unless that is a regular file, or nothing yet."""
    if (number := _own_descriptor(path)) is not None:
        sys.stdout.flush()  # what was printed before comes first
        return os.dup(number)
    try:
        # That it can be opened is required of regular files too: a read-only file stays as it is, and the kernel
        # refuses links that others have planted in /tmp (fs.protected_symlinks).
        opened = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    return None


def _own_descriptor(path: Path) -> int | None:
    """The descriptor that a path names: 1 for /dev/stdout, 5 for /dev/fd/5. None for all other paths."""
    for _ in range(_MOST_LINKS):
        folder = Path(os.path.realpath(path.parent))
        if path.name.isdecimal() and re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", str(folder)):
            return int(path.name)
        try:
            path = folder / (folder / path.name).readlink()
        except OSError:
            return None
    return None


_MOST_LINKS = 40  # as many as the kernel follows


@contextmanager
def _replacing(path: Path, private: bool) -> Iterator[BinaryIO]:
    """A new file that takes the place of a regular file, or of nothing, at `path` or where that leads."""
    folder, name = os.path.split(os.path.realpath(path))
    with _naming(path):
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(path):
            before = None if private else _before(where, name)
            descriptor, temporary = _new(where, 0o666 if before is None and not private else 0o600)
        file = io.BufferedWriter(_File(descriptor, path))
        try:
            yield cast(BinaryIO, file)
            with _naming(path):
                file.flush()
                os.fsync(descriptor)
                if temporary is None:
                    temporary = _temporary()
                    os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=where)
                if before is not None:
                    _keep(descriptor, before)
                os.replace(temporary, name, src_dir_fd=where, dst_dir_fd=where)
        except BaseException:
            if temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=where)
            raise
        finally:
            file.raw.close()  # what is still buffered belongs to a file that is gone
        with suppress(OSError):  # not every file system can do this with a folder
            os.fsync(where)
    finally:
        os.close(where)


def _before(where: int, name: str) -> os.stat_result | None:
    """What is said about the file that will be replaced, if there is one."""
    try:
        return os.stat(name, dir_fd=where, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _new(where: int, mode: int) -> tuple[int, str | None]:
    """A new file in a folder, and its name.

    It has no name where the file system can do without (O_TMPFILE): even a killed process leaves nothing then. The
    process's umask applies to the mode.
    """
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{where}", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode), None
    name = _temporary()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=where), name


def _temporary() -> str:
    """A name that nobody can guess, and so nobody can have taken."""
    return f".vtd-{os.urandom(12).hex()}"


def _keep(descriptor: int, before: os.stat_result) -> None:
    """Give a new file the owner of that which it replaces, where this process may, and its mode."""
    with suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, before.st_mode & 0o777)
