"""The PCI functions of a machine: from its sysfs, from a saved copy, or from a QEMU's `query-pci`.

    tree = PciTree.from_sysfs()                     this machine; or PciTree.from_sysfs(Path("copy/sys"))
    tree = PciTree.from_plain(read_json(path))      the result of to_plain(), or QEMU's answer to query-pci

Where a function is follows from the secondary bus numbers of the bridges above it, not from any path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from iommu.errors import MisuseError, RoutingError
from iommu.files.documents import Reader, shown
from iommu.files.reading import beginning

# ACS control bits: source validation 0, request redirect 2, completion redirect 3, upstream forwarding 4.
_ACS_NEEDED = 0b11101
_BUSES = 256
_CONFIG = 4096  # bytes of the configuration space
_ADDRESS = re.compile(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")


class PciAddress(NamedTuple):
    """Segment, bus, device, function."""

    segment: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """`0000:00:1f.0`, or `00:1f.0` in segment 0. Raises MisuseError."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match[3], 16) > 31:
            raise MisuseError(f"{text!r} is not a PCI address such as 0000:00:1f.0")
        return cls(int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16), int(match[4], 16))

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


class PortType(IntEnum):
    """The port types of the PCI Express capability that matter for bridges, and one for functions without it."""

    CONVENTIONAL = -1
    ROOT_PORT = 4
    UPSTREAM = 5
    DOWNSTREAM = 6
    EXPRESS_TO_PCI = 7
    PCI_TO_EXPRESS = 8


_KEEPS_REQUESTER = {PortType.ROOT_PORT, PortType.UPSTREAM, PortType.DOWNSTREAM}


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One function.

    Attributes:
        class_code: base class, subclass, interface, as in configuration space: 0x0c0330 is an xHCI controller.
        secondary, subordinate: the first and the last bus below a bridge; None for anything else.
        group: its IOMMU group in the kernel; None where it has none.
        physical: the physical function of a virtual one; None for any other.
        pcie_type: the PCI Express port type, or PortType.CONVENTIONAL; None when it could not be read.
        isolated: whether ACS sends its peer-to-peer traffic through the IOMMU; None when not known.
    """

    address: PciAddress
    vendor: int = 0
    device: int = 0
    class_code: int = 0
    secondary: int | None = None
    subordinate: int | None = None
    group: int | None = None
    physical: PciAddress | None = None
    pcie_type: int | None = None
    isolated: bool | None = None

    @property
    def is_bridge(self) -> bool:
        """Whether there are buses below it."""
        return self.secondary is not None


class PciTree:
    """The functions of a machine, and the bridge above each."""

    def __init__(self, functions: list[PciFunction]) -> None:
        """Raises MisuseError when two functions have the same address."""
        self.functions = {function.address: function for function in sorted(functions, key=lambda f: f.address)}
        if len(self.functions) != len(functions):
            raise MisuseError("two PCI functions have the same address")
        self._above = {
            (function.address.segment, function.secondary): function
            for function in self.functions.values()
            if function.secondary
        }
        self._buses = {address[:2] for address in self.functions}
        self._bridges: dict[int, list[PciFunction]] = {}
        for bridge in self._above.values():
            self._bridges.setdefault(bridge.address.segment, []).append(bridge)
        self._forwarding: dict[tuple[int, int], PciFunction | None] = {}

    def parent(self, address: PciAddress) -> PciFunction | None:
        """The bridge above a function; None on a root bus.

        On a bus that is not the secondary bus of any, such as virtual functions have, it is the nearest bridge whose
        range of buses has it.
        """
        above = self._above.get((address.segment, address.bus)) or self._forwards(address.segment, address.bus)
        return None if above is None or above.address == address else above

    def _forwards(self, segment: int, bus: int) -> PciFunction | None:
        """The bridge nearest to a bus among those whose range of buses has it."""
        if (segment, bus) not in self._forwarding:
            found = [
                bridge
                for bridge in self._bridges.get(segment, ())
                if (bridge.secondary or 0) < bus <= (bridge.subordinate or 0)
            ]
            self._forwarding[segment, bus] = max(found, key=lambda bridge: bridge.secondary or 0, default=None)
        return self._forwarding[segment, bus]

    def has_bus(self, segment: int, bus: int) -> bool:
        """Whether there is such a bus: a function is on it, or a bridge leads to it."""
        below = PciAddress(segment, bus, 0, 0)
        return self.parent(below) is not None or (segment, bus) in self._buses

    def aliases(self, address: PciAddress) -> list[PciAddress]:
        """The requester ids that a function's requests may have; they reach the unit with the last (3.11.1, 3.11.2).

        A bridge from PCI Express to PCI gives requests its secondary bus, device 0, function 0; a conventional bridge
        gives them its own id. Ports of PCI Express change nothing. (The PCI Express to PCI bridge may also leave the
        id of a PCI-X request as it is.) Phantom functions, and devices known to use another function's id, are not
        considered.

        Raises RoutingError when the type of a bridge above is not known.
        """
        found = [address]
        for bridge in self.ancestors(address):
            if bridge.pcie_type is None:
                raise RoutingError(
                    f"the source-id of requests from {address} depends on bridge {bridge.address}, "
                    "whose PCI Express type the PCI tree does not have"
                )
            if bridge.pcie_type not in _KEEPS_REQUESTER:
                own = bridge.pcie_type != PortType.EXPRESS_TO_PCI
                found.append(bridge.address if own else PciAddress(address.segment, bridge.secondary or 0, 0, 0))
        return list(dict.fromkeys(found))

    def ancestors(self, address: PciAddress) -> list[PciFunction]:
        """The bridges above, nearest first; a loop of secondary buses is cut."""
        chain: dict[PciAddress, PciFunction] = {}
        bridge = self.parent(address)
        while bridge is not None and bridge.address not in chain:
            chain[bridge.address] = bridge
            bridge = self.parent(bridge.address)
        return list(chain.values())

    def children(self, bridge: PciFunction) -> list[PciFunction]:
        """The functions on the bus right below a bridge."""
        bus = (bridge.address.segment, bridge.secondary)
        return [function for function in self.functions.values() if function.address[:2] == bus]

    def resolve(self, segment: int, bus: int, path: tuple[tuple[int, int], ...]) -> PciFunction | None:
        """The function at the end of a device scope's path (spec 8.3.1): each hop except the last is a bridge.

        None when a hop is missing, or is not a bridge although more hops follow.
        """
        found: PciFunction | None = None
        for step, (device, function) in enumerate(path):
            if step:
                if found is None or found.secondary is None:
                    return None
                bus = found.secondary
            found = self.functions.get(PciAddress(segment, bus, device, function))
        return found

    def to_plain(self) -> list[dict[str, Any]]:
        """Plain data for a saved copy."""
        return [
            {
                **asdict(function),
                "address": str(function.address),
                "physical": None if function.physical is None else str(function.physical),
            }
            for function in self.functions.values()
        ]

    @classmethod
    def from_plain(cls, plain: Any) -> PciTree:
        """A saved copy, or QEMU's answer to `query-pci` (with or without its "return").

        Raises MisuseError, naming the place and the value, for anything else.
        """
        where = "PCI tree"
        if isinstance(plain, dict) and "return" in plain:
            plain, where = plain["return"], f"{where}.return"
        if not isinstance(plain, list):
            raise MisuseError(
                f"{where}: a list of functions, or QEMU's answer to query-pci, is needed: {shown(plain)}"
            )
        items = [Reader(item, f"{where}[{number}]") for number, item in enumerate(plain)]
        if items and "devices" in items[0].plain:
            return cls([function for bus in items for function in _of_qemu_bus(bus)])
        return cls([_of_plain(item) for item in items])

    @classmethod
    def from_sysfs(cls, sysfs: Path = Path("/sys")) -> PciTree:
        """The tree of a sysfs, live or copied. Raises MisuseError when there is none."""
        folder = sysfs / "bus" / "pci" / "devices"
        if not folder.is_dir():
            raise MisuseError(f"{folder}: no such folder, so PCI functions cannot be read")
        try:
            return cls([_of_folder(entry) for entry in sorted(folder.iterdir())])
        except OSError as error:
            raise MisuseError(f"{error.filename}: {error.strerror}") from None


_KEYS = {item.name for item in fields(PciFunction)}


def _of_plain(item: Reader) -> PciFunction:
    item = Reader(item.plain, item.where, _KEYS)
    isolated = item.plain.get("isolated")
    if isolated is not None and not isinstance(isolated, bool):
        raise MisuseError(f"{item.where}.isolated: {shown(isolated)} is neither true nor false")
    return PciFunction(
        _address_of(item, "address"),
        vendor=item.within("vendor", 0xFFFF, 0),
        device=item.within("device", 0xFFFF, 0),
        class_code=item.within("class_code", 0xFFFFFF, 0),
        secondary=item.within_or_none("secondary", 0xFF),
        subordinate=item.within_or_none("subordinate", 0xFF),
        group=item.within_or_none("group", 0x7FFFFFFF),
        physical=None if item.plain.get("physical") is None else _address_of(item, "physical"),
        pcie_type=item.within_or_none("pcie_type", 0xF, least=-1),
        isolated=isolated,
    )


def _address_of(item: Reader, key: str) -> PciAddress:
    text = item.text(key)
    try:
        return PciAddress.parse(text)
    except MisuseError:
        raise MisuseError(f"{item.where}.{key}: {shown(text)} is not an address such as 0000:00:1f.0") from None


def _of_qemu_bus(bus: Reader, level: int = 0) -> Iterator[PciFunction]:
    """The functions on a bus and below it. A bus is {"devices": [...]}: in the answer, and in its "pci_bridge"."""
    if level > _BUSES:
        raise MisuseError(f"PCI tree: more than {_BUSES} buses below each other")
    for number, each in enumerate(bus.list("devices")):
        item = Reader(each, f"{bus.where}.devices[{number}]")
        bridge = None if item.plain.get("pci_bridge") is None else item.object("pci_bridge")
        ids, buses = item.object("id"), None if bridge is None else bridge.object("bus")
        yield PciFunction(
            PciAddress(0, item.within("bus", 0xFF), item.within("slot", 31), item.within("function", 7)),
            vendor=ids.within("vendor", 0xFFFF),
            device=ids.within("device", 0xFFFF),
            class_code=item.object("class_info").within("class", 0xFFFF) << 8,
            secondary=None if buses is None else buses.within("secondary", 0xFF),
            subordinate=None if buses is None else buses.within("subordinate", 0xFF),
        )
        if bridge is not None:
            yield from _of_qemu_bus(bridge, level + 1)


def _of_folder(folder: Path) -> PciFunction:
    """One function of a sysfs: its configuration space, and two links."""
    config = beginning(folder / "config", _CONFIG)
    if len(config) < 64:
        raise MisuseError(f"{folder / 'config'}: {len(config)} bytes are not a whole configuration space")
    bridge = config[14] & 0x7F == 1
    express = _express(config)
    group, physical = folder / "iommu_group", folder / "physfn"
    return PciFunction(
        PciAddress.parse(folder.name),
        vendor=int.from_bytes(config[0:2], "little"),
        device=int.from_bytes(config[2:4], "little"),
        class_code=int.from_bytes(config[9:12], "little"),
        secondary=config[0x19] if bridge else None,
        subordinate=config[0x1A] if bridge else None,
        group=int(group.resolve().name) if group.exists() and group.resolve().name.isdigit() else None,
        physical=PciAddress.parse(physical.resolve().name) if physical.exists() else None,
        pcie_type=express,
        isolated=_isolated(config),
    )


def _express(config: bytes) -> int | None:
    """The port type from the PCI Express capability; None if the first 256 bytes could not be read."""
    if len(config) < 256:
        return None
    where, seen = config[0x34] & 0xFC, 0
    while 0x40 <= where < len(config) - 3 and seen < 48:
        if config[where] == 0x10:
            return config[where + 2] >> 4
        where, seen = config[where + 1] & 0xFC, seen + 1
    return PortType.CONVENTIONAL


def _isolated(config: bytes) -> bool | None:
    """Whether ACS has source validation, request and completion redirect and upstream forwarding enabled."""
    where, seen = 0x100, 0
    while 0x100 <= where < len(config) - 7 and seen < 960:
        head = int.from_bytes(config[where : where + 4], "little")
        if head & 0xFFFF == 0x000D:
            control = int.from_bytes(config[where + 6 : where + 8], "little")
            return control & _ACS_NEEDED == _ACS_NEEDED
        where, seen = head >> 20, seen + 1
    return False if len(config) >= 4096 else None
