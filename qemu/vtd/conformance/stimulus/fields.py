"""Values in words: the fields of an entry, and the registers of a unit by name."""

from __future__ import annotations

from collections import Counter

from iommu import Capabilities
from iommu.fields import Field, Layout
from iommu.registers import Register, registers_of


def fields_text(layout: type[Layout], raw: int, only: int = -1) -> str:
    """The fields of a value that are not 0, of the bits in `only`: "P=1 CTP=0x101000"; and set bits of no field."""
    words = []
    left = raw & only
    for part in reversed(layout.fields.values()):
        left &= ~part.mask
        if raw & part.mask & only:
            words.append(f"{part.name}={_value(part, raw)}")
    if left.bit_count() == 1:
        # As a number, a bit of a 512-bit entry would have up to 128 digits.
        words.append(f"reserved bit {left.bit_length() - 1}")
    elif left:
        words.append(f"reserved {left:#x}")
    return " ".join(words)


def _value(part: Field[int], raw: int) -> str:
    value = part.get(raw)
    if part.names is not None:
        return part.show(raw)
    return str(value) if value < 10 else f"{value:#x}"


class RegisterNames:
    """The registers of a unit by their offsets."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._at: dict[int, tuple[str, type[Register], int]] = {}
        placed = registers_of(capabilities.cap, capabilities.ecap, capabilities.offered)
        seen: dict[type[Register], int] = {}
        count = Counter(each.layout for each in placed)
        for offset, layout in placed:
            index = seen[layout] = seen.get(layout, -1) + 1
            name = f"{layout.__name__}[{index}]" if count[layout] > 1 else layout.__name__
            for byte in range(offset, offset + layout.bits // 8):
                self._at[byte] = name, layout, offset

    def describe(self, offset: int, size: int, value: int) -> tuple[str, str]:
        """The register's name, with the bits if it is a part of it; and the fields of the value."""
        if offset not in self._at:
            return f"{size} bytes at register offset {offset:#x}:", ""
        name, layout, start = self._at[offset]
        shift, mask = 8 * (offset - start), (1 << 8 * size) - 1
        if 8 * size < layout.bits:
            name += f" {shift + 8 * size - 1}:{shift}"
        fields = fields_text(layout, value << shift, mask << shift)
        return name, "" if len(layout.fields) == 1 else fields
