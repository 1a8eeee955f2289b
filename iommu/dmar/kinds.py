"""The remapping structure types (spec 8.3 to 8.9), each declared once; structure.py says how.

Drhd(base=0xFED91000, flags=1, scopes=[DeviceScope(type=3, bus=0xF0, path=((31, 0),), enumeration_id=2)])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from iommu.dmar.declared import declared
from iommu.dmar.scopes import SCOPE_TYPES, ScopeType
from iommu.dmar.structure import Scoped, Structure, StructureHead, structure
from iommu.dmar.wire import encode_text
from iommu.fields import Layout, at, field, flag


class DrhdFlags(Layout, bits=8, section="8.3"):
    """A DRHD's flags."""

    INCLUDE_PCI_ALL = flag(0, "covers every PCI device of the segment that no other unit covers")


class DrhdSize(Layout, bits=8, section="8.3"):
    """A DRHD's size byte; reserved as a whole before revision 4.0 of the specification."""

    PAGES_LOG2 = field(3, 0, "N: the register set takes 2^N pages of 4 KiB")


@structure(type_code=0, section="8.3", scopes=SCOPE_TYPES, identity=("segment", "base"))
@dataclass(slots=True)
class Drhd(Scoped):
    """DMA remapping hardware unit definition: a unit and the devices it remaps."""

    flags: Annotated[int, at(4, 1, "see DrhdFlags"), DrhdFlags] = 0
    size: Annotated[int, at(5, 1, "see DrhdSize"), DrhdSize] = 0
    segment: Annotated[int, at(6, 2, "PCI segment")] = 0
    base: Annotated[int, at(8, 8, "address of the register set")] = 0

    @property
    def title(self) -> str:
        """A short name for messages."""
        return f"unit at {self.base:#x}"

    @property
    def include_all(self) -> bool:
        """INCLUDE_PCI_ALL: the unit remaps every device of its segment that no other unit names."""
        return bool(DrhdFlags.INCLUDE_PCI_ALL.get(self.flags))

    @property
    def register_bytes(self) -> int:
        """Size of the register set in bytes."""
        return 4096 << DrhdSize.PAGES_LOG2.get(self.size & 0xFF)


# Public sources do not forbid an RMRR to name a namespace device.
@structure(
    type_code=1,
    section="8.4",
    scopes=(ScopeType.ENDPOINT, ScopeType.BRIDGE, ScopeType.NAMESPACE),
    identity=("segment", "base"),
)
@dataclass(slots=True)
class Rmrr(Scoped):
    """Reserved memory region reporting: memory that its devices use across boot, to stay identity-mapped."""

    reserved: Annotated[int, at(4, 2, "zero")] = 0
    segment: Annotated[int, at(6, 2, "PCI segment")] = 0
    base: Annotated[int, at(8, 8, "address of the region's first byte")] = 0
    limit: Annotated[int, at(16, 8, "address of its last byte")] = 0

    @property
    def title(self) -> str:
        """A short name for messages."""
        return f"region {self.base:#x} to {self.limit:#x}"


class AtsrFlags(Layout, bits=8, section="8.5"):
    """An ATSR's flags."""

    ALL_PORTS = flag(0, "every root port of the segment supports ATS")


@structure(type_code=2, section="8.5", scopes=(ScopeType.BRIDGE,))
@dataclass(slots=True)
class Atsr(Scoped):
    """Root port ATS capability reporting: the root ports that support ATS."""

    flags: Annotated[int, at(4, 1, "see AtsrFlags"), AtsrFlags] = 0
    reserved: Annotated[int, at(5, 1, "zero")] = 0
    segment: Annotated[int, at(6, 2, "PCI segment")] = 0

    @property
    def all_ports(self) -> bool:
        """ALL_PORTS: every root port of the segment supports ATS, so none needs to be listed."""
        return bool(AtsrFlags.ALL_PORTS.get(self.flags))


@structure(type_code=3, section="8.6", identity=("base",))
@dataclass(slots=True)
class Rhsa(Structure):
    """Remapping hardware static affinity: the memory domain nearest to a unit."""

    reserved: Annotated[int, at(4, 4, "zero")] = 0
    base: Annotated[int, at(8, 8, "address of the unit's register set")] = 0
    proximity_domain: Annotated[int, at(16, 4, "as in the SRAT")] = 0

    @property
    def title(self) -> str:
        """A short name for messages."""
        return f"affinity of the unit at {self.base:#x}"


@structure(type_code=4, section="8.7", identity=("object_name",))
@dataclass(slots=True)
class Andd(Structure):
    """ACPI namespace device declaration: the ACPI name of a DMA source that PCI does not enumerate.

    Attributes:
        object_name: a full ACPI path; bytes read as Latin-1.
        padding: everything from the name's NUL to the end.
    """

    reserved: Annotated[int, at(4, 3, "zero")] = 0
    device_number: Annotated[int, at(7, 1, "the enumeration id of the scopes that name this device")] = 0
    object_name: str = ""
    padding: bytes = b"\0"

    @property
    def title(self) -> str:
        """A short name for messages."""
        return f"ACPI device {self.object_name}"

    def tail(self) -> bytes:
        """Name, NUL, padding."""
        return encode_text(self.object_name, "object_name") + self.padding + self.rest

    def take_tail(self, data: bytes) -> bytes:
        """Read the name and what follows it; no byte is left over."""
        name, nul, padding = data.partition(b"\0")
        self.object_name, self.padding = name.decode("latin-1"), nul + padding
        return b""


class SatcFlags(Layout, bits=8, section="8.8"):
    """A SATC's flags."""

    ATC_REQUIRED = flag(0, "the devices need their translation cache enabled to work")


@structure(type_code=5, section="8.8", scopes=(ScopeType.ENDPOINT,))
@dataclass(slots=True)
class Satc(Scoped):
    """SoC integrated address translation cache reporting: integrated devices with a translation cache."""

    flags: Annotated[int, at(4, 1, "see SatcFlags"), SatcFlags] = 0
    reserved: Annotated[int, at(5, 1, "zero")] = 0
    segment: Annotated[int, at(6, 2, "PCI segment")] = 0

    @property
    def atc_required(self) -> bool:
        """ATC_REQUIRED: the devices do not work with their cache disabled."""
        return bool(SatcFlags.ATC_REQUIRED.get(self.flags))


class ScopeFlags(Layout, bits=8, section="8.9"):
    """The properties of a device in a SIDP, in its scope's flags."""

    REQ_WO_PASID_NESTED_NOTALLOWED = flag(0, "no nested translation for requests without PASID")
    REQ_WO_PASID_PWSNP_NOTALLOWED = flag(1, "no PWSNP for requests without PASID")
    REQ_WO_PASID_PGSNP_NOTALLOWED = flag(2, "no PGSNP for requests without PASID")
    ATC_HARDENED = flag(3, "the translation cache is hardened against misuse")
    ATC_REQUIRED = flag(4, "the device needs its translation cache enabled")


@structure(type_code=6, section="8.9", scopes=(ScopeType.ENDPOINT, ScopeType.BRIDGE), scope_flags=ScopeFlags)
@dataclass(slots=True)
class Sidp(Scoped):
    """SoC integrated device property reporting: the flags of each scope are the properties of its device."""

    reserved: Annotated[int, at(4, 2, "zero")] = 0
    segment: Annotated[int, at(6, 2, "PCI segment")] = 0


@declared("8.2", StructureHead)
@dataclass(slots=True)
class Unknown(Structure):
    """A structure of unknown type, or one too short for its type: kept as bytes (spec 8.2).

    Attributes:
        code: the type field.
        data: everything after type and length.
    """

    kind = "UNKNOWN"
    identity = ("code",)

    code: int = 0
    data: bytes = b""

    @property
    def type(self) -> int:
        """The type field."""
        return self.code

    @property
    def title(self) -> str:
        """A short name for messages."""
        return f"structure of type {self.code}"

    def tail(self) -> bytes:
        """Everything after type and length."""
        return self.data + self.rest
