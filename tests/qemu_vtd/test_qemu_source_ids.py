"""system.py against QEMU: the source-id of each device's fault, with ports and bridges above it.

The PCI tree is read from the configuration spaces of the running machine, and the system made by its DMAR.
"""

from pathlib import Path

import pytest

from iommu import Access, Capabilities, DmaRequest, FlatMemory, SourceId, System
from iommu.dmar import Dmar
from iommu.dmar.pci import PciAddress, PciTree, PortType
from qemu.vtd import Machine
from qemu.vtd.conformance.topologies import CONVENTIONAL, HOST_BRIDGE, PORTS
from qemu.vtd.launch import DeviceSpec
from qemu.vtd.probe import Build
from qemu.vtd.topology import PLAIN, Bridge, Place, Topology

NESTED = Topology(
    places=(
        Place("A", "edu", SourceId(0, 0, 0), bus="conventional", slot=3),
        Place("B", "rocker", SourceId(0, 0, 0), bus="express", slot=5),
    ),
    bridges=(
        Bridge("pcie-root-port,id=port1,bus=pcie.0,addr=06.0,chassis=1"),
        Bridge("pcie-pci-bridge,id=express,bus=port1"),
        Bridge("pci-bridge,id=conventional,bus=express,addr=04.0,chassis_nr=2"),
    ),
)
"""A is below a conventional bridge, that and B below one from PCI Express; the source-ids here do not count."""
ROOT, UNMAPPED = 0x1000, 0x5000
GCMD, RTADDR, CAP = 0x18, 0x20, 0x08


def tree_of(machine: Machine, root_buses: tuple[int, ...], folder: Path) -> PciTree:
    """The functions of a running machine, through a copy of what its sysfs would have."""
    buses, found = [0, *root_buses], set[int]()
    for bus in buses:  # grows by those behind the bridges
        for source in machine.pci.functions(bus):
            found.add(source)
            if machine.pci.read(source, 0x0E, 1) & 0x7F == 1:
                buses.append(machine.pci.read(source, 0x19, 1))
    for source in found:
        config = b"".join(machine.pci.read(source, at, 4).to_bytes(4, "little") for at in range(0, 256, 4))
        entry = folder / "bus" / "pci" / "devices" / str(PciAddress(0, source >> 8, source >> 3 & 31, source & 7))
        entry.mkdir(parents=True)
        (entry / "config").write_bytes(config)
    return PciTree.from_sysfs(folder)


@pytest.mark.parametrize("topology", [PLAIN, PORTS, HOST_BRIDGE, CONVENTIONAL, NESTED])
def test_a_fault_has_the_source_id_that_qemu_reports(topology: Topology, build: Build, tmp_path: Path) -> None:
    devices = [place.device() for place in topology.places]
    everything: list[DeviceSpec] = [*topology.bridges, *devices]
    with Machine(build.path, iommu={}, devices=everything, root_buses=topology.root_buses) as machine:
        tree = tree_of(machine, topology.root_buses, tmp_path)
        table = Dmar.parse(machine.dmar())
        base = machine.register_base
        records = base + 16 * (machine.qtest.read(base + CAP, 8) >> 24 & 0x3FF)
        system = System.from_dmar(table, FlatMemory(1 << 20), Capabilities(fault_records=1), tree=tree)
        ours = base + 16 * (system.mmio_read(base + CAP, 8) >> 24 & 0x3FF)
        for write in (machine.qtest.write, system.mmio_write):
            write(base + RTADDR, ROOT, 8)
            write(base + GCMD, 1 << 30, 4)
            write(base + GCMD, 1 << 31, 4)
        for device in devices:
            machine.qtest.write(records + 8, 1 << 63, 8)
            device.dma_write(UNMAPPED, 8)
            reported = machine.qtest.read(records + 8, 8)
            assert reported >> 63
            system.translate(DmaRequest(SourceId.of(device.source_id), UNMAPPED, Access.WRITE, 8))
            assert system.mmio_read(ours + 8, 8) & 0xFFFF == reported & 0xFFFF, device.name
            system.mmio_write(ours + 8, 1 << 63, 8)
            system.mmio_write(base + 0x34, 0xFF, 4)
            machine.qtest.write(base + 0x34, 0xFF, 4)
            assert reported & 0xFFFF == system.aliases(0, SourceId.of(device.source_id))[-1]
    if topology is CONVENTIONAL:
        kinds = {f.pcie_type for f in tree.functions.values() if f.is_bridge}
        assert kinds == {PortType.EXPRESS_TO_PCI, PortType.CONVENTIONAL}
