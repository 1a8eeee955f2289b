"""The one way in: everything that a user names is opened here, within the limits of iommu.files.limits.

Files are read, or mapped where they are large. Pipes and terminals are read as long as something comes; one line on
stderr says when one is waited for. Folders and devices are refused. `-` is standard input.

All functions raise InputError, and nothing else, for what cannot be read.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path

from iommu.errors import InputError
from iommu.files.limits import VARIABLE, limits, over
from iommu.files.mapped import Mapped

STDIN = Path("-")
Data = bytes | Mapped
"""The contents of an input: both can be sliced, searched and measured."""

_MAPPED = 16 << 20  # larger files are mapped, not read
_PIECE = 1 << 16
_TELL_AFTER = 1.5  # seconds
_REFUSED = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def name_of(path: Path) -> str:
    """How messages name an input."""
    return "standard input" if path == STDIN else str(path)


def contents(path: Path) -> Data:
    """The bytes of a file, of a pipe, or of standard input."""
    name = name_of(path)
    try:
        if path == STDIN:
            return _standard_input(name)
        with _Opened(path) as descriptor:
            return _contents(descriptor, name)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error


def beginning(path: Path, most: int) -> bytes:
    """The first bytes of a file, `most` at the utmost: for one that is never large, or to see what it is."""
    try:
        with _Opened(path) as descriptor:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return _up_to(descriptor, most)
            return _stream(descriptor, str(path), most)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def mapped(path: Path) -> memoryview:
    """A file's bytes, which can be written to: that stays in this process."""
    try:
        with _Opened(path) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not status.st_size:
                return memoryview(bytearray(_contents(descriptor, str(path))))
            return memoryview(_mapped(descriptor, str(path), private=True))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', error)}") from error


def descriptor_of(path: Path) -> int:
    """A descriptor for a library that reads a file itself; whoever calls this closes it."""
    try:
        return _Opened(path).descriptor
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def text(path: Path) -> str:
    """A text, such as a log; see `as_text`."""
    return as_text(contents(path), name_of(path))


def as_text(data: Data, name: str) -> str:
    """Bytes as a text; what is not UTF-8 is replaced. An empty one, or one with zero bytes, is refused."""
    if len(data) > limits().text:
        raise over(name, "a text of", "text")
    whole = data[:]
    if not whole.strip() or b"\0" in whole:
        raise InputError(f"{name} is {'not text' if whole.strip() else 'empty'}")
    return whole.decode("utf-8", "replace")


class _Opened:
    """A descriptor of a file or a pipe; a pipe's writer is not waited for. Raises InputError and OSError."""

    def __init__(self, path: Path) -> None:
        try:
            # A device is not even opened: for some, that alone does something.
            kind = _REFUSED.get(stat.S_IFMT(path.stat().st_mode))
            if kind is not None:
                raise InputError(f"{path} is {kind}: a file or a pipe is needed, or - for standard input")
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except ValueError as error:  # a zero byte in the name
            raise InputError(f"{str(path)!r:.60}: {error}") from None

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _standard_input(name: str) -> Data:
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError):  # it is closed, or a caller has put something else in its place
        return b"" if sys.stdin is None else _whole(sys.stdin.buffer.read(limits().read + 1), name)
    return _contents(descriptor, name)


def _contents(descriptor: int, name: str) -> Data:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return _stream(descriptor, name)
    if status.st_size > _MAPPED:
        return _mapped(descriptor, name)
    # Files of /proc and /sys hold more, or less, than their size.
    return _whole(_up_to(descriptor, limits().read + 1), name)


def _whole(data: bytes, name: str) -> bytes:
    """Data of which one byte more than allowed has been asked for."""
    if len(data) > limits().read:
        raise over(name, "there are", "read")
    return data


def _mapped(descriptor: int, name: str, *, private: bool = False) -> Mapped:
    found = Mapped.of(descriptor, private=private)
    if sum(map(len, found.data)) > limits().file:
        raise over(name, "a file of", "file")
    return found


def _up_to(descriptor: int, most: int) -> bytes:
    pieces, size = [], 0
    while size < most and (piece := os.read(descriptor, min(_PIECE, most - size))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _stream(descriptor: int, name: str, cut: int | None = None) -> bytes:
    """All that comes from a pipe, a terminal or a device; or its first `cut` bytes."""
    most = limits().read if cut is None else cut
    pieces, size = [], 0
    patience = _Patience(descriptor, name)
    while size <= most:
        patience.wait()
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            continue
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    whole = b"".join(pieces)
    return _whole(whole, name) if cut is None else whole[:cut]


class _Patience:
    """Waits for an input. Once it has taken a while, it says so on stderr, in one line."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._name, self._told = name, False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def wait(self) -> None:
        """Wait until something has come, or nothing more will. Raises InputError after the time of the limit."""
        seconds = limits().wait
        first = min(_TELL_AFTER, seconds)
        if self._poll.poll(1000 * first):
            return
        if not self._told:
            self._told = True
            with suppress(OSError, AttributeError):
                print(f"vtd: waiting for input on {self._name}", file=sys.stderr, flush=True)
        if not self._poll.poll(1000 * (seconds - first)):
            raise InputError(
                f"{self._name}: nothing came for {seconds} seconds; to wait longer: {VARIABLE}=wait={10 * seconds}"
            )
