"""The interface of a programmable DMA source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from qemu.vtd.errors import DeviceError
from qemu.vtd.pci import Pci, source_id
from qemu.vtd.pipeline import Pipeline
from qemu.vtd.qtest import Qtest


class Host(Protocol):
    """What a device needs from the machine it is plugged into."""

    @property
    def qtest(self) -> Qtest:
        """Access to the device's registers."""
        ...

    @property
    def pci(self) -> Pci:
        """PCI configuration, and the addresses of the BARs."""
        ...

    @property
    def memory(self) -> FlatMemory:
        """Guest RAM."""
        ...

    def bus_number(self, bus: str) -> int:
        """The number of the bus with this QEMU id."""
        ...


class DmaSource(ABC):
    """A device that reads and writes memory at addresses it is given.

    Args:
        slot: its PCI device number.
        function: its PCI function number. If it is not 0, function 0 of the slot needs `multifunction=on`.
        name: its QEMU id; by default made of the model and the slot.
        bus: the QEMU id of the bus it is on: "pcie.0", or the id of a port or bridge declared before it.
        options: further device properties, in QEMU's syntax ("multifunction=on").
    """

    model: ClassVar[str]
    """QEMU's name for the device model."""
    reads: ClassVar[bool]
    """Whether `dma_read` works."""
    writes: ClassVar[bool]
    """Whether `dma_write` works."""
    longest: ClassVar[int]
    """Maximum length of one DMA, in bytes."""

    def __init__(
        self, slot: int, function: int = 0, *, name: str | None = None, bus: str = "pcie.0", options: str = ""
    ) -> None:
        source_id(0, slot, function)
        self.slot, self.function, self.bus, self.options = slot, function, bus, options
        place = "" if bus == "pcie.0" else f"{bus}."
        self.name = name or f"{self.model}.{place}{slot:x}.{function}"
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """The machine it is plugged into. Raises DeviceError when there is none."""
        if self._host is None:
            raise DeviceError(f"{self.name} is not part of a running machine")
        return self._host

    @property
    def source_id(self) -> int:
        """Bus, device and function number: the requester id of its DMA."""
        bus = 0 if self.bus == "pcie.0" else self.host.bus_number(self.bus)
        return source_id(bus, self.slot, self.function)

    @property
    def registers(self) -> int:
        """Address of its register BAR."""
        return self.host.pci.bar(self.source_id, 0)

    def command_line(self) -> list[str]:
        """The QEMU arguments that add this device."""
        properties = self._properties()
        words = [self.model, f"id={self.name}", f"bus={self.bus}", f"addr={self.slot:02x}.{self.function}"]
        return ["-device", ",".join([*words, *properties, *([self.options] if self.options else [])])]

    def _properties(self) -> list[str]:
        return []

    def attach(self, host: Host) -> None:
        """Called once, when the machine has started and PCI has been set up."""
        self._host = host

    def resume(self, host: Host) -> None:
        """Called when the machine has been migrated to another QEMU, and PCI has been set up there again."""
        self._host = host

    def detach(self) -> None:
        """Called when the machine has ended."""
        self._host = None

    def setup(self) -> None:  # noqa: B027  # optional hook
        """Called after each reset, when PCI has been set up again and before translation is enabled."""

    @abstractmethod
    def pattern(self, length: int) -> bytes:
        """The bytes a `dma_write` of that length leaves in memory."""

    def dma_write(self, address: int, length: int) -> None:
        """Have the device write `pattern(length)` to `address`, and return when it has finished or been blocked.

        Raises MisuseError when the device cannot write, or not that many bytes; DeviceError when it does not finish.
        """
        raise MisuseError(f"{self.model} cannot write")

    def dma_read(self, address: int, length: int) -> None:
        """Have the device read from `address`, and return when it has finished or been blocked.

        Raises MisuseError when the device cannot read, or not that many bytes; DeviceError when it does not finish.
        """
        raise MisuseError(f"{self.model} cannot read")

    def send_msi(self, address: int, data: int) -> None:
        """Have the device send an interrupt, by its own means: a write of 4 bytes that carries its source-id.

        Raises MisuseError when the device cannot, or not with these data.
        """
        raise MisuseError(f"{self.model} cannot send interrupts")

    def check_length(self, length: int) -> None:
        """Raises MisuseError when the device cannot do a DMA of this length."""
        if not 0 < length <= self.longest:
            raise MisuseError(f"{self.model} moves 1 to {self.longest} bytes at a time, not {length}")


class SynchronousSource(DmaSource):
    """A device whose write has finished when the register access that starts it returns.

    Its writes can therefore be queued in a pipeline.
    """

    reads = False
    writes = True

    @abstractmethod
    def queue_write(self, pipeline: Pipeline, address: int, length: int) -> None:
        """Add the register accesses of one write to a pipeline. Raises MisuseError as `dma_write` does."""

    def dma_write(self, address: int, length: int) -> None:
        """Have the device write `pattern(length)` to `address`."""
        with self.host.qtest.pipeline() as pipeline:
            self.queue_write(pipeline, address, length)
