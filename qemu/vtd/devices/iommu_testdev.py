"""iommu-testdev: a device made for testing DMA remapping. From QEMU 11 on."""

from qemu.vtd.devices.source import SynchronousSource
from qemu.vtd.pipeline import Pipeline

_TRIGGER = 0x00
_ADDRESS_LOW = 0x04
_ADDRESS_HIGH = 0x08
_LENGTH = 0x0C
_ARM = 0x14
_WORD = 0x12345678


class IommuTestdev(SynchronousSource):
    """Writes 0x12345678 to any 64-bit address, synchronously, whether or not Bus Master Enable is set."""

    model = "iommu-testdev"
    # QEMU allocates as many bytes as the length register says, without a check.
    longest = 0x10000

    def pattern(self, length: int) -> bytes:
        """0x12345678, little-endian, repeated."""
        return (_WORD.to_bytes(4, "little") * (length // 4 + 1))[:length]

    def queue_write(self, pipeline: Pipeline, address: int, length: int) -> None:
        """Four register writes, then the read that starts the DMA."""
        self.check_length(length)
        base = self.registers
        pipeline.write(base + _ADDRESS_LOW, address & 0xFFFFFFFF, 4)
        pipeline.write(base + _ADDRESS_HIGH, address >> 32, 4)
        pipeline.write(base + _LENGTH, length, 4)
        pipeline.write(base + _ARM, 1, 4)
        pipeline.read(base + _TRIGGER, 4)
