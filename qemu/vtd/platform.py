"""One interface, two implementations: the model and a QEMU. Drivers and scenarios run on either.

A platform is a small machine: memory, one remapping unit, and devices that do DMA when told to:

    A   00:04.0   reads and writes
    B   00:05.0   writes
    C   00:05.1   writes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    FlatMemory,
    Policy,
    RemappingUnit,
    SourceId,
    VtdError,
)

MEMORY_SIZE = 16 << 20
"""Bytes of memory a platform has."""

DEVICES = {"A": SourceId(0, 4, 0), "B": SourceId(0, 5, 0), "C": SourceId(0, 5, 1)}
"""The devices by name; A and B stand apart, B and C are two functions of one device."""


class Unreachable(VtdError):
    """The platform has no way to do what a scenario asks of it; the message says what it lacks."""


@dataclass
class Transfer:
    """One DMA a device was told to do.

    Attributes:
        device: its name.
        access: read or write.
        address: what the device asked for.
        length: bytes.
        host: where the data really moved, first byte; None when no data moved.
    """

    device: str
    access: Access
    address: int
    length: int
    host: int | None = None


class Platform(Protocol):
    """Memory, registers, devices.

    `memory` holds what the devices and the unit see. Every page that DMA may reach is filled by `stamp`, so that a
    device's read tells where it read from.
    """

    name: str
    memory: FlatMemory
    capabilities: Capabilities

    def reset(self) -> None:
        """A unit at its reset values with empty caches, idle devices. Memory keeps its content."""
        ...

    def read_register(self, offset: int, size: int) -> int:
        """Read 4 or 8 bytes at an offset from the register base."""
        ...

    def write_register(self, offset: int, value: int, size: int) -> None:
        """Write 4 or 8 bytes at an offset from the register base."""
        ...

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """Let a device move data. `Transfer.host` may stay open until `settle`.

        Raises Unreachable when the platform's device cannot do that.
        """
        ...

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """Let a device with a device-TLB send a translation request or a translated request.

        Raises Unreachable when no device here can.
        """
        ...

    def settle(self) -> None:
        """Find out about the transfers still open. The unit may be turned off for it, so do it last."""
        ...


def stamp(page: int) -> bytes:
    """Four bytes that only the page at `page` is filled with; none of them is 0 or a byte that devices write."""
    number = page >> 12
    return bytes((0xA0 | number >> 12 & 15, 0xB0 | number >> 8 & 15, 0xC0 | number >> 4 & 15, 0xD0 | number & 15))


def page_of_stamp(data: bytes) -> int | None:
    """The page whose stamp `data` (four bytes, in phase) is, or None."""
    page = 0
    for byte in data:
        page = page << 4 | byte & 15
    return page << 12 if stamp(page << 12) == data else None


class ModelPlatform:
    """The machine with iommu's RemappingUnit in it.

    Args:
        capabilities: the unit's.
        policy: its use of freedom.
        unit: the class of the unit; another one describes a unit with known departures from the specification.
    """

    def __init__(
        self,
        capabilities: Capabilities | None = None,
        policy: Policy | None = None,
        unit: type[RemappingUnit] = RemappingUnit,
    ) -> None:
        self.name = "model"
        self.memory = FlatMemory(MEMORY_SIZE)
        self.unit = unit(self.memory, capabilities, policy)
        self.capabilities = self.unit.capabilities

    def reset(self) -> None:
        """See Platform."""
        self.unit.reset()

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        return self.unit.mmio_read(offset, size)

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        self.unit.mmio_write(offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform. The data moves for real, so what memory shows afterwards is what the outcome said."""
        transfer = Transfer(device, access, address, length)
        outcome = self.unit.translate(DmaRequest(DEVICES[device], address, access, length))
        if outcome.host_address is not None:
            transfer.host = self._move(access, outcome.host_address, length)
        return transfer

    def _move(self, access: Access, host: int, length: int) -> int | None:
        """Carry it out in memory. Beyond memory nothing moves, as on a bus where nobody answers."""
        if host + length > self.memory.size:
            return None
        if access is Access.WRITE:
            self.memory.write(host, b"\x96" * length)
            return host
        page = page_of_stamp(self.memory.read(host & ~3, 4))
        return None if page is None else page | host & 0xFFF

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """See Platform. `host` is the translation that was granted."""
        request = DmaRequest(DEVICES[device], address, Access.READ, 4, address_type=kind)
        return Transfer(device, Access.READ, address, 4, self.unit.translate(request).host_address)

    def settle(self) -> None:
        """See Platform. Nothing is ever open here."""
