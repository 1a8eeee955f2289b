"""A guest's memory in the process of its QEMU: which pages are in use, and what is in them."""

from __future__ import annotations

import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from iommu.snapshot.memory import PAGE, OverlaidMemory
from qemu.vtd.errors import QemuError
from qemu.vtd.ram import in_use

_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ..(.)(.) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)", re.M)
_IN_USE = 0b11 << 62
"""Pagemap: the page is present, or swapped out."""


class Block(NamedTuple):
    """A block of guest memory: guest-physical addresses, and where the first one is in the process."""

    start: int
    stop: int
    host: int


class _Mapping(NamedTuple):
    """A mapping of the process; `file` is its device and inode, None for anonymous memory."""

    start: int
    stop: int
    shared: bool
    offset: int
    file: tuple[int, int] | None


class _Part(NamedTuple):
    """A part of guest memory within one mapping: a file descriptor, and where in it the first byte is.

    `shared` is the descriptor of a file that the mapping shares: it knows its holes.
    """

    start: int
    stop: int
    descriptor: int
    offset: int
    shared: bool


class LiveMemory(OverlaidMemory):
    """Guest memory, read from the process when it is asked for. What is written to it stays in this process.

    Attributes:
        pid: the process.
    """

    def __init__(self, pid: int, parts: Sequence[_Part], pagemap: int) -> None:
        super().__init__(_joined(parts))
        self.pid, self._parts, self._pagemap = pid, parts, pagemap
        self._firsts = [part.start for part in parts]

    def stretch(self, number: int, count: int) -> bytes:
        """See OverlaidMemory."""
        address, left, pieces = number * PAGE, count * PAGE, []
        while left:
            part = self._parts[bisect_right(self._firsts, address) - 1]
            size = min(left, part.stop - address) if part.start <= address < part.stop else 0
            data = self._pread(part, address, size) if size else bytes(left)
            pieces.append(data)
            address, left = address + len(data), left - len(data)
        return b"".join(pieces)

    def _pread(self, part: _Part, address: int, size: int) -> bytes:
        try:
            data = os.pread(part.descriptor, size, part.offset + address - part.start)
        except OSError as error:
            raise QemuError(f"process {self.pid}: its memory cannot be read: {error.strerror}") from None
        # A file may be shorter than its mapping.
        return data or bytes(size)

    def stored(self) -> Iterator[range]:
        """See OverlaidMemory."""
        for part in self._parts:
            yield from self._data_of(part) if part.shared else self._present(part)

    def _data_of(self, part: _Part) -> Iterator[range]:
        """What of a shared file is not a hole."""
        shift = part.start - part.offset
        for each in in_use(part.descriptor, range(part.offset, part.stop - shift)):
            yield range(each.start + shift, each.stop + shift)

    def _present(self, part: _Part) -> Iterator[range]:
        """The pages of private memory that the process has."""
        first, pages = part.offset // mmap.PAGESIZE, (part.stop - part.start) // mmap.PAGESIZE
        start = None
        entries = memoryview(os.pread(self._pagemap, pages * 8, first * 8)).cast("Q")
        for number, entry in enumerate(entries):
            if entry & _IN_USE:
                start = number if start is None else start
            elif start is not None:
                yield range(part.start + start * mmap.PAGESIZE, part.start + number * mmap.PAGESIZE)
                start = None
        if start is not None:
            yield range(part.start + start * mmap.PAGESIZE, part.start + len(entries) * mmap.PAGESIZE)


def _joined(parts: Sequence[_Part]) -> list[range]:
    """The addresses of parts, neighbours joined."""
    found: list[range] = []
    for part in parts:
        if found and found[-1].stop == part.start:
            found[-1] = range(found[-1].start, part.stop)
        else:
            found.append(range(part.start, part.stop))
    return found


@contextmanager
def process_memory(pid: int, blocks: Sequence[Block]) -> Iterator[LiveMemory]:
    """The memory of a guest in the process of its QEMU, whose guest has to stand still. Raises QemuError."""
    if not pid:
        raise QemuError("the process behind the socket is not visible from here: give its --pid")
    root = Path(f"/proc/{pid}")
    with ExitStack() as opened:
        try:
            memory, pagemap = (_open(root / name, opened) for name in ("mem", "pagemap"))
            files = _Files(root, opened)
            parts = [
                part for block in sorted(blocks) for part in _parts(block, files, memory, (root / "maps").read_text())
            ]
        except (FileNotFoundError, ProcessLookupError):
            raise QemuError(f"there is no process {pid}") from None
        except PermissionError:
            raise QemuError(
                f"the memory of process {pid} cannot be read: be its user or root (ptrace rules: "
                "/proc/sys/kernel/yama/ptrace_scope)"
            ) from None
        yield LiveMemory(pid, parts, pagemap)


def _open(path: Path, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


class _Files:
    """The files that a process has open, by device and inode: the shared memory of a guest is one of them."""

    def __init__(self, root: Path, opened: ExitStack) -> None:
        self._opened, self._found = opened, dict[tuple[int, int], int]()
        self._paths: dict[tuple[int, int], Path] = {}
        for path in (root / "fd").iterdir():
            with suppress(OSError):
                status = path.stat()
                self._paths.setdefault((status.st_dev, status.st_ino), path)

    def open(self, file: tuple[int, int] | None) -> int | None:
        """A descriptor of our own for a file; None if the process has it open no longer."""
        if file is None or file not in self._paths:
            return None
        if file not in self._found:
            self._found[file] = _open(self._paths[file], self._opened)
        return self._found[file]


def _parts(block: Block, files: _Files, memory: int, maps: str) -> Iterator[_Part]:
    """The parts of a block, by the mappings that it lies in. Raises QemuError where the process has none."""
    at, end = block.host, block.host + block.stop - block.start
    for mapping in _mappings(maps):
        if mapping.start <= at < mapping.stop and at < end:
            start, stop = block.start + at - block.host, block.start + min(end, mapping.stop) - block.host
            shared = files.open(mapping.file) if mapping.shared else None
            if shared is None:
                yield _Part(start, stop, memory, at, False)
            else:
                yield _Part(start, stop, shared, mapping.offset + at - mapping.start, True)
            at = mapping.stop
    if at < end:
        raise QemuError(f"the process has nothing at {at:#x}, where QEMU has the guest's memory: give its --pid")


def _mappings(maps: str) -> Iterator[_Mapping]:
    for start, stop, _, kind, offset, major, minor, inode in _MAPPING.findall(maps):
        file = (os.makedev(int(major, 16), int(minor, 16)), int(inode)) if int(inode) else None
        yield _Mapping(int(start, 16), int(stop, 16), kind == "s", int(offset, 16), file)
