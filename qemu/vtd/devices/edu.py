"""edu: a teaching device with a 4 KiB buffer, the only source that both reads and writes. In every QEMU version."""

from __future__ import annotations

import time

from iommu.errors import MisuseError
from qemu.vtd.devices.source import DmaSource, Host
from qemu.vtd.errors import DeviceError
from qemu.vtd.pipeline import Answer, Pipeline

_SOURCE = 0x80
_DESTINATION = 0x88
_COUNT = 0x90
_COMMAND = 0x98
_RAISE = 0x60
_ACKNOWLEDGE = 0x64
_RUN = 1
_TO_MEMORY = 2
# The buffer's address in the device's DMA source and destination registers.
_BUFFER = 0x40000
# The MSI capability, with a 64-bit address: control, address, upper address, data.
_MSI = 0x40
_MSI_ENABLE = 1
_ALL_ADDRESSES = 0xFFFFFFFFFFFFFFFF

# A transfer takes 100 ms of virtual time, which costs no real time when the clock skips idle time.
_SECONDS = 5.0


class Edu(DmaSource):
    """Reads and writes at any 64-bit address.

    The buffer holds the pattern that writes send, then `SLOTS` slots of `SLOT_SIZE` bytes for the data that reads
    fetch. A read longer than one slot continues into the next. The buffer survives a machine reset.
    """

    model = "edu"
    reads = True
    writes = True
    longest = 1024

    # The device has 4096 bytes, but its bounds check refuses a transfer that includes the last one.
    BUFFER_SIZE = 4095
    SLOT_SIZE = 64
    SLOTS = (BUFFER_SIZE - longest) // SLOT_SIZE

    def _properties(self) -> list[str]:
        return [f"dma_mask={_ALL_ADDRESSES:#x}"]

    _lost = False

    def attach(self, host: Host) -> None:
        """Load the pattern into the buffer."""
        super().attach(host)
        self._load()

    def resume(self, host: Host) -> None:
        """The buffer is empty now. Loading it takes a DMA, which may be translated: that waits for the next reset."""
        super().resume(host)
        self._lost = True

    def setup(self) -> None:
        """Load the pattern, if a migration has lost it."""
        if self._lost:
            self._load()

    def _load(self) -> None:
        """Load the pattern, through a piece of RAM that is then restored."""
        self._lost = False
        host = self.host
        staging = host.memory.size - self.longest
        before = host.memory.read(staging, self.longest)
        host.memory.write(staging, self.pattern(self.longest))
        self._transfer(staging, _BUFFER, self.longest, _RUN)
        host.memory.write(staging, before)

    def pattern(self, length: int) -> bytes:
        """Bytes 1 to 251, repeated: none is 0, and each shows its position. From a migration to a reset, zeros."""
        return bytes(length) if self._lost else bytes(index % 251 + 1 for index in range(length))

    def slot_offset(self, slot: int) -> int:
        """Offset of a slot in the buffer. Raises MisuseError when there is no such slot."""
        if not 0 <= slot < self.SLOTS:
            raise MisuseError(f"slot {slot} is not one of 0 to {self.SLOTS - 1}")
        return self.longest + slot * self.SLOT_SIZE

    def dma_write(self, address: int, length: int) -> None:
        """Have the device write `pattern(length)` to `address`."""
        self.check_length(length)
        self._transfer(_BUFFER, address, length, _RUN | _TO_MEMORY)

    def dma_read(self, address: int, length: int, slot: int = 0) -> None:
        """Have the device read from `address` into its buffer, starting at `slot`. Blocked reads return 0."""
        self.check_length(length)
        offset = self.slot_offset(slot)
        if offset + length > self.BUFFER_SIZE:
            raise MisuseError(f"{length} bytes starting at slot {slot} exceed the buffer")
        self._transfer(address, _BUFFER + offset, length, _RUN)

    def clear_slots(self, zeros: int, count: int) -> None:
        """Fill the first `count` slots from memory at `zeros`, where there have to be `longest` bytes that are 0."""
        per_read = self.longest // self.SLOT_SIZE
        for slot in range(0, count, per_read):
            self.dma_read(zeros, self.SLOT_SIZE * min(per_read, count - slot), slot)

    def dump_buffer(self, address: int) -> None:
        """Have the device write its whole buffer, `BUFFER_SIZE` bytes, to `address`: the only way to read it."""
        self._transfer(_BUFFER, address, self.BUFFER_SIZE, _RUN | _TO_MEMORY)

    def send_msi(self, address: int, data: int) -> None:
        """Have the device send an MSI. Its data have 16 bits."""
        pci, source = self.host.pci, self.source_id
        pci.write(source, _MSI + 4, address & 0xFFFFFFFF, 4)
        pci.write(source, _MSI + 8, address >> 32, 4)
        pci.write(source, _MSI + 12, data, 2)
        pci.write(source, _MSI + 2, pci.read(source, _MSI + 2, 2) | _MSI_ENABLE, 2)
        with self.host.qtest.pipeline() as pipeline:
            pipeline.write(self.registers + _RAISE, 1, 4)
            pipeline.write(self.registers + _ACKNOWLEDGE, 1, 4)

    def _transfer(self, source: int, destination: int, count: int, command: int) -> None:
        """Start a transfer and wait for it to finish.

        Callers check the bounds: a transfer outside the buffer aborts QEMU or overruns its memory.
        """
        qtest, base = self.host.qtest, self.registers
        with qtest.pipeline() as pipeline:
            _queue_transfer(pipeline, base, source, destination, count, command)
        deadline = time.monotonic() + _SECONDS
        while qtest.read(base + _COMMAND, 4) & _RUN:
            if time.monotonic() > deadline:
                raise DeviceError(f"{self.name} did not finish a transfer within {_SECONDS:g} s")


def queue_fetch(pipeline: Pipeline, registers: int, address: int, length: int) -> None:
    """Queue a read by the edu whose registers are there, into the start of its buffer."""
    _queue_transfer(pipeline, registers, address, _BUFFER, length, _RUN)


def queue_store(pipeline: Pipeline, registers: int, address: int, length: int) -> None:
    """Queue a write of the start of its buffer."""
    _queue_transfer(pipeline, registers, _BUFFER, address, length, _RUN | _TO_MEMORY)


def queue_running(pipeline: Pipeline, registers: int) -> Answer[int]:
    """Queue the question whether it is still moving data: bit 0 of the answer."""
    return pipeline.read(registers + _COMMAND, 4)


def _queue_transfer(
    pipeline: Pipeline, registers: int, source: int, destination: int, count: int, command: int
) -> None:
    pipeline.write(registers + _SOURCE, source, 8)
    pipeline.write(registers + _DESTINATION, destination, 8)
    pipeline.write(registers + _COUNT, count, 8)
    pipeline.write(registers + _COMMAND, command, 8)
