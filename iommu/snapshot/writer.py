"""Writing the one-file form of a snapshot (onefile.py)."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from iommu.files.writing import whole_file
from iommu.memory import Memory
from iommu.snapshot import onefile
from iommu.snapshot.contents import Contents
from iommu.snapshot.memory import PAGE, ranges_of, used_of
from iommu.snapshot.packed import FRAME, PAGES_IN_FRAME, RUN

_BLOCK = 1 << 20
_ZEROES, _ZERO_BLOCK = bytes(PAGE), bytes(_BLOCK)
_MOST_WAITING = 1024
"""Frames that were read but are not compressed yet: a machine that stands still is not kept waiting for less."""
_LEVEL = 1
_TIME = (1980, 1, 1, 0, 0, 0)


class Packer:
    """Takes a snapshot in, quickly; compresses it in other threads meanwhile, and after that."""

    def __init__(self, archive: zipfile.ZipFile, pool: ThreadPoolExecutor) -> None:
        self._archive, self._pool = archive, pool
        self._pages: IO[bytes] = archive.open(_member(onefile.PAGES), "w", force_zip64=True)
        self._waiting: deque[Future[bytes]] = deque()
        self._sizes: list[int] = []
        self._runs: list[list[int]] = []
        self._frame = bytearray()
        self._small: dict[str, bytes] = {}
        self._local = threading.local()

    def take(self, contents: Contents) -> None:
        """Read all of a snapshot; its machine may go on afterwards. Raises MisuseError for an unfit memory."""
        settings = {
            "format": onefile.FORMAT,
            "origin": contents.origin,
            "unknown": list(contents.unknown),
            "tables_only": contents.tables_only,
            "host_address_width": contents.units[0].host_address_width,
            "units": [{"register_base": hex(unit.register_base)} for unit in contents.units],
            "memory": [[hex(each.start), hex(each.stop)] for each in ranges_of(contents.memory)],
        }
        self._small[onefile.SETTINGS] = json.dumps(settings, indent=1).encode() + b"\n"
        if contents.dmar is not None:
            self._small[onefile.DMAR] = contents.dmar
        for number, unit in enumerate(contents.units):
            self._small[onefile.registers_name(number)] = unit.registers
            if unit.state is not None:
                self._small[onefile.state_name(number)] = unit.state
        for first, data in _blocks(contents.memory):
            if data != _ZERO_BLOCK[: len(data)]:
                self._add(first, data)

    def _add(self, first: int, data: bytes) -> None:
        """Add those of some pages in a row that are not all zeroes."""
        for at in range(0, len(data), PAGE):
            page, number = data[at : at + PAGE], first + at // PAGE
            if page == _ZEROES:
                continue
            if self._runs and sum(self._runs[-1]) == number:
                self._runs[-1][1] += 1
            else:
                self._runs.append([number, 1])
            self._frame += page
            if len(self._frame) == PAGES_IN_FRAME * PAGE:
                self._submit()

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(self._compress, self._frame))
        self._frame = bytearray()
        while self._waiting and (len(self._waiting) > _MOST_WAITING or self._waiting[0].done()):
            self._write()

    def _compress(self, frame: bytearray) -> bytes:
        """A frame of Zstandard. A compressor serves one thread."""
        if "compressor" not in vars(self._local):
            self._local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        packed: bytes = self._local.compressor.compress(frame)
        return packed

    def _write(self) -> None:
        frame = self._waiting.popleft().result()
        self._sizes.append(len(frame))
        self._pages.write(frame)

    def finish(self) -> None:
        """Compress and write what is left."""
        if self._frame:
            self._submit()
        while self._waiting:
            self._write()
        self._pages.close()
        self._small[onefile.RUNS] = b"".join(RUN.pack(*run) for run in self._runs)
        self._small[onefile.FRAMES] = b"".join(FRAME.pack(size) for size in self._sizes)
        for name, data in self._small.items():
            self._archive.writestr(_member(name), data)


def _member(name: str) -> zipfile.ZipInfo:
    """A member without a time, so that equal snapshots are equal files."""
    return zipfile.ZipInfo(name, _TIME)


@contextmanager
def packer(path: Path) -> Iterator[Packer]:
    """Write a snapshot to a file of mode 0600, which is there when the block has succeeded, and not before.

    The block calls `take` and, when the machine may go on, `finish`. Raises OSError.
    """
    with (
        whole_file(path, private=True) as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        zipfile.ZipFile(file, "w") as archive,
    ):
        packing = Packer(archive, pool)
        try:
            yield packing
        except BaseException:
            pool.shutdown(cancel_futures=True)
            packing._pages.close()
            raise


def _blocks(memory: Memory) -> Iterator[tuple[int, bytes]]:
    """The number of a page, and the contents of some pages from there, for all that can hold anything but zeroes.

    Where memory begins or ends within a page, the rest of the page is zeroes.
    """
    part, page = -1, bytearray(PAGE)
    for piece in used_of(memory):
        at = piece.start
        while at < piece.stop:
            number, offset = divmod(at, PAGE)
            if part not in (-1, number):
                yield part, bytes(page)
                part, page = -1, bytearray(PAGE)
            end = min((at & -_BLOCK) + _BLOCK, piece.stop & -PAGE)
            if offset or end <= at:
                end = min((number + 1) * PAGE, piece.stop)
                page[offset : offset + end - at] = memory.read(at, end - at)
                part = number
            else:
                yield number, memory.read(at, end - at)
            at = end
    if part != -1:
        yield part, bytes(page)
