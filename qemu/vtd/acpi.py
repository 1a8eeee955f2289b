"""The ACPI tables QEMU provides to firmware, read through fw_cfg as firmware would, with no guest code running."""

from __future__ import annotations

import struct

from iommu.errors import FormatError
from iommu.memory import FlatMemory
from qemu.vtd.errors import DeviceError
from qemu.vtd.qtest import Qtest

TABLES = "etc/acpi/tables"

# fw_cfg is big-endian, including its DMA ports: https://www.qemu.org/docs/master/specs/fw_cfg.html
_DMA_HIGH = 0x514
_DMA_LOW = 0x518
_READ = 1 << 1
_SELECT = 1 << 3
_CONTROL = struct.Struct(">IIQ")
_DIRECTORY_KEY = 0x19
_DIRECTORY_ENTRY = struct.Struct(">IHH56s")
_COUNT = struct.Struct(">I")

# Low memory that is RAM on every PC. It is used as a DMA buffer; its contents are saved and restored.
_BUFFER = 0x10000
_CHUNK = 0x40000

_HEADER_SIZE = 36


class FirmwareConfig:
    """The fw_cfg files QEMU offers to firmware. Reading one uses some low RAM as a buffer and restores it."""

    def __init__(self, qtest: Qtest, memory: FlatMemory) -> None:
        self._qtest, self._memory = qtest, memory

    def files(self) -> dict[str, tuple[int, int]]:
        """Selector key and size in bytes of each file, by name."""
        (count,) = _COUNT.unpack(self._read(_DIRECTORY_KEY, _COUNT.size))
        listing = self._read(_DIRECTORY_KEY, _COUNT.size + count * _DIRECTORY_ENTRY.size)[_COUNT.size :]
        return {
            name.rstrip(b"\0").decode("ascii"): (key, size)
            for size, key, _, name in _DIRECTORY_ENTRY.iter_unpack(listing)
        }

    def read(self, name: str) -> bytes:
        """The content of a file. Raises DeviceError when no file has that name."""
        files = self.files()
        if name not in files:
            raise DeviceError(f"QEMU offers no {name} to firmware")
        return self._read(*files[name])

    def _read(self, key: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            # Select in the first transfer only: selecting resets the read offset.
            select = 0 if data else key << 16 | _SELECT
            data += self._transfer(select | _READ, min(_CHUNK, length - len(data)))
        return bytes(data)

    def _transfer(self, control: int, length: int) -> bytes:
        before = self._memory.read(_BUFFER, _CONTROL.size + length)
        data = _BUFFER + _CONTROL.size
        self._memory.write(_BUFFER, _CONTROL.pack(control, length, data))
        try:
            with self._qtest.pipeline() as pipeline:
                pipeline.port_out(_DMA_HIGH, 0, 4)
                pipeline.port_out(_DMA_LOW, int.from_bytes(_BUFFER.to_bytes(4, "big"), "little"), 4)
            left, _, _ = _CONTROL.unpack(self._memory.read(_BUFFER, _CONTROL.size))
            if left:
                raise DeviceError(f"fw_cfg left control word {left:#x} after a transfer of {length} bytes")
            return self._memory.read(data, length)
        finally:
            self._memory.write(_BUFFER, before)


def split(data: bytes) -> dict[str, list[bytes]]:
    """Split concatenated tables; returns them in order, by signature.

    Raises FormatError when a table is truncated.
    """
    tables: dict[str, list[bytes]] = {}
    offset = 0
    # QEMU pads the file with zeros to leave room for tables that grow.
    while offset < len(data) and data[offset]:
        signature = data[offset : offset + 4].decode("latin-1")
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        # The FACS has a header of its own, but its length field is at the usual offset.
        if length < _HEADER_SIZE or offset + length > len(data):
            raise FormatError("a table cut short", offset=offset, where=signature, field="length", value=length)
        tables.setdefault(signature, []).append(data[offset : offset + length])
        offset += length
    return tables


def tables(qtest: Qtest, memory: FlatMemory) -> dict[str, list[bytes]]:
    """Every ACPI table QEMU built, by signature.

    Addresses and checksums are still zero: firmware fills them in.
    """
    return split(FirmwareConfig(qtest, memory).read(TABLES))


def dmar(qtest: Qtest, memory: FlatMemory) -> bytes:
    """The DMAR table QEMU built, its checksum still zero. Raises DeviceError when there is no remapping unit."""
    found = tables(qtest, memory).get("DMAR")
    if not found:
        raise DeviceError("QEMU built no DMAR table: the machine has no remapping unit")
    return found[0]
