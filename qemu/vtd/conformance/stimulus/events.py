"""A recording of one scenario on the model: a platform that notes what software and devices do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    FlatMemory,
    InterruptOutcome,
    InterruptRequest,
    Message,
    Outcome,
    RemappingUnit,
)
from iommu.engine.interrupts.remapping import Interrupts
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.platform import ModelPlatform, Transfer

LARGEST_ENTRY = 64
"""The bytes of the largest structure that software writes: a PASID-table entry."""


@dataclass(frozen=True)
class MemoryWritten:
    """Software changed memory: `length` bytes at `address`.

    `before` and `after` are what the whole entries around it hold: from `start` on, which is aligned to the largest
    entry.
    """

    address: int
    length: int
    start: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class RegisterWritten:
    """Software wrote `size` bytes at an offset of the register window."""

    offset: int
    size: int
    value: int


@dataclass(frozen=True)
class RegisterRead:
    """Software read `size` bytes at an offset of the register window."""

    offset: int
    size: int
    value: int


@dataclass(frozen=True)
class Requested:
    """A device sent a DMA, translation or translated request. `outcome` has the steps of its walk."""

    device: str
    request: DmaRequest
    outcome: Outcome


@dataclass(frozen=True)
class Interrupted:
    """A device sent an interrupt request. `entry` is the one the unit used: its index and value; None without one."""

    device: str
    request: InterruptRequest
    outcome: InterruptOutcome
    entry: tuple[int, int] | None


@dataclass(frozen=True)
class Told:
    """The machine was told something else: `what`, in words."""

    what: str


Event = MemoryWritten | RegisterWritten | RegisterRead | Requested | Interrupted | Told


class _NotingInterrupts(Interrupts):
    """Interrupt remapping that keeps the entry it used last."""

    used: tuple[int, int] | None = None

    def entry(self, index: int) -> int:
        """See Interrupts."""
        raw = super().entry(index)
        self.used = index, raw
        return raw


class _NotingUnit(RemappingUnit):
    """A unit that records the steps of each walk, and keeps the last request of each kind with its outcome."""

    Interrupts = _NotingInterrupts
    last: tuple[DmaRequest, Outcome]
    last_interrupt: tuple[InterruptRequest, InterruptOutcome, tuple[int, int] | None]

    def translate(self, request: DmaRequest, *, trace: bool = True) -> Outcome:
        """See RemappingUnit."""
        outcome = super().translate(request, trace=trace)
        self.last = request, outcome
        return outcome

    def remap_interrupt(self, request: InterruptRequest) -> InterruptOutcome:
        """See RemappingUnit."""
        assert isinstance(self.interrupts, _NotingInterrupts)
        self.interrupts.used = None
        outcome = super().remap_interrupt(request)
        self.last_interrupt = request, outcome, self.interrupts.used
        return outcome


class _SoftwareMemory(FlatMemory):
    """Memory as software sees it: the same bytes as `behind`; each change is noted, unless `paused`."""

    def __init__(self, behind: FlatMemory, note: Callable[[MemoryWritten], None]) -> None:
        super().__init__(behind._bytes)
        self._note, self.paused = note, False

    def write(self, address: int, data: bytes) -> None:
        """See FlatMemory."""
        if self.paused:
            super().write(address, data)
            return
        start = address & -LARGEST_ENTRY
        length = (address + len(data) - start + LARGEST_ENTRY - 1) & -LARGEST_ENTRY
        before = self.read(start, length)
        super().write(address, data)
        after = self.read(start, length)
        if after != before:
            self._note(MemoryWritten(address, len(data), start, before, after))


class RecordingPlatform(ModelPlatform):
    """The model, with a recording of what software and devices do: `events`."""

    def __init__(self, scenario: Scenario) -> None:
        self.events: list[Event] = []
        super().__init__(scenario.setup.capabilities, unit=_NotingUnit, topology=scenario.setup.topology)
        assert isinstance(self.unit, _NotingUnit)
        self._unit = self.unit
        # The unit goes on using the memory behind: what it writes itself is not recorded.
        self.memory = self._software = _SoftwareMemory(self.memory, self.events.append)

    def reset(self) -> None:
        """See Platform."""
        super().reset()
        self.events.append(Told("reset"))

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        value = super().read_register(offset, size)
        self.events.append(RegisterRead(offset, size, value))
        return value

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        self.events.append(RegisterWritten(offset, size, value))
        super().write_register(offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform."""
        self._software.paused = True
        transfer = super().dma(device, access, address, length)
        self._software.paused = False
        self.events.append(Requested(device, *self._unit.last))
        return transfer

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """See Platform. It is one event, whatever each write does."""
        self._software.paused = True
        for address in addresses:
            super().dma(device, Access.WRITE, address)
        self._software.paused = False
        self.events.append(Told(f"{device} writes at {len(addresses)} addresses from {addresses[0]:#x} on"))

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """See Platform."""
        transfer = super().translation_request(device, address, kind)
        self.events.append(Requested(device, *self._unit.last))
        return transfer

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        message = super().interrupt(device, address, data)
        self.events.append(Interrupted(device, *self._unit.last_interrupt))
        return message

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """See Platform. A write that is not an interrupt request is a DMA request."""
        messages = super().write_interrupt(device, address, length)
        request, outcome = self._unit.last
        if outcome.interrupt:
            self.events.append(Interrupted(device, *self._unit.last_interrupt))
        else:
            self.events.append(Requested(device, request, outcome))
        return messages

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform."""
        message = super().pin(pin, entry)
        self.events.append(Interrupted(f"I/O APIC pin {pin}", *self._unit.last_interrupt))
        return message

    def messages(self) -> list[Message]:
        """See Platform. Watching is not recorded."""
        return super().messages()

    def restart(self) -> None:
        """See Platform."""
        super().restart()
        self.events.append(Told("reset; memory stays"))

    def migrate(self) -> None:
        """See Platform."""
        super().migrate()
        self.events.append(Told("migration to another machine"))

    def renumber(self, bus: str, number: int) -> None:
        """See Platform."""
        super().renumber(bus, number)
        self.events.append(Told(f"bus {bus} gets number {number:#04x}"))

    def settle(self) -> None:
        """See Platform. Watching is not recorded."""
        super().settle()


@dataclass(frozen=True)
class Recording:
    """One run of a scenario: what software and devices did, and the lines that were observed."""

    events: tuple[Event, ...]
    lines: tuple[str, ...]
    capabilities: Capabilities


def record(scenario: Scenario) -> Recording:
    """Run a scenario on the model, and record it."""
    platform = RecordingPlatform(scenario)
    lines = scenario.run(platform)
    return Recording(tuple(platform.events), lines, platform.capabilities)
