"""rocker: a switch whose test registers fill memory with a constant. In every QEMU version."""

from qemu.vtd.devices.source import SynchronousSource
from qemu.vtd.pipeline import Pipeline

_TEST_DMA_ADDRESS = 0x28
_TEST_DMA_SIZE = 0x30
_TEST_DMA_CONTROL = 0x34
_FILL = 2


class Rocker(SynchronousSource):
    """Writes 0x96 to any 64-bit address, synchronously."""

    model = "rocker"
    # The device ignores a size that does not fit in 16 bits.
    longest = 0xFFFF

    def _properties(self) -> list[str]:
        # The name of the switch. QEMU refuses one longer than a network interface's name may be.
        return [f"name=r{self.slot:x}{self.function}"]

    def pattern(self, length: int) -> bytes:
        """0x96, repeated."""
        return b"\x96" * length

    def queue_write(self, pipeline: Pipeline, address: int, length: int) -> None:
        """Three register writes; the last one starts the DMA."""
        self.check_length(length)
        base = self.registers
        pipeline.write(base + _TEST_DMA_ADDRESS, address, 8)
        pipeline.write(base + _TEST_DMA_SIZE, length, 4)
        pipeline.write(base + _TEST_DMA_CONTROL, _FILL, 4)
