"""The PCI functions of a VM and the source-ids of their requests, from QEMU's query-pci."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from iommu.dmar.pci import PciAddress, PciFunction, PciTree, PortType
from iommu.errors import RoutingError

# query-pci does not give the PCI Express type of a bridge; its vendor and device id do.
_BRIDGES = {
    (0x1B36, 0x000C): PortType.ROOT_PORT,  # pcie-root-port
    (0x8086, 0x3420): PortType.ROOT_PORT,  # ioh3420
    (0x104C, 0x8232): PortType.UPSTREAM,  # x3130-upstream
    (0x104C, 0x8233): PortType.DOWNSTREAM,  # xio3130-downstream
    (0x1B36, 0x000E): PortType.EXPRESS_TO_PCI,  # pcie-pci-bridge
    (0x1B36, 0x0001): PortType.CONVENTIONAL,  # pci-bridge
    (0x8086, 0x244E): PortType.CONVENTIONAL,  # i82801b11-bridge
}


@dataclass(frozen=True)
class Function:
    """A PCI function of a VM.

    Attributes:
        address: segment, bus, device, function.
        name: its QEMU id, or what kind of device it is.
        source_id: of its requests; None when it depends on a bridge of a type that is not known.
    """

    address: PciAddress
    name: str
    source_id: int | None


def numbered(buses: list[dict[str, Any]]) -> bool:
    """Whether every bridge in an answer to query-pci has the number of the bus below it."""
    devices = [device for bus in buses for device in _all(bus["devices"])]
    return all(device["pci_bridge"]["bus"]["secondary"] for device in devices if "pci_bridge" in device)


def functions(buses: list[dict[str, Any]]) -> list[Function]:
    """The functions in an answer to query-pci whose buses are numbered."""
    tree = PciTree([_typed(each) for each in PciTree.from_plain(buses).functions.values()])
    found = []
    for device in (device for bus in buses for device in _all(bus["devices"])):
        address = PciAddress(0, device["bus"], device["slot"], device["function"])
        name = device["qdev_id"] or device["class_info"].get("desc") or f"class {device['class_info']['class']:04x}"
        found.append(Function(address, name, _source_id(tree, address)))
    return sorted(found, key=lambda each: each.address)


def _all(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for device in devices:
        yield device
        yield from _all(device.get("pci_bridge", {}).get("devices", []))


def _typed(function: PciFunction) -> PciFunction:
    return replace(function, pcie_type=_BRIDGES.get((function.vendor, function.device)))


def _source_id(tree: PciTree, address: PciAddress) -> int | None:
    try:
        alias = tree.aliases(address)[-1]
    except RoutingError:
        return None
    return alias.bus << 8 | alias.device << 3 | alias.function
