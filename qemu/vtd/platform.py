"""One interface with two implementations, the model and QEMU. Drivers and scenarios run on either.

A platform is a small machine: memory, one remapping unit, and devices that do DMA on command. Which devices they are
is its topology's matter; see `qemu.vtd.topology`.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    Message,
    OddAccess,
    Policy,
    RemappingUnit,
    SourceId,
    VtdError,
)
from iommu.engine.invalidation.selector import Selector
from qemu.vtd.ram import Change
from qemu.vtd.topology import IO_APIC, PLAIN, Topology

MEMORY_SIZE = 10 << 20
"""A platform's memory size in bytes."""

DEVICES = PLAIN.source_ids
"""The devices of the plain topology, by name."""


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
        changes: what else changed in memory: entries in which the unit set bits, or what no transfer may change.
    """

    device: str
    access: Access
    address: int
    length: int
    host: int | None = None
    changes: list[Change] = field(default_factory=list)


class Platform(Protocol):
    """Memory, registers, devices.

    `memory` is what the devices and the unit access. Every page that DMA may reach is filled with its `stamp`, so
    that the data of a read identify the page they came from.
    """

    name: str
    memory: FlatMemory
    capabilities: Capabilities
    topology: Topology
    source_ids: dict[str, SourceId]
    """The devices' source-ids by name; those of the topology, until a bus is renumbered."""

    def reset(self) -> None:
        """Reset the unit, with empty caches, and the devices; clear memory."""
        ...

    def read_register(self, offset: int, size: int) -> int:
        """Read 4 or 8 bytes at an offset from the register base, aligned.

        Other accesses, of 1 or 2 bytes or unaligned, are possible too; what they do is not defined (spec 11.2).
        """
        ...

    def write_register(self, offset: int, value: int, size: int) -> None:
        """Write 4 or 8 bytes at an offset from the register base, aligned; for other accesses see `read_register`."""
        ...

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """Make a device move data. `Transfer.host` may be unknown until `settle`.

        The data a write has changed are restored once detected, so that repeating the write is detected again.

        Raises Unreachable when the platform's device cannot do this.
        """
        ...

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """Make a device write 4 bytes at each address, one after the other, unseen: where they go is not determined.

        Raises Unreachable when the platform's device cannot do this.
        """
        ...

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """Make a device with a device-TLB send a translation request or a translated request.

        Raises Unreachable when no device of the platform can.
        """
        ...

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """Make a device send an interrupt request as MSI: a write of data in the interrupt range.

        Returns the message that reaches the processors; None when the request is blocked.

        Raises Unreachable when the platform's device cannot do this, or not with these data.
        """
        ...

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """Make a device write its pattern in the interrupt range by ordinary DMA.

        Returns the messages that reach the processors.
        """
        ...

    def pin(self, pin: int, entry: int) -> Message | None:
        """Raise and drop an input of the I/O APIC, with this 64-bit redirection entry.

        Returns the message that reaches the processors; None when the request is blocked.
        """
        ...

    def messages(self) -> list[Message]:
        """The messages that the unit has sent itself since the last call: fault and invalidation events."""
        ...

    def restart(self) -> None:
        """Reset the machine in the middle of a scenario: the unit and the devices, as `reset` does. Memory stays."""
        ...

    def migrate(self) -> None:
        """Move to a second machine, as a virtual machine is migrated: registers and memory go along, caches do not.

        `memory` may be another object afterwards.
        """
        ...

    def renumber(self, bus: str, number: int) -> None:
        """Give the bus with this QEMU id, behind a port, another number, until the next reset."""
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


def request_of_pin(entry: int) -> InterruptRequest:
    """The request that an I/O APIC makes of a redirection entry.

    Entry bits 63:48 go to address bits 19:4, bit 11 to address bit 2; vector, delivery and trigger mode are data.
    In the remappable format that is index 14:0 with the format bit, and index 15 (spec 5.1.5.1).
    """
    address = 0xFEE0_0000 | (entry >> 48 & 0xFFFF) << 4 | (entry >> 11 & 1) << 2
    return InterruptRequest(IO_APIC, address, entry & 0x7FF | (entry >> 15 & 1) << 15)


def renumbered(topology: Topology, bus: str, number: int) -> dict[str, SourceId]:
    """The source-ids of the devices on a bus, once it has this number."""
    return {place.name: SourceId.of(number << 8 | place.source_id.devfn) for place in topology.on_bus(bus)}


@runtime_checkable
class FollowsDevices(Protocol):
    """A part of a unit that knows a device otherwise than by its source-id, as no hardware can."""

    def follow(self, old: SourceId, new: SourceId) -> None:
        """A device has got another source-id."""
        ...


class _Journal:
    """Memory as the unit accesses it, with a record of what it changes."""

    def __init__(self, memory: FlatMemory) -> None:
        self._memory = memory
        self._before: dict[int, int] = {}
        # The unit reads memory all the time: these calls go straight to it.
        self.read = memory.read
        self.read_u64 = memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See Memory."""
        for word in range(address & ~7, address + len(data), 8):
            if word + 8 <= self._memory.size:
                self._before.setdefault(word, self._memory.read_u64(word))
        self._memory.write(address, data)

    def start(self) -> None:
        """Drop the changes so far."""
        self._before.clear()

    def changes(self) -> list[Change]:
        """The words changed since `start`, in the order of their addresses."""
        now = [Change(word, before, self._memory.read_u64(word)) for word, before in sorted(self._before.items())]
        return [change for change in now if change.before != change.after]


class ModelPlatform:
    """A platform around iommu's RemappingUnit. Register accesses that are not defined (11.2) are ignored.

    Args:
        capabilities: of the unit.
        policy: the choices that the specification leaves to hardware.
        unit: the class of the unit; a subclass can model known departures from the specification.
        topology: the devices.
    """

    def __init__(
        self,
        capabilities: Capabilities | None = None,
        policy: Policy | None = None,
        unit: type[RemappingUnit] = RemappingUnit,
        topology: Topology = PLAIN,
    ) -> None:
        self.name = "model"
        self.topology, self.source_ids = topology, topology.source_ids
        self._pages = mmap.mmap(-1, MEMORY_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory = FlatMemory(self._pages)
        self._journal = _Journal(self.memory)
        self.unit = unit(self._journal, capabilities, replace(policy or Policy(), odd_accesses=OddAccess.IGNORED))
        self.capabilities = self.unit.capabilities

    def reset(self) -> None:
        """See Platform."""
        self.unit.reset()
        self._pages.madvise(mmap.MADV_DONTNEED)
        self.source_ids = self.topology.source_ids

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        return self.unit.mmio_read(offset, size)

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        self.unit.mmio_write(offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform. The access is performed in memory at the translated address."""
        transfer = Transfer(device, access, address, length)
        self._journal.start()
        outcome = self.unit.translate(DmaRequest(self.source_ids[device], address, access, length))
        if outcome.interrupt:
            self._interrupts(device, address, length)
        elif outcome.host_address is not None:
            transfer.host = self._move(access, outcome.host_address, length)
        transfer.changes = self._journal.changes()
        return transfer

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """See Platform."""
        for address in addresses:
            self.dma(device, Access.WRITE, address)

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
        request = DmaRequest(self.source_ids[device], address, Access.READ, 4, address_type=kind)
        return Transfer(device, Access.READ, address, 4, self.unit.translate(request).host_address)

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        return self.unit.remap_interrupt(InterruptRequest(self.source_ids[device], address, data)).message

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """See Platform. Whether the write is an interrupt request is for the unit to say."""
        interrupt = self.unit.translate(DmaRequest(self.source_ids[device], address, Access.WRITE, length)).interrupt
        return self._interrupts(device, address, length) if interrupt else []

    def _interrupts(self, device: str, address: int, length: int) -> list[Message]:
        """Perform a write that the unit takes for interrupt requests, one for each DWORD.

        The specification takes a write for one only if it is one aligned DWORD; a known departure may take others.
        """
        data, messages = self.topology.pattern(device, length), []
        for at in range(0, length, 4):
            value = int.from_bytes(data[at : at + 4], "little")
            request = InterruptRequest(self.source_ids[device], address + at, value)
            messages.append(self.unit.remap_interrupt(request).message)
        return [message for message in messages if message is not None]

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform."""
        return self.unit.remap_interrupt(request_of_pin(entry)).message

    def messages(self) -> list[Message]:
        """See Platform."""
        return self.unit.drain_events()

    def restart(self) -> None:
        """See Platform."""
        self.unit.reset()
        self.source_ids = self.topology.source_ids

    def migrate(self) -> None:
        """See Platform. There is no second machine: the unit loses what it has cached, and keeps all else."""
        self.unit.caches.invalidate_dma()
        self.unit.caches.invalidate(Selector.interrupts())

    def renumber(self, bus: str, number: int) -> None:
        """See Platform. To the unit, a device with another source-id is another device, unless a part follows it."""
        moved = renumbered(self.topology, bus, number)
        legacy = self.unit.translation.legacy
        if isinstance(legacy, FollowsDevices):
            for name, source_id in moved.items():
                legacy.follow(self.source_ids[name], source_id)
        self.source_ids |= moved

    def settle(self) -> None:
        """See Platform. No transfer is ever pending here."""
