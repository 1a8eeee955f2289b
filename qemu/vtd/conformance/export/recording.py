"""Platforms that record what a scenario does to them, step by step: the model with values, QEMU with qtest lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from iommu import Access, Capabilities, FlatMemory, Message, Policy, RemappingUnit, VtdError
from iommu.engine.request import PAGE_4K
from qemu.vtd.pci import Pci
from qemu.vtd.platform import ModelPlatform, Transfer
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.qtest import Qtest
from qemu.vtd.topology import Topology


class NotExportable(VtdError):
    """A scenario that does more than qtest commands can."""


Exchanged = tuple[str, str]
"""A qtest command and its answer."""


@dataclass
class Step:
    """One thing that a scenario did to a platform.

    Attributes:
        kind: "set-up"; "memory" and "look", which write and read memory; "write" and "read", of registers; "dma",
            "interrupt", "written" (an interrupt by DMA), "pin", "messages", "renumber", "settle", as Platform has
            them; "other", for what else there is.
        about: the arguments. A step of the same kind with the same arguments on two platforms is the same step.
        value: what a register read as.
        data: what a look at memory has found.
        changed: whether that is not what software wrote there last.
        transfer: of a DMA; the destination may be known only when the scenario has ended.
        messages: the interrupt messages that were seen.
        lines: on QEMU, the qtest commands that did it.
        device: on QEMU, the device that does a DMA or sends an interrupt: its model and source-id.
        pattern: on QEMU, the bytes that a DMA writes; empty for a read.
        replaced: on QEMU, the bytes that the DMA has overwritten. They are restored after the step.
    """

    kind: str
    about: tuple[Any, ...]
    value: int = 0
    data: bytes = b""
    changed: bool = False
    transfer: Transfer | None = None
    messages: list[Message] = field(default_factory=list)
    lines: list[Exchanged] = field(default_factory=list)
    device: str = ""
    pattern: bytes = b""
    replaced: bytes = b""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the same step on two platforms."""
        return self.kind, self.about


def write_command(address: int, data: bytes) -> str:
    """The qtest command that writes to memory."""
    if len(data) > 16 and data == data[:1] * len(data):
        return f"memset {address:#x} {len(data):#x} {data[0]:#x}"
    return f"write {address:#x} {len(data):#x} 0x{data.hex()}"


class Recording:
    """The steps so far, in order. What is done within a step belongs to it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.current: Step | None = None

    @contextmanager
    def step(self, kind: str, *about: object) -> Iterator[Step]:
        """Record a step: what the with-block does, unless a step is under way, which then is the one returned."""
        if self.current is not None:
            yield self.current
            return
        self.current = Step(kind, about)
        self.steps.append(self.current)
        try:
            yield self.current
        finally:
            self.current = None


class RecordedMemory(FlatMemory):
    """The memory of a platform, recorded as software accesses it: the unit and the devices use the memory itself."""

    def __init__(self, memory: FlatMemory, recording: Recording) -> None:
        super().__init__(memory._bytes)
        self._recording = recording
        self._written = bytearray(memory.size)

    def read(self, address: int, length: int) -> bytes:
        """See FlatMemory."""
        data = super().read(address, length)
        with self._recording.step("look", address, length) as step:
            if step.kind == "look":
                step.data, step.changed = data, data != self._written[address : address + length]
            elif step.kind == "settle":
                step.lines.append((f"read {address:#x} {length:#x}", f"0x{data.hex()}"))
        return data

    def read_u64(self, address: int) -> int:
        """See FlatMemory."""
        return int.from_bytes(self.read(address, 8), "little")

    def write(self, address: int, data: bytes) -> None:
        """See FlatMemory."""
        with self._recording.step("memory", address, data) as step:
            # What a DMA has overwritten is restored after its step.
            if step.kind != "dma" and super().read(address, len(data)) != data:
                step.lines.append((write_command(address, data), ""))
        super().write(address, data)
        self._written[address : address + len(data)] = data


class RecordedModel(ModelPlatform):
    """The model, recorded.

    Attributes:
        recording: the steps.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        topology: Topology,
        policy: Policy | None = None,
        unit: type[RemappingUnit] = RemappingUnit,
    ) -> None:
        super().__init__(capabilities, policy, unit, topology)
        self.recording = Recording()
        self.memory = RecordedMemory(self.memory, self.recording)

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        with self.recording.step("read", offset, size) as step:
            step.value = super().read_register(offset, size)
        return step.value

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        with self.recording.step("write", offset, value, size):
            super().write_register(offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform."""
        with self.recording.step("dma", device, access, address, length) as step:
            step.transfer = super().dma(device, access, address, length)
        return step.transfer

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """See Platform."""
        with self.recording.step("other", "sweep", device, *addresses) as step:
            super().sweep(device, addresses)
            step.transfer = None

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        with self.recording.step("interrupt", device, address, data) as step:
            message = super().interrupt(device, address, data)
            step.messages = [] if message is None else [message]
        return message

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """See Platform."""
        with self.recording.step("written", device, address, length) as step:
            step.messages = super().write_interrupt(device, address, length)
        return step.messages

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform."""
        with self.recording.step("pin", pin, entry) as step:
            message = super().pin(pin, entry)
            step.messages = [] if message is None else [message]
        return message

    def messages(self) -> list[Message]:
        """See Platform."""
        with self.recording.step("messages") as step:
            step.messages = super().messages()
        return step.messages


class RecordedQemu(QemuPlatform):
    """A QEMU, recorded from its start: the lines of all steps have the same effect on another one just started.

    A scenario that does more than qtest commands can, such as a reset, raises NotExportable.

    Attributes:
        recording: the steps.
    """

    def __init__(self, qemu: str | None, properties: Mapping[str, str | int | bool], topology: Topology) -> None:
        super().__init__(qemu, properties, topology)
        self.recording = Recording()

    def __enter__(self) -> Self:
        super().__enter__()
        self.machine.qtest.watch = self._on_exchange
        self.recording = Recording()
        self.memory = RecordedMemory(self.machine.memory, self.recording)
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.release()
        super().__exit__()

    def _on_exchange(self, lines: Sequence[str], answers: Sequence[str]) -> None:
        with self.recording.step("other", *lines) as step:
            step.lines += zip(lines, answers, strict=True)

    def reset(self) -> None:
        """Set up PCI and the devices, as on a machine that was just started, which this one is."""
        if self.recording.steps:
            raise NotExportable("a scenario that resets the machine cannot be exported: qtest has no command for it")
        with self.recording.step("set-up", ""):
            self.machine.pci.set_up()
        for name, device in self._devices.items():
            with self.recording.step("set-up", name) as step:
                step.device = self._named(name)
                device.attach(_RecordedHost(self))
                device.setup()

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        with self.recording.step("read", offset, size) as step:
            value = super().read_register(offset, size)
            step.value = value
        return value

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        with self.recording.step("write", offset, value, size):
            super().write_register(offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform."""
        before = self.machine.ram.pages()
        with self.recording.step("dma", device, access, address, length) as step:
            step.device = self._named(device)
            step.transfer = super().dma(device, access, address, length)
            if access is Access.WRITE:
                step.pattern = self._devices[device].pattern(length)
                if (host := step.transfer.host) is not None:
                    pages = (before.get(at & -PAGE_4K, bytes(PAGE_4K)) for at in range(host, host + length))
                    step.replaced = bytes(page[(host + n) % PAGE_4K] for n, page in enumerate(pages))
        return step.transfer

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """See Platform."""
        with self.recording.step("other", "sweep", device, *addresses):
            super().sweep(device, addresses)

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        with self.recording.step("interrupt", device, address, data) as step:
            step.device = self._named(device)
            message = super().interrupt(device, address, data)
            step.messages = [] if message is None else [message]
        return message

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """See Platform."""
        with self.recording.step("written", device, address, length) as step:
            step.device = self._named(device)
            step.messages = super().write_interrupt(device, address, length)
        return step.messages

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform."""
        with self.recording.step("pin", pin, entry) as step:
            message = super().pin(pin, entry)
            step.messages = [] if message is None else [message]
        return message

    def messages(self) -> list[Message]:
        """See Platform."""
        with self.recording.step("messages") as step:
            step.messages = super().messages()
        return step.messages

    def renumber(self, bus: str, number: int) -> None:
        """See Platform."""
        with self.recording.step("renumber", bus, number):
            super().renumber(bus, number)

    def restart(self) -> None:
        """Not possible."""
        raise NotExportable("a scenario that resets the machine cannot be exported: qtest has no command for it")

    def migrate(self) -> None:
        """Not possible."""
        raise NotExportable("a scenario that migrates the machine cannot be exported: qtest has no command for it")

    def settle(self) -> None:
        """See Platform."""
        with self.recording.step("settle"):
            super().settle()

    def _named(self, device: str) -> str:
        """A device as the script calls it: "edu (00:04.0)"."""
        return f"{self._devices[device].model} ({self.source_ids[device]})"


class _RecordedHost:
    """The machine as its devices see it, with the recorded memory."""

    def __init__(self, platform: RecordedQemu) -> None:
        self._platform = platform

    @property
    def qtest(self) -> Qtest:
        """See Host."""
        return self._platform.machine.qtest

    @property
    def pci(self) -> Pci:
        """See Host."""
        return self._platform.machine.pci

    @property
    def memory(self) -> FlatMemory:
        """See Host."""
        return self._platform.memory

    def bus_number(self, bus: str) -> int:
        """See Host."""
        return self._platform.machine.bus_number(bus)
