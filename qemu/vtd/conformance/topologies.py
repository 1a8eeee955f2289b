"""The topologies of the chapter on source-ids. Each is small: switching translation costs more with every device."""

from iommu import SourceId
from qemu.vtd.topology import Bridge, Place, Topology

PORTS = Topology(
    places=(
        Place("A", "edu", SourceId(1, 0, 0), bus="port1", options="multifunction=on"),
        Place("B", "rocker", SourceId(1, 0, 7), bus="port1"),
        Place("C", "rocker", SourceId(2, 0, 0), bus="port2"),
        Place("D", "rocker", SourceId(0, 0x1E, 0)),
    ),
    bridges=(
        Bridge("pcie-root-port,id=port1,bus=pcie.0,addr=06.0,chassis=1"),
        Bridge("pcie-root-port,id=port2,bus=pcie.0,addr=07.0,chassis=2"),
    ),
)
"""Behind root ports. A and B are the first and last function on bus 1, C is on bus 2. D is 00:1e.0 (devfn 0xf0)."""

HOST_BRIDGE = Topology(
    places=(
        Place("A", "edu", SourceId(0x81, 0, 0), bus="port1"),
        Place("B", "rocker", SourceId(0x82, 0, 0), bus="port2"),
        Place("C", "rocker", SourceId(0, 0xF, 7), options="multifunction=on"),
        Place("D", "rocker", SourceId(0, 0x10, 0)),
    ),
    bridges=(
        Bridge("pxb-pcie,id=host,bus=pcie.0,addr=07.0,bus_nr=0x80"),
        Bridge("pcie-root-port,id=port1,bus=host,addr=12.0,chassis=1"),
        Bridge("pcie-root-port,id=port2,bus=host,addr=13.0,chassis=2"),
    ),
    root_buses=(0x80,),
)
"""A second host bridge with bus 0x80: A and B are behind its root ports. C is devfn 0x7f, D devfn 0x80."""

CONVENTIONAL = Topology(
    places=(
        Place("A", "edu", SourceId(1, 0, 0), bus="express", slot=3),
        Place("B", "rocker", SourceId(1, 0, 0), bus="express", slot=4),
        Place("C", "rocker", SourceId(0, 0x1E, 0), bus="conventional", slot=3),
    ),
    bridges=(
        Bridge("pcie-pci-bridge,id=express,bus=pcie.0,addr=08.0"),
        Bridge("i82801b11-bridge,id=conventional,bus=pcie.0,addr=1e.0"),
    ),
)
"""Behind bridges to conventional PCI.

A PCI Express bridge gives the requests of A and B the source-id of its secondary bus; C's have the conventional
bridge's own.
"""

FUNCTIONS = Topology(
    (
        Place("A", "edu", SourceId(0, 5, 0), options="multifunction=on"),
        Place("B", "rocker", SourceId(0, 5, 1)),
        Place("C", "rocker", SourceId(0, 5, 4)),
        Place("D", "rocker", SourceId(0, 5, 6)),
    )
)
"""Four functions of one device. From A to C only bit 2 of the function differs, to D bits 2 and 1, to B bit 0."""
