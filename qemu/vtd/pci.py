"""PCI setup as firmware does it, at start and after each reset: configuration space, bus numbers, BARs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iommu.errors import MisuseError
from qemu.vtd.errors import DeviceError
from qemu.vtd.pipeline import Pipeline
from qemu.vtd.qtest import Qtest

ECAM = 0xB0000000
# BARs are placed here: above the addresses tests use, below the IOAPIC, the VT-d registers and the interrupt range.
MMIO_FIRST = 0xE0000000
MMIO_LIMIT = 0xFE000000

_MCH_PCIEXBAR = 0x80000060
_ECAM_ENABLED = 1
_CONFIG_ADDRESS = 0xCF8
_CONFIG_DATA = 0xCFC

_VENDOR = 0x00
_COMMAND = 0x04
_HEADER_TYPE = 0x0E
_BAR0 = 0x10
_BUS_NUMBERS = 0x18
_MEMORY_WINDOW = 0x20
_PREFETCHABLE_WINDOW = 0x24

_CAPABILITIES = 0x34

_MEMORY_AND_MASTER = 0x6
_MULTIFUNCTION = 0x80
_BRIDGE = 1
_WINDOW = 1 << 20


def source_id(bus: int, slot: int, function: int = 0) -> int:
    """The 16-bit requester id. Raises MisuseError when a part is out of range."""
    if not (0 <= bus <= 255 and 0 <= slot <= 31 and 0 <= function <= 7):
        raise MisuseError(f"no such PCI function: {bus:#x}:{slot:#x}.{function}")
    return bus << 8 | slot << 3 | function


@dataclass(frozen=True)
class Bar:
    """A memory BAR: its index, its size in bytes, its address, and whether it is 64 bits wide."""

    index: int
    size: int
    address: int
    is_64_bit: bool


class Pci:
    """The machine's PCI functions.

    The first `set_up` enumerates the functions and chooses bus numbers and BAR addresses. Its writes are recorded, so
    that each later `set_up` is a single pipeline of writes.

    Args:
        root_buses: numbers of root buses besides bus 0, fixed by QEMU. The buses behind one have the next numbers.
    """

    def __init__(self, qtest: Qtest, root_buses: Sequence[int] = ()) -> None:
        self._qtest = qtest
        self._root_buses = root_buses
        self._script: list[tuple[int, int, int]] = []
        self._next_mmio = MMIO_FIRST
        self._next_bus = 1
        self.bars: dict[int, dict[int, Bar]] = {}
        """Memory BARs of every function found, by source-id and BAR index."""

    def set_up(self, pipeline: Pipeline | None = None) -> None:
        """Enable ECAM, number the buses, place the BARs, enable memory decoding and bus mastering.

        Args:
            pipeline: where to queue the writes of a later setup; by default they are sent immediately.
        """
        if not self._script:
            with self._qtest.pipeline() as first:
                _enable_ecam(first)
            self._enumerate(0)
            for bus in self._root_buses:
                self._next_bus = bus + 1
                self._enumerate(bus)
        elif pipeline is None:
            with self._qtest.pipeline() as again:
                self._replay(again)
        else:
            self._replay(pipeline)

    def _replay(self, pipeline: Pipeline) -> None:
        _enable_ecam(pipeline)
        for address, value, size in self._script:
            pipeline.write(address, value, size)

    def read(self, source: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of a function's configuration space; all ones when there is no such function."""
        return self._qtest.read(_address(source, offset, size), size)

    def write(self, source: int, offset: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes of a function's configuration space. Not repeated after a reset."""
        self._qtest.write(_address(source, offset, size), value, size)

    def capability(self, source: int, id_: int) -> int:
        """Offset of a function's PCI capability. Raises DeviceError when it has none with this id."""
        offset = self.read(source, _CAPABILITIES, 1)
        while offset and self.read(source, offset, 1) != id_:
            offset = self.read(source, offset + 1, 1)
        if not offset:
            raise DeviceError(f"PCI function {_name(source)} has no capability {id_:#x}")
        return offset

    def renumber(self, bridge: int, number: int) -> None:
        """Give the bus behind a bridge another number, and its functions other source-ids, until a reset.

        The bridges above have to forward that number: those of a root bus forward any.
        """
        old = self.read(bridge, _BUS_NUMBERS, 4)
        self.write(bridge, _BUS_NUMBERS, old & ~0xFFFF00 | number << 8 | number << 16, 4)
        moved = {source: bars for source, bars in self.bars.items() if source >> 8 == old >> 8 & 0xFF}
        self.bars |= {number << 8 | source & 0xFF: bars for source, bars in moved.items()}

    def bar(self, source: int, index: int) -> int:
        """Address of a function's memory BAR. Raises DeviceError when the function has no such BAR."""
        try:
            return self.bars[source][index].address
        except KeyError:
            raise DeviceError(f"PCI function {_name(source)} has no memory BAR {index}") from None

    def _write_recorded(self, pipeline: Pipeline, source: int, offset: int, value: int, size: int) -> None:
        """A write that every later `set_up` repeats."""
        address = _address(source, offset, size)
        self._script.append((address, value, size))
        pipeline.write(address, value, size)

    def functions(self, bus: int) -> list[int]:
        """The source-ids of the functions present on a bus."""
        with self._qtest.pipeline() as pipeline:
            ids = {source: pipeline.read(_address(source, _VENDOR, 4), 4) for source in range(bus << 8, bus + 1 << 8)}
        return [source for source, answer in ids.items() if answer.value not in (0, 0xFFFFFFFF)]

    def _enumerate(self, bus: int) -> None:
        for source in self.functions(bus):
            header = self.read(source, _HEADER_TYPE, 1) & ~_MULTIFUNCTION
            self._place_bars(source, 2 if header == _BRIDGE else 6)
            if header == _BRIDGE:
                self._open_bridge(bus, source)
            # Functions without BARs need no enabling, and QEMU handles a write to a command register slowly.
            if self.bars[source] or header == _BRIDGE:
                with self._qtest.pipeline() as pipeline:
                    self._write_recorded(pipeline, source, _COMMAND, _MEMORY_AND_MASTER, 2)

    def _place_bars(self, source: int, count: int) -> None:
        """Size the BARs by writing all ones (PCI Express Base Specification, section 7.5.1.2.1), and place them."""
        with self._qtest.pipeline() as pipeline:
            masks = []
            for index in range(count):
                address = _address(source, _BAR0 + 4 * index, 4)
                pipeline.write(address, 0xFFFFFFFF, 4)
                masks.append(pipeline.read(address, 4))
                pipeline.write(address, 0, 4)
        bars: dict[int, Bar] = {}
        index = 0
        while index < count:
            mask = masks[index].value
            wide = mask & 0x7 == 0x4
            if mask and not mask & 1:
                upper = masks[index + 1].value if wide else 0xFFFFFFFF
                size = (~(upper << 32 | mask & ~0xF) & (1 << 64) - 1) + 1
                bars[index] = Bar(index, size, self._allocate(size), wide)
            index += 2 if wide else 1
        with self._qtest.pipeline() as pipeline:
            for bar in bars.values():
                self._write_recorded(pipeline, source, _BAR0 + 4 * bar.index, bar.address, 4)
        self.bars[source] = bars

    def _allocate(self, size: int) -> int:
        address = -(-self._next_mmio // size) * size
        if address + size > MMIO_LIMIT:
            raise DeviceError(f"no room for a BAR of {size:#x} bytes below {MMIO_LIMIT:#x}")
        self._next_mmio = address + size
        return address

    def _open_bridge(self, bus: int, source: int) -> None:
        """Number the bus behind a bridge, set up its functions, and open the bridge's memory window for them."""
        secondary = self._next_bus
        self._next_bus += 1
        first = self._next_mmio = self._allocate(_WINDOW)
        with self._qtest.pipeline() as pipeline:
            pipeline.write(_address(source, _BUS_NUMBERS, 4), bus | secondary << 8 | 0xFF << 16, 4)
        bridge_position = len(self._script)
        self._enumerate(secondary)
        limit = self._next_mmio = max(self._allocate(_WINDOW), first + _WINDOW)
        with self._qtest.pipeline() as pipeline:
            numbers = bus | secondary << 8 | self._next_bus - 1 << 16
            pipeline.write(_address(source, _BUS_NUMBERS, 4), numbers, 4)
            # When replayed, the bus numbers must be written before the functions behind the bridge are reachable.
            self._script.insert(bridge_position, (_address(source, _BUS_NUMBERS, 4), numbers, 4))
            self._write_recorded(pipeline, source, _MEMORY_WINDOW, first >> 16 & 0xFFF0 | limit - 1 & 0xFFF00000, 4)
            self._write_recorded(pipeline, source, _PREFETCHABLE_WINDOW, 0x0000FFF0, 4)


def _enable_ecam(pipeline: Pipeline) -> None:
    pipeline.port_out(_CONFIG_ADDRESS, _MCH_PCIEXBAR, 4)
    pipeline.port_out(_CONFIG_DATA, ECAM | _ECAM_ENABLED, 4)


def queue_one(pipeline: Pipeline, source: int, address: int) -> None:
    """Queue the set-up of one function, in a machine without firmware: BAR 0 at an address, and bus mastering."""
    _enable_ecam(pipeline)
    pipeline.write(_address(source, _BAR0, 4), address, 4)
    pipeline.write(_address(source, _COMMAND, 2), _MEMORY_AND_MASTER, 2)


def _name(source: int) -> str:
    return f"{source >> 8:02x}:{source >> 3 & 31:02x}.{source & 7}"


def _address(source: int, offset: int, size: int) -> int:
    if not (0 <= source <= 0xFFFF and 0 <= offset <= 0x1000 - size and offset % size == 0):
        raise MisuseError(f"no {size}-byte access to configuration space at {offset:#x} of {source:#x}")
    return ECAM | source << 12 | offset
