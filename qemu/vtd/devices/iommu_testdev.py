"""iommu-testdev: made for testing remapping; from QEMU 11 on."""

from qemu.vtd.devices.source import SynchronousSource
from qemu.vtd.pipeline import Pipeline

_TRIGGER = 0x00
_ADDRESS_LOW = 0x04
_ADDRESS_HIGH = 0x08
_LENGTH = 0x0C
_ARM = 0x14
_WORD = 0x12345678


class IommuTestdev(SynchronousSource):
    """Writes 0x12345678 anywhere in 64 bits, at once, whether or not it may be bus master."""

    model = "iommu-testdev"
    # QEMU allocates what the length register says without looking at it.
    longest = 0x10000

    def pattern(self, length: int) -> bytes:
        """0x12345678 over and over, little-endian."""
        return (_WORD.to_bytes(4, "little") * (length // 4 + 1))[:length]

    def queue_write(self, pipeline: Pipeline, address: int, length: int) -> None:
        """Four register writes and the read that starts it."""
        self.check_length(length)
        base = self.registers
        pipeline.write(base + _ADDRESS_LOW, address & 0xFFFFFFFF, 4)
        pipeline.write(base + _ADDRESS_HIGH, address >> 32, 4)
        pipeline.write(base + _LENGTH, length, 4)
        pipeline.write(base + _ARM, 1, 4)
        pipeline.read(base + _TRIGGER, 4)
