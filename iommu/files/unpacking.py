"""Compressed inputs, unpacked within limits: gzip, also within gzip, and the members of zip archives."""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from contextlib import ExitStack
from typing import IO, Any, Protocol

from iommu.errors import InputError
from iommu.files.limits import limits, over
from iommu.files.mapped import Mapped
from iommu.files.reading import Data

GZIP = b"\x1f\x8b"
_PIECE = 1 << 20
_IN_MEMORY = 16 << 20  # what is larger goes to a file without a name, in which zeroes take no room
_FREE = 32 << 20  # up to this size, nothing is said about the ratio


def unpacked(data: Data, name: str) -> Data:
    """What is in all layers of gzip; the data itself if it is not gzip. Raises InputError."""
    for _ in range(limits().nesting):
        if data[:2] != GZIP:
            return data
        data = _layer(data, name)
    if data[:2] == GZIP:
        raise over(name, "gzip within gzip,", "nesting", "layers")
    return data


def _layer(data: Data, name: str) -> Data:
    source: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    if isinstance(data, Mapped):
        data.seek(0)
    try:
        with gzip.GzipFile(fileobj=source) as stream:
            return unpack(stream, len(data), name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: damaged gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"{name}: it cannot be unpacked: {error.strerror}") from None


class Stream(Protocol):
    """What can be read in pieces."""

    def read(self, size: int, /) -> bytes: ...


def unpack(stream: Stream, size: int, name: str, *, stated: int = 0, private: bool = False) -> Data:
    """All that a stream unpacks to.

    Args:
        size: how large it is before.
        stated: how large it says it is afterwards, where it does.
        private: whether a large result can be written to.

    Raises InputError beyond a limit, OSError, and what the stream raises.
    """
    _check(stated, size, name)
    pieces: list[bytes] = []
    got = 0
    with ExitStack() as opened:
        file: IO[bytes] | None = None
        while piece := stream.read(_PIECE):
            got += len(piece)
            _check(got, size, name)
            if file is None and got > _IN_MEMORY:
                file = opened.enter_context(tempfile.TemporaryFile())
                for each in pieces:
                    _put(file, each)
                pieces = []
            if file is None:
                pieces.append(piece)
            else:
                _put(file, piece)
        if file is None:
            return b"".join(pieces)
        file.truncate(got)
        file.flush()
        return Mapped.of(file.fileno(), private=private)


def _check(got: int, size: int, name: str) -> None:
    if got > limits().unpacked:
        raise over(name, "it unpacks to", "unpacked")
    if got > _FREE and got > limits().ratio * size:
        raise over(name, "it unpacks to", "ratio", "times its size")


def _put(file: IO[bytes], piece: bytes) -> None:
    if piece.count(0) == len(piece):
        file.seek(len(piece), io.SEEK_CUR)
    else:
        file.write(piece)
