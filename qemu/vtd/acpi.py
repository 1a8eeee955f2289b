"""The ACPI tables QEMU hands to firmware, fetched as firmware would: through fw_cfg, with nothing running."""

from __future__ import annotations

import struct

from iommu.errors import FormatError
from iommu.memory import FlatMemory
from qemu.vtd.errors import DeviceError
from qemu.vtd.qtest import Qtest

TABLES = "etc/acpi/tables"

# fw_cfg is big-endian, its ports included: https://www.qemu.org/docs/master/specs/fw_cfg.html
_DMA_HIGH = 0x514
_DMA_LOW = 0x518
_READ = 1 << 1
_SELECT = 1 << 3
_CONTROL = struct.Struct(">IIQ")
_DIRECTORY_KEY = 0x19
_DIRECTORY_ENTRY = struct.Struct(">IHH56s")
_COUNT = struct.Struct(">I")

# Low memory that is RAM on every PC; what is borrowed there is given back.
_BORROWED = 0x10000
_CHUNK = 0x40000

_HEADER_SIZE = 36


class FirmwareConfig:
    """The files QEMU offers to firmware. Reading one borrows low RAM and gives it back as it was."""

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
        """The content of a file. Raises DeviceError when there is none of that name."""
        files = self.files()
        if name not in files:
            raise DeviceError(f"QEMU offers no {name} to firmware")
        return self._read(*files[name])

    def _read(self, key: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            # Only the first transfer selects: selecting starts the file over.
            select = 0 if data else key << 16 | _SELECT
            data += self._transfer(select | _READ, min(_CHUNK, length - len(data)))
        return bytes(data)

    def _transfer(self, control: int, length: int) -> bytes:
        before = self._memory.read(_BORROWED, _CONTROL.size + length)
        buffer = _BORROWED + _CONTROL.size
        self._memory.write(_BORROWED, _CONTROL.pack(control, length, buffer))
        try:
            with self._qtest.pipeline() as pipeline:
                pipeline.port_out(_DMA_HIGH, 0, 4)
                pipeline.port_out(_DMA_LOW, int.from_bytes(_BORROWED.to_bytes(4, "big"), "little"), 4)
            left, _, _ = _CONTROL.unpack(self._memory.read(_BORROWED, _CONTROL.size))
            if left:
                raise DeviceError(f"fw_cfg answered {left:#x} to a transfer of {length} bytes")
            return self._memory.read(buffer, length)
        finally:
            self._memory.write(_BORROWED, before)


def split(data: bytes) -> dict[str, list[bytes]]:
    """The tables in a concatenation of them, in order, by signature.

    Raises FormatError when one is cut short.
    """
    tables: dict[str, list[bytes]] = {}
    offset = 0
    # QEMU pads the file with zeros to leave room for tables that grow.
    while offset < len(data) and data[offset]:
        signature = data[offset : offset + 4].decode("latin-1")
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        # The FACS alone has a header of its own kind, but its length stands where all lengths do.
        if length < _HEADER_SIZE or offset + length > len(data):
            raise FormatError("a table cut short", offset=offset, where=signature, field="length", value=length)
        tables.setdefault(signature, []).append(data[offset : offset + length])
        offset += length
    return tables


def tables(qtest: Qtest, memory: FlatMemory) -> dict[str, list[bytes]]:
    """Every ACPI table QEMU built, by signature.

    Addresses and checksums in them are still blank: filling them in is the firmware's work.
    """
    return split(FirmwareConfig(qtest, memory).read(TABLES))


def dmar(qtest: Qtest, memory: FlatMemory) -> bytes:
    """The DMAR table QEMU built, its checksum blank. Raises DeviceError when the machine has no remapping unit."""
    found = tables(qtest, memory).get("DMAR")
    if not found:
        raise DeviceError("QEMU built no DMAR table: the machine has no remapping unit")
    return found[0]
