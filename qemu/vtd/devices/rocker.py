"""rocker: a switch whose test registers fill memory with a constant. In every QEMU version."""

from qemu.vtd.devices.source import SynchronousSource
from qemu.vtd.pipeline import Pipeline

TEST_DMA_ADDRESS = 0x28
TEST_DMA_SIZE = 0x30
TEST_DMA_CONTROL = 0x34
FILL = 2
"""Write the pattern."""
INVERT = 4
"""Read, and write back the opposite of what was read; zeros are read where the read is blocked."""
_TEST_IRQ = 0x20
# The MSI-X capability, and its table: vector 0 comes first, with address, upper address, data, mask.
_MSIX = 0x11
_MSIX_ENABLE = 0x8000
_MSIX_BAR = 1


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

    def send_msi(self, address: int, data: int) -> None:
        """Have the device send vector 0 of its MSI-X table."""
        pci, source = self.host.pci, self.source_id
        control = pci.capability(source, _MSIX) + 2
        table = pci.bar(source, _MSIX_BAR)
        pci.write(source, control, pci.read(source, control, 2) | _MSIX_ENABLE, 2)
        with self.host.qtest.pipeline() as pipeline:
            for offset, value in ((0, address & 0xFFFFFFFF), (4, address >> 32), (8, data), (12, 0)):
                pipeline.write(table + offset, value, 4)
            pipeline.write(self.registers + _TEST_IRQ, 0, 4)

    def queue_write(self, pipeline: Pipeline, address: int, length: int) -> None:
        """Three register writes; the last one starts the DMA."""
        self.check_length(length)
        base = self.registers
        pipeline.write(base + TEST_DMA_ADDRESS, address, 8)
        pipeline.write(base + TEST_DMA_SIZE, length, 4)
        pipeline.write(base + TEST_DMA_CONTROL, FILL, 4)
