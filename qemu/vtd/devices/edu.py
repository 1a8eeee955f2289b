"""edu: a teaching device with a 4 KiB buffer, the only one that both reads and writes. In every QEMU version."""

from __future__ import annotations

import time

from iommu.errors import MisuseError
from qemu.vtd.devices.source import DmaSource, Host
from qemu.vtd.errors import DeviceError

_SOURCE = 0x80
_DESTINATION = 0x88
_COUNT = 0x90
_COMMAND = 0x98
_RUN = 1
_TO_MEMORY = 2
# The buffer's address as the device's own DMA registers count it.
_BUFFER = 0x40000
_ALL_ADDRESSES = 0xFFFFFFFFFFFFFFFF

# A transfer takes 100 ms of virtual time: none of ours when the clock skips idle time, 100 ms when it does not.
_SECONDS = 5.0


class Edu(DmaSource):
    """Reads and writes anywhere in 64 bits.

    Its buffer is divided: the pattern that writes send comes first, then `SLOTS` slots of `SLOT_SIZE` bytes for what
    reads fetch. A read longer than a slot runs on into the next ones. The buffer survives a reset of the machine.
    """

    model = "edu"
    reads = True
    writes = True
    longest = 1024

    # The device has 4096, but QEMU's own check of the bounds refuses a transfer that includes the last one.
    BUFFER_SIZE = 4095
    SLOT_SIZE = 64
    SLOTS = (BUFFER_SIZE - longest) // SLOT_SIZE

    def _properties(self) -> list[str]:
        return [f"dma_mask={_ALL_ADDRESSES:#x}"]

    def attach(self, host: Host) -> None:
        """Load the pattern. Memory is borrowed for that, and given back as it was."""
        super().attach(host)
        borrowed = host.memory.size - self.longest
        before = host.memory.read(borrowed, self.longest)
        host.memory.write(borrowed, self.pattern(self.longest))
        self._transfer(borrowed, _BUFFER, self.longest, _RUN)
        host.memory.write(borrowed, before)

    def pattern(self, length: int) -> bytes:
        """Bytes that tell their own position, and none of them 0: 1 to 251 over and over."""
        return bytes(index % 251 + 1 for index in range(length))

    def slot_offset(self, slot: int) -> int:
        """Where in the buffer a slot begins. Raises MisuseError when there is no such slot."""
        if not 0 <= slot < self.SLOTS:
            raise MisuseError(f"slot {slot} is not one of 0 to {self.SLOTS - 1}")
        return self.longest + slot * self.SLOT_SIZE

    def dma_write(self, address: int, length: int) -> None:
        """Have the device write `pattern(length)` to `address`."""
        self.check_length(length)
        self._transfer(_BUFFER, address, length, _RUN | _TO_MEMORY)

    def dma_read(self, address: int, length: int, slot: int = 0) -> None:
        """Have the device read from `address` into its buffer, from `slot` on. What is blocked is read as 0."""
        self.check_length(length)
        offset = self.slot_offset(slot)
        if offset + length > self.BUFFER_SIZE:
            raise MisuseError(f"{length} bytes from slot {slot} on exceed the buffer")
        self._transfer(address, _BUFFER + offset, length, _RUN)

    def dump_buffer(self, address: int) -> None:
        """Have the device write all of its buffer, `BUFFER_SIZE` bytes, to `address`: the only way to see it."""
        self._transfer(_BUFFER, address, self.BUFFER_SIZE, _RUN | _TO_MEMORY)

    def _transfer(self, source: int, destination: int, count: int, command: int) -> None:
        """Start a transfer and wait for its end. One outside the buffer ends or overruns QEMU: callers check."""
        qtest, base = self.host.qtest, self.registers
        with qtest.pipeline() as pipeline:
            pipeline.write(base + _SOURCE, source, 8)
            pipeline.write(base + _DESTINATION, destination, 8)
            pipeline.write(base + _COUNT, count, 8)
            pipeline.write(base + _COMMAND, command, 8)
        deadline = time.monotonic() + _SECONDS
        while qtest.read(base + _COMMAND, 4) & _RUN:
            if time.monotonic() > deadline:
                raise DeviceError(f"{self.name} did not finish a transfer within {_SECONDS:g} s")
