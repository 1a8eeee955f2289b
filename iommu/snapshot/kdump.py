"""Cores that kdump or makedumpfile has compressed, through libkdumpfile.

The library is optional. It is called directly: its Python package has to be built against one version of it, while
what is used here is the same in all since 0.5.0 (libkdumpfile/kdumpfile.h).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from functools import cache
from itertools import islice
from pathlib import Path
from weakref import finalize

from iommu.errors import MisuseError
from iommu.files.reading import descriptor_of
from iommu.snapshot.memory import PAGE, OverlaidMemory

_FLATTENED = b"makedumpfile"  # written to a pipe: makedumpfile -F, QEMU's kdump-zlib
BEGINNINGS = (b"KDUMP   ", b"DISKDUMP", _FLATTENED)
"""How compressed cores begin."""
LEFT_OUT = "memory that makedumpfile left out of the core: it reads as zeroes"

_MACHINE_PHYSICAL = 1  # KDUMP_MACHPHYSADDR
_NUMBER = 2  # KDUMP_NUMBER
_END = 1 << 64
_MOST_RANGES = 10_000
_SIZES = range(428, 440)
"""In the header: block_size, sub_hdr_size in blocks, bitmap_blocks."""


class _Value(ctypes.Union):
    _fields_ = (("number", ctypes.c_uint64), ("bitmap", ctypes.c_void_p))


class _Attribute(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", _Value))


@cache
def _library() -> ctypes.CDLL | None:
    """The library with the types of what is called here; None where it is not installed."""
    name = find_library("kdumpfile")
    try:
        library = ctypes.CDLL(name) if name else None
    except OSError:
        library = None
    if library is not None:
        context, text, place = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)
        attribute, length = ctypes.POINTER(_Attribute), ctypes.POINTER(ctypes.c_size_t)
        library.kdump_new.restype, library.kdump_get_err.restype = context, text
        library.kdump_free.restype = None
        library.kdump_get_err.argtypes = library.kdump_free.argtypes = (context,)
        library.kdump_open_fdset.argtypes = (context, ctypes.c_uint, ctypes.POINTER(ctypes.c_int))
        library.kdump_get_attr.argtypes = library.kdump_set_attr.argtypes = (context, text, attribute)
        library.kdump_bmp_find_set.argtypes = library.kdump_bmp_find_clear.argtypes = (context, place)
        library.kdump_read.argtypes = (context, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, length)
    return library


def from_kdump(path: Path) -> CompressedMemory:
    """The memory in a compressed core.

    Raises MisuseError without the library and for a file that it cannot read, and InputError.
    """
    library = _library()
    if library is None:
        raise MisuseError(
            f"{path} is a core that kdump has compressed, and libkdumpfile is not installed (Debian: apt-get install "
            "libkdumpfile-dev); or give an ELF core (makedumpfile -E)"
        )
    return CompressedMemory(path, library)


class CompressedMemory(OverlaidMemory):
    """The memory in a compressed core, unpacked when it is read.

    Attributes:
        left_out: whether pages of the machine's memory are not in the core.
    """

    def __init__(self, path: Path, library: ctypes.CDLL) -> None:
        self._path, self._library = path, library
        self._context = library.kdump_new()
        descriptor = descriptor_of(path)
        finalize(self, os.close, descriptor)
        begins = os.pread(descriptor, PAGE, 0)
        if not begins.startswith(_FLATTENED) and _end_of_maps(begins) > os.fstat(descriptor).st_size:
            raise MisuseError(f"{path} is cut short: it ends within the maps of its pages")
        self._set(b"file.mmap_policy", 0)  # KDUMP_MMAP_NEVER: a file that is cut short would end us by SIGBUS
        self._set(b"file.zero_excluded", 1)
        # Older versions of the library do not know the flattened form.
        hint = f"; try makedumpfile -R CORE < {path}" if begins.startswith(_FLATTENED) else ""
        self._ask(library.kdump_open_fdset(self._context, 1, ctypes.byref(ctypes.c_int(descriptor))), hint=hint)
        # Not before: freeing a context whose file was refused crashes (0.5.1).
        finalize(self, library.kdump_free, self._context)
        if (size := self._attribute(b"arch.page_size").number) != PAGE:
            raise MisuseError(f"{path} has pages of {size} bytes, not {PAGE}")
        self._saved = self._attribute(b"file.pagemap").bitmap
        ranges = list(islice(self._runs(self._attribute(b"memory.pagemap").bitmap), _MOST_RANGES + 1))
        if len(ranges) > _MOST_RANGES:
            raise MisuseError(f"{path} is damaged: its memory is in more than {_MOST_RANGES} pieces")
        super().__init__(ranges)
        self.left_out = any(
            self._next(library.kdump_bmp_find_clear, self._saved, each.start) < each.stop for each in self.ranges
        )

    def stretch(self, number: int, count: int) -> bytes:
        """See OverlaidMemory. Raises MisuseError for a page that cannot be unpacked."""
        buffer = ctypes.create_string_buffer(count * PAGE)
        length, address = ctypes.c_size_t(len(buffer)), number * PAGE
        status = self._library.kdump_read(self._context, _MACHINE_PHYSICAL, address, buffer, ctypes.byref(length))
        self._ask(status, f"the memory at {address:#x}")
        return buffer.raw

    def stored(self) -> Iterator[range]:
        """See OverlaidMemory."""
        return self._runs(self._saved)

    def _runs(self, bitmap: int) -> Iterator[range]:
        """The addresses of the pages in a bitmap."""
        stop = 0
        while (start := self._next(self._library.kdump_bmp_find_set, bitmap, stop)) < _END:
            stop = self._next(self._library.kdump_bmp_find_clear, bitmap, start)
            yield range(start, stop)

    def _next(self, find: Callable[..., int], bitmap: int, address: int) -> int:
        """The first address from this one on whose page is, or is not, in a bitmap; _END if there is none."""
        number = ctypes.c_uint64(address // PAGE)
        return number.value * PAGE if find(bitmap, ctypes.byref(number)) == 0 else _END

    def _attribute(self, name: bytes) -> _Value:
        found = _Attribute()
        self._ask(self._library.kdump_get_attr(self._context, name, ctypes.byref(found)))
        value: _Value = found.value
        return value

    def _set(self, name: bytes, number: int) -> None:
        value = _Attribute(_NUMBER, _Value(number=number))
        self._ask(self._library.kdump_set_attr(self._context, name, ctypes.byref(value)))

    def _ask(self, status: int, what: str = "it", hint: str = "") -> None:
        """Raises MisuseError if a call has failed."""
        if status:
            said = (self._library.kdump_get_err(self._context) or b"no reason given").decode("utf-8", "replace")
            raise MisuseError(f"{self._path}: libkdumpfile cannot read {what}: {said}{hint}")


def _end_of_maps(header: bytes) -> int:
    """Where the maps of pages end, by the header (makedumpfile's diskdump_mod.h); the library does not check it."""
    if len(header) < _SIZES.stop:
        return 0
    size, more, blocks = struct.unpack("<3I", header[_SIZES.start : _SIZES.stop])
    return int(size * (1 + more + blocks))
