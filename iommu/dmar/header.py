"""The table's header (spec 8.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from iommu.dmar.declared import Part, declared
from iommu.dmar.wire import encode, encode_text
from iommu.fields import Layout, at, flag, octets


class HeaderFlags(Layout, bits=8, section="8.1"):
    """The table's flags.

    DMA_REMAP_OPT_OUT is new in revision 5.2 of the specification. Two public sources agree on its bit: Linux
    (DMAR_REMAP_OPT_OUT in include/linux/dmar.h, since commit 1c677d8a2c3c of 2026) and the Rust crate intel_iommu.
    """

    INTR_REMAP = flag(0, "the platform supports interrupt remapping")
    X2APIC_OPT_OUT = flag(1, "software is asked not to use x2APIC; has a meaning only with INTR_REMAP")
    DMA_CTRL_PLATFORM_OPT_IN = flag(2, "firmware asks software to keep DMA under control from boot on")
    DMA_REMAP_OPT_OUT = flag(3, "firmware asks software to leave DMA remapping off; interrupts may still be remapped")


@declared("8.1")
@dataclass(slots=True)
class Header(Part):
    """The standard ACPI table header, and the DMAR's own fields after it.

    Identifiers are their bytes read as Latin-1 without trailing NULs. `length` and `checksum` are what the table
    says; None stands for the right value when the table is built.
    """

    signature: Annotated[str, octets(0, 4, "always DMAR")] = "DMAR"
    length: Annotated[int | None, at(4, 4, "bytes of the whole table")] = None
    revision: Annotated[int, at(8, 1, "1 in every published specification; 2 is seen in the field")] = 1
    checksum: Annotated[int | None, at(9, 1, "makes all bytes of the table add up to 0 modulo 256")] = None
    oem_id: Annotated[str, octets(10, 6, "who made the table")] = ""
    oem_table_id: Annotated[str, octets(16, 8, "the maker's name for it")] = ""
    oem_revision: Annotated[int, at(24, 4, "the maker's version")] = 0
    compiler_id: Annotated[str, octets(28, 4, "the tool that made it")] = ""
    compiler_revision: Annotated[int, at(32, 4, "the tool's version")] = 0
    host_address_width: Annotated[int, at(36, 1, "bits of a DMA physical address, minus 1")] = 47
    flags: Annotated[int, at(37, 1, "see HeaderFlags"), HeaderFlags] = 0
    reserved: Annotated[bytes, octets(38, 10, "zero")] = bytes(10)

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
        """X2APIC_OPT_OUT, which has a meaning only with INTR_REMAP."""
        return bool(HeaderFlags.X2APIC_OPT_OUT.get(self.flags))

    @property
    def dma_control_opt_in(self) -> bool:
        """DMA_CTRL_PLATFORM_OPT_IN."""
        return bool(HeaderFlags.DMA_CTRL_PLATFORM_OPT_IN.get(self.flags))

    @property
    def dma_remapping_opt_out(self) -> bool:
        """DMA_REMAP_OPT_OUT."""
        return bool(HeaderFlags.DMA_REMAP_OPT_OUT.get(self.flags))

    def build(self, length: int) -> bytes:
        """The header's bytes. `length` and 0 stand in for a length and a checksum that are None.

        Raises MisuseError for a value that does not fit its field.
        """
        values: dict[str, Any] = {name: getattr(self, name.lower()) for name in reversed(self.layout.fields)}
        for name, size in TEXTS.items():
            values[name] = encode_text(values[name], name.lower()).ljust(size, b"\0")
        values["LENGTH"] = length if self.length is None else self.length
        values["CHECKSUM"] = self.checksum or 0
        return encode(self.layout, list(values.values()))


# Identifiers and their sizes in bytes; shorter ones are padded with NULs.
TEXTS = {name: part.width // 8 for name, part in Header.layout.fields.items() if part.octets and name != "RESERVED"}
