"""Whether a physical device of this machine can be assigned to a VM, and what to do when not."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from iommu.dmar import Dmar
from iommu.dmar.inputs import read_table
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.topology import Placement, place
from iommu.errors import InputError, VtdError

_DMAR = "sys/firmware/acpi/tables/DMAR"
# Linux lets a group be used while other members have no driver, or one of these (vfio_pci_core, vfio_main).
_VIABLE = frozenset({"vfio-pci", "pci-stub"})


class Finding(NamedTuple):
    """Something that will go wrong, and what to do about it."""

    what: str
    remedy: str


def obstacles(address: PciAddress, assigned: Collection[PciAddress] = (), root: Path = Path("/")) -> list[Finding]:
    """Why a device cannot be assigned, most important first; empty when it can.

    Args:
        assigned: the devices that are assigned together, this one included.
        root: where `sys` and `dev` of the machine are.
    """
    try:
        tree = PciTree.from_sysfs(root / "sys")
    except VtdError as error:
        return [Finding(f"host device {address}: {error}", "see which devices there are: lspci -D")]
    if address not in tree.functions:
        return [Finding(f"host device {address}: this machine has no such device", "lspci -D lists them")]
    if tree.functions[address].group is None:
        remedy = "turn VT-d on in the firmware's setup, and boot with intel_iommu=on"
        missing = "" if (root / _DMAR).exists() else ", and the machine has no DMAR table"
        return [Finding(f"host device {address}: the kernel has no IOMMU group for it{missing}", remedy)]
    try:
        table = Dmar.parse(read_table(root / _DMAR), strict=False)
    except InputError as error:
        refused = isinstance(error.__cause__, PermissionError)
        remedy = "run this as root: only root may read the table" if refused else _NO_DMAR
        return [Finding(f"host device {address}: {error}", remedy)]
    except VtdError as error:
        return [Finding(f"host device {address}: DMAR: {error}", "see vtd dmar lint")]
    placement = place(table, tree)[address]
    found = [Finding(f"host device {address}: {why}", _CHOOSE_ANOTHER) for why in placement.obstacles]
    return found or [*_drivers(placement, assigned, root), *_group_file(placement, root)]


_NO_DMAR = "turn VT-d on in the firmware's setup; only machines with VT-d are supported"
_CHOOSE_ANOTHER = "vtd dmar topology shows which devices can be assigned"


def _drivers(placement: Placement, assigned: Collection[PciAddress], root: Path) -> Iterator[Finding]:
    """The drivers of the device and of its group: a group is assigned as a whole. Nothing is changed."""
    address = placement.function.address
    driver = _driver(address, root)
    if driver != "vfio-pci":
        yield Finding(
            f"host device {address}: its driver is {driver or 'none'}, not vfio-pci", _binding(address, driver)
        )
    for mate in placement.together:
        driver = _driver(mate, root)
        if mate not in assigned and driver is not None and driver not in _VIABLE:
            what = f"host device {address}: {mate} of its IOMMU group {placement.group} has the driver {driver}"
            yield Finding(what, f"the group is assigned as a whole: {_binding(mate, driver)}")


def _driver(address: PciAddress, root: Path) -> str | None:
    link = root / f"sys/bus/pci/devices/{address}/driver"
    return link.resolve().name if link.exists() else None


def _binding(address: PciAddress, driver: str | None) -> str:
    """The commands that give a device to vfio-pci."""
    device = f"/sys/bus/pci/devices/{address}"
    unbind = f"echo {address} > {device}/driver/unbind; " if driver else ""
    probing = f"echo vfio-pci > {device}/driver_override; {unbind}echo {address} > /sys/bus/pci/drivers_probe"
    return f"as root: modprobe vfio-pci; {probing}"


def _group_file(placement: Placement, root: Path) -> Iterator[Finding]:
    file = root / f"dev/vfio/{placement.group}"
    if not os.access(file, os.R_OK | os.W_OK):
        what = f"host device {placement.function.address}: {file} cannot be opened"
        yield Finding(what, f"as root: chown {os.getuid()} {file}" if file.exists() else "is a member on vfio-pci?")
