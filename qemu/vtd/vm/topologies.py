"""The devices a VM can be started with, by name."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.errors import MisuseError
from qemu.vtd.conformance.topologies import CONVENTIONAL, FUNCTIONS, HOST_BRIDGE, PORTS
from qemu.vtd.topology import PLAIN, Topology


@dataclass(frozen=True)
class Named:
    """A topology, and what it is in a line."""

    topology: Topology
    title: str


TOPOLOGIES = {
    "plain": Named(PLAIN, "an edu, and two rockers that are functions of one device, on bus 0"),
    "functions": Named(FUNCTIONS, "four functions of one device on bus 0"),
    "ports": Named(PORTS, "devices behind two root ports"),
    "host-bridge": Named(HOST_BRIDGE, "devices behind the root ports of a second host bridge, bus 0x80"),
    "conventional": Named(CONVENTIONAL, "devices behind two kinds of bridges to conventional PCI"),
    "none": Named(Topology(()), "no devices besides those of every q35"),
}


def named(name: str) -> Named:
    """A topology by its name. Raises MisuseError."""
    if name not in TOPOLOGIES:
        raise MisuseError(f"there is no topology {name!r}; there are {', '.join(TOPOLOGIES)}")
    return TOPOLOGIES[name]
