"""One interface with two implementations, the model and QEMU. Drivers and scenarios run on either.

A platform is a small machine: memory, one remapping unit, and devices that do DMA on command:

    A   00:04.0   reads and writes
    B   00:05.0   writes
    C   00:05.1   writes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, Self

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    Message,
    Policy,
    RemappingUnit,
    SourceId,
    VtdError,
)
from iommu.dmar import Dmar
from iommu.engine.request import PAGE_4K
from iommu.registers import CAP, ECAP, GCMD
from qemu.vtd.devices import DmaSource, Edu, Rocker
from qemu.vtd.machine import Machine

MEMORY_SIZE = 10 << 20
"""A platform's memory size in bytes."""

# Where the reading device dumps its buffer, away from the memory scenarios use.
_SCRATCH = 0x9F0000
_CHUNK = 0x4000

_EVENTS = ("vtd_ir_remap_msi", "vtd_irq_generate")
_REMAPPED = re.compile(r"vtd_ir_remap_msi \(.*\) -> \(addr (0x[0-9a-f]+), data (0x[0-9a-f]+)\)")
_OWN = re.compile(r"vtd_irq_generate addr (0x[0-9a-f]+) data (0x[0-9a-f]+)")

DEVICES = {"A": SourceId(0, 4, 0), "B": SourceId(0, 5, 0), "C": SourceId(0, 5, 1)}
"""The devices by name. A and B are separate devices; B and C are two functions of one device."""


class Unreachable(VtdError):
    """The platform cannot do what a scenario requires; the message says what is missing."""


@dataclass
class Transfer:
    """One DMA transfer of a device.

    Attributes:
        device: name of the device.
        access: read or write.
        address: the address in the request.
        length: in bytes.
        host: host address the data actually moved to or from; None when no data moved.
    """

    device: str
    access: Access
    address: int
    length: int
    host: int | None = None


class Platform(Protocol):
    """Memory, registers, devices.

    `memory` is what the devices and the unit access. Every page that DMA may reach is filled with its `stamp`, so
    that the data of a read identify the page they came from.
    """

    name: str
    memory: FlatMemory
    capabilities: Capabilities

    def reset(self) -> None:
        """Reset the unit, with empty caches, and the devices. Memory keeps its contents."""
        ...

    def read_register(self, offset: int, size: int) -> int:
        """Read 4 or 8 bytes at an offset from the register base."""
        ...

    def write_register(self, offset: int, value: int, size: int) -> None:
        """Write 4 or 8 bytes at an offset from the register base."""
        ...

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """Make a device move data. `Transfer.host` may be unknown until `settle`.

        The data a write has changed are restored once detected, so that repeating the write is detected again.

        Raises Unreachable when the platform's device cannot do this.
        """
        ...

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """Make a device with a device-TLB send a translation request or a translated request.

        Raises Unreachable when no device of the platform can.
        """
        ...

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """Make a device send an interrupt request, a write of 16 bits of data in the interrupt range.

        Returns the message that reaches the processors; None when the request is blocked.

        Raises Unreachable when the platform's device cannot do this.
        """
        ...

    def messages(self) -> list[Message]:
        """The messages that the unit has sent itself since the last call: fault and invalidation events."""
        ...

    def settle(self) -> None:
        """Determine `host` of the pending transfers. This may disable translation, so do it last."""
        ...


def stamp(page: int) -> bytes:
    """Four bytes unique to the page at `page`; none is 0 or a byte that devices write."""
    number = page >> 12
    return bytes((0xA0 | number >> 12 & 15, 0xB0 | number >> 8 & 15, 0xC0 | number >> 4 & 15, 0xD0 | number & 15))


def page_of_stamp(data: bytes) -> int | None:
    """The page whose stamp is `data` (four aligned bytes), or None."""
    page = 0
    for byte in data:
        page = page << 4 | byte & 15
    return page << 12 if stamp(page << 12) == data else None


class ModelPlatform:
    """A platform around iommu's RemappingUnit.

    Args:
        capabilities: of the unit.
        policy: the choices that the specification leaves to hardware.
        unit: the class of the unit; a subclass can model known departures from the specification.
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
        """See Platform. The access is performed in memory at the translated address."""
        transfer = Transfer(device, access, address, length)
        outcome = self.unit.translate(DmaRequest(DEVICES[device], address, access, length))
        if outcome.host_address is not None:
            transfer.host = self._move(access, outcome.host_address, length)
        return transfer

    def _move(self, access: Access, host: int, length: int) -> int | None:
        """Perform the access. Beyond memory nothing moves, as on a bus where no device responds."""
        if host + length > self.memory.size:
            return None
        if access is Access.WRITE:
            before = self.memory.read(host, length)
            self.memory.write(host, b"\x96" * length)
            self.memory.write(host, before)
            return host
        page = page_of_stamp(self.memory.read(host & ~3, 4))
        return None if page is None else page | host & 0xFFF

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """See Platform. `host` is the resulting host address."""
        request = DmaRequest(DEVICES[device], address, Access.READ, 4, address_type=kind)
        return Transfer(device, Access.READ, address, 4, self.unit.translate(request).host_address)

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        return self.unit.remap_interrupt(InterruptRequest(DEVICES[device], address, data)).message

    def messages(self) -> list[Message]:
        """See Platform."""
        return self.unit.drain_events()

    def settle(self) -> None:
        """See Platform. No transfer is ever pending here."""


class QemuPlatform:
    """A platform in QEMU: A is an edu, B and C are rockers.

    Use it in a with-block; QEMU ends with the block.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.
        properties: of intel-iommu, by their QEMU name.

    Attributes:
        machine: the QEMU machine.
    """

    def __init__(
        self, qemu: str | None = None, properties: Mapping[str, str | int | bool] = MappingProxyType({})
    ) -> None:
        self._reader = Edu(4)
        self._devices: dict[str, DmaSource] = {
            "A": self._reader,
            "B": Rocker(5, options="multifunction=on"),
            "C": Rocker(5, 1),
        }
        self.machine = Machine(
            qemu, memory=MEMORY_SIZE, iommu=properties, devices=list(self._devices.values()), trace=_EVENTS
        )
        self.name = f"QEMU {'.'.join(map(str, self.machine.version))}"
        self._pending: list[Transfer] = []
        self._remapped: list[Message] = []
        self._own: list[Message] = []
        self._slots_used = 0
        # All of memory before and after a write. The buffers are reused, for allocating them is most of the cost.
        self._before, self._after = bytearray(MEMORY_SIZE), bytearray(MEMORY_SIZE)

    def __enter__(self) -> Self:
        self.machine.__enter__()
        try:
            self._base = self.machine.register_base
            self.memory = self.machine.memory
            host_width = Dmar.parse(self.machine.dmar(), strict=False).header.host_address_width + 1
            cap, ecap = self.read_register(CAP.offset, 8), self.read_register(ECAP.offset, 8)
            self.capabilities = Capabilities.from_registers(cap, ecap, host_width)
        except BaseException:
            self.machine.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    def reset(self) -> None:
        """See Platform. The reader's slots are cleared, so that old data cannot be taken for a new read."""
        self.machine.reset()
        self._trace()
        self._remapped, self._own = [], []
        self._pending.clear()
        if self._slots_used:
            self.memory.write(_SCRATCH, bytes(PAGE_4K))
            for slot in range(self._slots_used):
                self._reader.dma_read(_SCRATCH, 4, slot)
            self._slots_used = 0

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        return self.machine.qtest.read(self._base + offset, size)

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        self.machine.qtest.write(self._base + offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform. `host` of a write is known immediately, that of a read only after `settle`."""
        transfer = Transfer(device, access, address, length)
        source = self._devices[device]
        if access is Access.WRITE:
            self.memory.copy_to(self._before)
            source.dma_write(address, length)
            self.memory.copy_to(self._after)
            written = _find_write(self._before, self._after, source.pattern(length))
            if written is not None:
                transfer.host, overwritten = written
                self.memory.write(transfer.host, overwritten)
            return transfer
        if source is not self._reader:
            raise Unreachable(f"device {device} ({source.model}) cannot read")
        self._reader.dma_read(address, length, self._slots_used)
        self._slots_used += 1
        self._pending.append(transfer)
        return transfer

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """See Platform."""
        raise Unreachable("no device that QEMU emulates sends translation requests or translated requests")

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform. QEMU's trace shows what the remapping made of the request, and nothing when it blocked it."""
        if self._devices[device] is not self._reader:
            raise Unreachable(f"device {device} ({self._devices[device].model}) cannot be told what to send as MSI")
        self._trace()
        self._remapped.clear()
        self._reader.send_msi(address, data)
        remapped, self._remapped = self._trace(), []
        if len(remapped) > 1:
            raise VtdError(f"{self.name}: one interrupt request of {device} became {len(remapped)} messages")
        return remapped[0] if remapped else None

    def messages(self) -> list[Message]:
        """See Platform."""
        self._trace()
        own, self._own = self._own, []
        return own

    def _trace(self) -> list[Message]:
        """Read the trace: the messages of devices that the unit has passed on, and those that it has sent itself."""
        for line in self.machine.trace_lines():
            if (found := _REMAPPED.search(line)) is not None:
                self._remapped.append(Message(int(found[1], 16), int(found[2], 16)))
            elif (found := _OWN.search(line)) is not None:
                self._own.append(Message(int(found[1], 16), int(found[2], 16)))
        return self._remapped

    def settle(self) -> None:
        """See Platform. Translation is disabled, so that the reader can dump its buffer."""
        if not self._pending:
            return
        self.write_register(GCMD.offset, 0, 4)
        self._reader.dump_buffer(_SCRATCH)
        for slot, transfer in enumerate(self._pending):
            seen = self.memory.read(_SCRATCH + self._reader.slot_offset(slot), 4)
            page = page_of_stamp(seen)
            transfer.host = None if page is None else page | transfer.address & 0xFFF
        self._pending.clear()


def _find_write(before: bytearray, after: bytearray, pattern: bytes) -> tuple[int, bytes] | None:
    """Address where `pattern` was written, and the bytes it replaced; None when nothing changed. Modifies `before`.

    Raises VtdError when anything else changed, so that a stray write is never missed.
    """
    if before == after:
        return None
    chunk = next(at for at in range(0, len(before), _CHUNK) if before[at : at + _CHUNK] != after[at : at + _CHUNK])
    first = next(at for at in range(chunk, chunk + _CHUNK) if before[at] != after[at])
    overwritten = bytes(before[first : first + len(pattern)])
    before[first : first + len(pattern)] = pattern
    if before != after:
        raise VtdError(f"a DMA of {len(pattern)} bytes changed memory at {first:#x} unexpectedly")
    return first, overwritten
