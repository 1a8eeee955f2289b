"""The table's header as a typed object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iommu.dmar.layouts import HeaderFlags, HeaderLayout
from iommu.dmar.model import encode_text
from iommu.dmar.wire import encode

# Identifiers and their sizes in bytes; shorter ones are filled up with NULs.
TEXTS = {name: part.width // 8 for name, part in HeaderLayout.fields.items() if part.octets and name != "RESERVED"}


@dataclass(slots=True)
class Header:
    """The table's header (spec 8.1).

    Identifiers are their bytes read as Latin-1 without trailing NULs. `length` and `checksum` are what the table
    says; None means: whatever is right when the table is built.
    """

    signature: str = "DMAR"
    length: int | None = None
    revision: int = 1
    checksum: int | None = None
    oem_id: str = ""
    oem_table_id: str = ""
    oem_revision: int = 0
    compiler_id: str = ""
    compiler_revision: int = 0
    host_address_width: int = 47
    flags: int = 0
    reserved: bytes = bytes(10)

    @property
    def width(self) -> int:
        """Bits of a physical address in a DMA; the field holds one less."""
        return self.host_address_width + 1

    @property
    def interrupt_remapping(self) -> bool:
        """INTR_REMAP."""
        return bool(HeaderFlags.INTR_REMAP.get(self.flags))

    @property
    def x2apic_opt_out(self) -> bool:
        """X2APIC_OPT_OUT, which means something only with INTR_REMAP."""
        return bool(HeaderFlags.X2APIC_OPT_OUT.get(self.flags))

    @property
    def dma_control_opt_in(self) -> bool:
        """DMA_CTRL_PLATFORM_OPT_IN."""
        return bool(HeaderFlags.DMA_CTRL_PLATFORM_OPT_IN.get(self.flags))

    def build(self, length: int) -> bytes:
        """The header's bytes, its length and checksum as stated, or `length` and 0. Raises MisuseError."""
        values: dict[str, Any] = {name: getattr(self, name.lower()) for name in reversed(HeaderLayout.fields)}
        for name, size in TEXTS.items():
            values[name] = encode_text(values[name], name.lower()).ljust(size, b"\0")
        values["LENGTH"] = length if self.length is None else self.length
        values["CHECKSUM"] = self.checksum or 0
        return encode(HeaderLayout, list(values.values()))
