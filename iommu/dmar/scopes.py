"""Device scopes: the entries by which a structure names devices (spec 8.3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from iommu.dmar.declared import Part, declared
from iommu.dmar.wire import encode
from iommu.fields import Layout, at

Path = tuple[tuple[int, int], ...]


class ScopeType(IntEnum):
    """What kind of device a device scope entry names (spec 8.3.1)."""

    ENDPOINT = 1
    BRIDGE = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5


# A frozenset of plain look-ups is much faster than asking the enumeration.
SCOPE_TYPES = frozenset(ScopeType)


class ScopeHead(Layout, bits=2 * 8, section="8.3.1"):
    """The length of a device scope entry, which is always computed."""

    LENGTH = at(1, 1, "bytes of the entry: 6, and 2 for each hop")


class HopLayout(Layout, bits=2 * 8, section="8.3.1"):
    """One step of a device scope's path."""

    DEVICE = at(0, 1, "0 to 31")
    FUNCTION = at(1, 1, "0 to 7")


@declared("8.3.1", ScopeHead)
@dataclass(slots=True)
class DeviceScope(Part):
    """A device scope entry: one device, or everything below one bridge.

    Attributes:
        type: see ScopeType.
        bus: where the path starts.
        path: (device, function) of each hop; all except the last are bridges on the way.
        enumeration_id: I/O APIC id, HPET number or ANDD device number, by type; otherwise reserved.
        flags: the device's properties in a SIDP; otherwise reserved.
        padding: the last byte of an entry of odd length, which is malformed.
    """

    type: Annotated[int, at(0, 1, "see ScopeType")]
    bus: Annotated[int, at(5, 1, "bus the path starts on")] = 0
    path: Path = ()
    enumeration_id: Annotated[int, at(4, 1, "I/O APIC id, HPET number or ANDD device number, by type")] = 0
    flags: Annotated[int, at(2, 1, "properties; reserved outside a SIDP")] = 0
    reserved: Annotated[int, at(3, 1, "zero")] = 0
    padding: bytes = b""

    @property
    def nbytes(self) -> int:
        """Size of the entry in bytes, which is its length field."""
        return self.fixed_size + 2 * len(self.path) + len(self.padding)

    def build(self) -> bytes:
        """The entry's bytes. Raises MisuseError for a value that does not fit its field."""
        values = (self.type, self.nbytes, self.flags, self.reserved, self.enumeration_id, self.bus)
        try:
            hops = bytes(number for hop in self.path for number in hop)
        except ValueError:  # encode() says which number does not fit
            hops = b"".join(encode(HopLayout, hop) for hop in self.path)
        return encode(self.layout, values) + hops + self.padding

    def __str__(self) -> str:
        """Bus and hops, as PCI addresses are written: `00:1c.0/00.0` is function 00.0 behind bridge 00:1c.0."""
        return f"{self.bus:02x}:" + "/".join(f"{device:02x}.{function:x}" for device, function in self.path)
