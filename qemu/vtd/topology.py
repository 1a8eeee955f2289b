"""The devices of a platform: what they are, where they are plugged in, and the source-id of their requests."""

from __future__ import annotations

from dataclasses import dataclass

from iommu import SourceId
from qemu.vtd.devices import DmaSource, Edu, Rocker

_MODELS: dict[str, type[DmaSource]] = {"edu": Edu, "rocker": Rocker}


@dataclass(frozen=True)
class Place:
    """One DMA device, and where it is plugged in.

    Attributes:
        name: by which scenarios call it.
        model: "edu" reads, writes and sends any MSI; "rocker" writes.
        source_id: of its requests.
        bus: QEMU's id of the bus it is on.
        slot: its device number there; None when the source-id has it.
        function: its function number there, likewise.
        options: further QEMU properties.
    """

    name: str
    model: str
    source_id: SourceId
    bus: str = "pcie.0"
    slot: int | None = None
    function: int | None = None
    options: str = ""

    def device(self) -> DmaSource:
        """The device, for a `Machine`."""
        slot = self.source_id >> 3 & 31 if self.slot is None else self.slot
        function = self.source_id & 7 if self.function is None else self.function
        return _MODELS[self.model](slot, function, bus=self.bus, options=self.options)


@dataclass(frozen=True)
class Bridge:
    """A port, bridge or host bridge: the value of QEMU's -device."""

    arguments: str

    def command_line(self) -> list[str]:
        """The QEMU arguments that add it."""
        return ["-device", self.arguments]


@dataclass(frozen=True)
class Topology:
    """The devices of a platform by name, and the bridges above them.

    Attributes:
        places: the devices.
        bridges: in the order in which QEMU has to be told.
        root_buses: the numbers of the root buses besides bus 0: those of host bridges among `bridges`.
    """

    places: tuple[Place, ...]
    bridges: tuple[Bridge, ...] = ()
    root_buses: tuple[int, ...] = ()

    @property
    def source_ids(self) -> dict[str, SourceId]:
        """The source-ids by the names of the devices."""
        return {place.name: place.source_id for place in self.places}

    def on_bus(self, bus: str) -> list[Place]:
        """The devices on the bus with this QEMU id."""
        return [place for place in self.places if place.bus == bus]


PLAIN = Topology(
    (
        Place("A", "edu", SourceId(0, 4, 0)),
        Place("B", "rocker", SourceId(0, 5, 0), options="multifunction=on"),
        Place("C", "rocker", SourceId(0, 5, 1)),
    )
)
"""A and B are separate devices; B and C are two functions of one device."""
