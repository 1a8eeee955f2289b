"""The parts of a DMAR as typed objects: what reader.py makes of bytes, and what builds them again.

    Drhd(base=0xFED91000, flags=1, scopes=[DeviceScope(type=3, bus=0xF0, path=((31, 0),), enumeration_id=2)])

Lengths are never set by hand: a part knows its own size. Only a part that was read from a damaged table carries a
`declared_length` that differs, and bytes nobody understands stay with it, so that building gives back every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from iommu.dmar import layouts
from iommu.dmar.wire import encode
from iommu.errors import MisuseError
from iommu.fields import Layout

Path = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class DeviceScope:
    """A device scope entry (spec 8.3.1): one device, or everything below one bridge.

    Attributes:
        type: see layouts.ScopeType.
        bus: where the path starts.
        path: (device, function) of each hop; all but the last are bridges on the way.
        enumeration_id: I/O APIC id, HPET number or ANDD device number, by type.
        flags: see layouts.ScopeFlags; 0 but in a SIDP.
        padding: the last byte of an entry of odd length, which is malformed.
    """

    type: int
    bus: int = 0
    path: Path = ()
    enumeration_id: int = 0
    flags: int = 0
    reserved: int = 0
    padding: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes the entry takes; its length field."""
        return layouts.SCOPE_SIZE + 2 * len(self.path) + len(self.padding)

    def build(self) -> bytes:
        """The entry's bytes. Raises MisuseError for a value that does not fit its field."""
        values = (self.type, self.nbytes, self.flags, self.reserved, self.enumeration_id, self.bus)
        try:
            hops = bytes(part for hop in self.path for part in hop)
        except ValueError:  # which the slower way explains
            hops = b"".join(encode(layouts.HopLayout, hop) for hop in self.path)
        return encode(layouts.ScopeLayout, values) + hops + self.padding

    def __str__(self) -> str:
        """Bus and hops, as PCI addresses are written: `00:1c.0/00.0` is function 00.0 behind bridge 00:1c.0."""
        return f"{self.bus:02x}:" + "/".join(f"{device:02x}.{function:x}" for device, function in self.path)


@dataclass(slots=True)
class Structure:
    """What every remapping structure has; the subclasses add their own fields.

    Attributes:
        rest: bytes after the last part that could be understood; only in a damaged table.
        declared_length: what the length field says, where that is not the number of bytes there are.
    """

    kind: ClassVar[str]
    layout: ClassVar[type[Layout]]
    section: ClassVar[str]

    rest: bytes = field(default=b"", kw_only=True)
    declared_length: int | None = field(default=None, kw_only=True)

    @property
    def type(self) -> int:
        """The type field; see layouts.StructureType."""
        return int(layouts.StructureType[self.kind])

    @property
    def nbytes(self) -> int:
        """Bytes the structure really takes."""
        return self.fixed_size + len(self.tail())

    @property
    def fixed_size(self) -> int:
        """Bytes before the first scope or the name."""
        return self.layout.bits // 8

    @property
    def length(self) -> int:
        """The length field."""
        return self.nbytes if self.declared_length is None else self.declared_length

    @property
    def offered_scopes(self) -> list[DeviceScope]:
        """The device scopes, of which a structure may have none."""
        return []

    def tail(self) -> bytes:
        """The bytes after the fixed part."""
        return b"".join(scope.build() for scope in self.offered_scopes) + self.rest

    def build(self) -> bytes:
        """The structure's bytes. Raises MisuseError for a value that does not fit its field."""
        tail = self.tail()
        values = [getattr(self, name) for name in _ATTRIBUTES[type(self)]]
        length = self.fixed_size + len(tail) if self.declared_length is None else self.declared_length
        return encode(self.layout, [self.type, length, *values]) + tail

    @classmethod
    def own_fields(cls) -> list[str]:
        """The layout's fields after type and length, in memory order; lower-cased they are attributes."""
        return [name for name in reversed(cls.layout.fields) if name not in {"TYPE", "LENGTH"}]


@dataclass(slots=True)
class Scoped(Structure):
    """A structure that ends in device scopes."""

    scopes: list[DeviceScope] = field(default_factory=list, kw_only=True)

    @property
    def nbytes(self) -> int:
        """Bytes the structure really takes."""
        return self.fixed_size + sum(scope.nbytes for scope in self.scopes) + len(self.rest)

    @property
    def offered_scopes(self) -> list[DeviceScope]:
        """The device scopes."""
        return self.scopes


@dataclass(slots=True)
class Drhd(Scoped):
    """A remapping unit and what it covers (spec 8.3). `flags` is layouts.DrhdFlags, `size` layouts.DrhdSize."""

    kind = "DRHD"
    layout = layouts.DrhdLayout
    section = "8.3"

    flags: int = 0
    size: int = 0
    segment: int = 0
    base: int = 0

    @property
    def include_all(self) -> bool:
        """INCLUDE_PCI_ALL: the unit of every device of its segment that no other unit names."""
        return bool(layouts.DrhdFlags.INCLUDE_PCI_ALL.get(self.flags))

    @property
    def register_bytes(self) -> int:
        """Bytes of the register set."""
        return 4096 << layouts.DrhdSize.PAGES_LOG2.get(self.size & 0xFF)


@dataclass(slots=True)
class Rmrr(Scoped):
    """Memory that its devices use across boot and that must stay mapped one to one (spec 8.4)."""

    kind = "RMRR"
    layout = layouts.RmrrLayout
    section = "8.4"

    reserved: int = 0
    segment: int = 0
    base: int = 0
    limit: int = 0


@dataclass(slots=True)
class Atsr(Scoped):
    """Root ports that support ATS (spec 8.5). `flags` is layouts.AtsrFlags."""

    kind = "ATSR"
    layout = layouts.AtsrLayout
    section = "8.5"

    flags: int = 0
    reserved: int = 0
    segment: int = 0

    @property
    def all_ports(self) -> bool:
        """ALL_PORTS: no scope is needed, every root port of the segment is meant."""
        return bool(layouts.AtsrFlags.ALL_PORTS.get(self.flags))


@dataclass(slots=True)
class Rhsa(Structure):
    """The proximity domain of the unit whose registers are at `base` (spec 8.6)."""

    kind = "RHSA"
    layout = layouts.RhsaLayout
    section = "8.6"

    reserved: int = 0
    base: int = 0
    proximity_domain: int = 0


@dataclass(slots=True)
class Andd(Structure):
    """The ACPI name of a DMA source that PCI does not enumerate (spec 8.7).

    Attributes:
        device_number: what namespace device scopes refer to.
        object_name: a full ACPI path; bytes read as Latin-1.
        padding: everything from the name's NUL on.
    """

    kind = "ANDD"
    layout = layouts.AnddLayout
    section = "8.7"

    reserved: int = 0
    device_number: int = 0
    object_name: str = ""
    padding: bytes = b"\0"

    def tail(self) -> bytes:
        """Name, NUL, padding."""
        return encode_text(self.object_name, "object_name") + self.padding + self.rest


@dataclass(slots=True)
class Satc(Scoped):
    """Integrated devices with a translation cache of their own (spec 8.8). `flags` is layouts.SatcFlags."""

    kind = "SATC"
    layout = layouts.SatcLayout
    section = "8.8"

    flags: int = 0
    reserved: int = 0
    segment: int = 0

    @property
    def atc_required(self) -> bool:
        """ATC_REQUIRED: the devices do not work with their cache disabled."""
        return bool(layouts.SatcFlags.ATC_REQUIRED.get(self.flags))


@dataclass(slots=True)
class Sidp(Scoped):
    """Properties of integrated devices, one scope each (spec 8.9). See layouts.ScopeFlags."""

    kind = "SIDP"
    layout = layouts.SidpLayout
    section = "8.9"

    reserved: int = 0
    segment: int = 0


@dataclass(slots=True)
class Unknown(Structure):
    """A structure of a type we do not know, or one too short to be what its type says: kept as bytes (spec 8.2)."""

    kind = "UNKNOWN"
    layout = layouts.StructureHead
    section = "8.2"

    code: int = 0
    data: bytes = b""

    @property
    def type(self) -> int:
        """The type field."""
        return self.code

    def tail(self) -> bytes:
        """Everything after type and length."""
        return self.data + self.rest


# The attributes that hold the fields after type and length, in memory order.
_ATTRIBUTES: dict[type[Structure], list[str]] = {
    kind: [name.lower() for name in kind.own_fields()] for kind in (Drhd, Rmrr, Atsr, Rhsa, Andd, Satc, Sidp, Unknown)
}


KINDS: dict[int, type[Structure]] = {
    int(layouts.StructureType[cls.kind]): cls for cls in (Drhd, Rmrr, Atsr, Rhsa, Andd, Satc, Sidp)
}


def encode_text(text: str, name: str) -> bytes:
    """Latin-1 bytes of an identifier. Raises MisuseError for characters that have none."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise MisuseError(f"{name}: {text!r} has characters beyond Latin-1") from error
