"""Zip archives: members that are stored, in place, and members that are deflated, unpacked within limits."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iommu.errors import InputError
from iommu.files.limits import limits, over
from iommu.files.mapped import Mapped
from iommu.files.reading import mapped
from iommu.files.unpacking import unpack

ZIP = b"PK\3\4"
"""How an archive with members begins."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_END, _END_64 = struct.Struct("<4s8xI"), struct.Struct("<4s36xQ")
_END_MAGIC, _END_64_MAGIC = b"PK\5\6", b"PK\6\6"
_ENDS = 22 + 0xFFFF + 76  # bytes at the end of the file in which both are
_DIRECTORY = 1 << 20  # bytes of the list of members, which is enough for ten thousand
_READ = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# What the module zipfile lets through for a damaged archive; it documents the first only.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError, OSError)


class Archive:
    """A zip archive.

    Attributes:
        names: the names of its members.

    Raises InputError for a file that is none, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._name, self._data = str(path), mapped(path)
        if _directory_size(self._data[-_ENDS:].tobytes()) > _DIRECTORY:
            raise InputError(f"{path}: its list of members takes more than {_DIRECTORY} bytes")
        source: Any = self._data.obj if isinstance(self._data.obj, Mapped) else io.BytesIO(self._data)
        try:
            self._archive = zipfile.ZipFile(source)
        except _DAMAGE as error:
            raise InputError(f"{path} is not a zip archive: it is cut short, or was never one") from error
        self._members = {member.filename: member for member in self._archive.infolist()}
        self.names = list(self._members)

    def stored(self, name: str) -> memoryview | None:
        """A member as a part of the file; None without it. Raises InputError for one that is compressed by zip."""
        member = self._members.get(name)
        if member is None:
            return None
        header = self._data[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
        if member.compress_type != zipfile.ZIP_STORED or len(header) < _LOCAL_HEADER.size:
            raise InputError(f"{self._name} is damaged: {name} is not stored as it should be")
        magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        start = member.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        data = self._data[start : start + member.file_size]
        if magic != ZIP or len(data) != member.file_size:
            raise InputError(f"{self._name} is damaged: it ends within {name}")
        return data

    def unpacked(self, names: Iterable[str]) -> dict[str, memoryview]:
        """These members, unpacked; they can be written to. Raises InputError, where it can before it unpacks."""
        members = {name: self._members[name] for name in names}
        if sum(member.file_size for member in members.values()) > limits().unpacked:
            raise over(self._name, "it unpacks to", "unpacked")
        return {name: self._unpacked(member, name) for name, member in members.items()}

    def _unpacked(self, member: zipfile.ZipInfo, name: str) -> memoryview:
        where = f"{self._name}, {name}"
        if member.compress_type not in _READ:
            method = zipfile.compressor_names.get(member.compress_type, member.compress_type)  # type: ignore[attr-defined]
            raise InputError(f"{where}: compressed by {method}: only deflate is read")
        try:
            with self._archive.open(member) as stream:
                data = unpack(stream, member.compress_size, where, stated=member.file_size, private=True)
        except OSError as error:
            raise InputError(f"{where}: it cannot be unpacked: {error.strerror or error}") from error
        except _DAMAGE as error:
            raise InputError(f"{where} is damaged: {error!s:.120}") from error
        return memoryview(data if isinstance(data, Mapped) else bytearray(data))


def _directory_size(end: bytes) -> int:
    """The size that an archive states for its list of members; 0 if its end is not one."""
    at, at_64 = end.rfind(_END_MAGIC), end.rfind(_END_64_MAGIC)
    sizes = [
        layout.unpack_from(end, place)[1]
        for layout, place in ((_END, at), (_END_64, at_64))
        if 0 <= place <= len(end) - layout.size
    ]
    return max((size for size in sizes if size != 0xFFFFFFFF), default=0)
