"""PCI as firmware sets it up: configuration space, bus numbers, BARs, and all of it again after a reset."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.errors import MisuseError
from qemu.vtd.errors import DeviceError
from qemu.vtd.pipeline import Pipeline
from qemu.vtd.qtest import Qtest

ECAM = 0xB0000000
# BARs go here: above anything a test is likely to use as an address, below IOAPIC, VT-d and interrupts.
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
    """A memory BAR: its number, its size in bytes, where it was put, and how wide it is."""

    index: int
    size: int
    address: int
    is_64_bit: bool


class Pci:
    """The machine's PCI functions.

    The first `set_up` finds every function and decides; what it wrote is kept, so that every later one is a single
    pipeline of writes.
    """

    def __init__(self, qtest: Qtest) -> None:
        self._qtest = qtest
        self._script: list[tuple[int, int, int]] = []
        self._next_mmio = MMIO_FIRST
        self._next_bus = 1
        self.bars: dict[int, dict[int, Bar]] = {}
        """Memory BARs by source-id and BAR number, of every function found."""

    def set_up(self, pipeline: Pipeline | None = None) -> None:
        """Enable ECAM, number the buses, place the BARs, let every function decode memory and do DMA.

        Args:
            pipeline: where to put the writes of a repetition, if they shall travel with others.
        """
        if not self._script:
            with self._qtest.pipeline() as first:
                self._enable_ecam(first)
            self._enumerate(0)
        elif pipeline is None:
            with self._qtest.pipeline() as again:
                self._replay(again)
        else:
            self._replay(pipeline)

    def _enable_ecam(self, pipeline: Pipeline) -> None:
        pipeline.port_out(_CONFIG_ADDRESS, _MCH_PCIEXBAR, 4)
        pipeline.port_out(_CONFIG_DATA, ECAM | _ECAM_ENABLED, 4)

    def _replay(self, pipeline: Pipeline) -> None:
        self._enable_ecam(pipeline)
        for address, value, size in self._script:
            pipeline.write(address, value, size)

    def read(self, source: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of a function's configuration space; all ones when there is no such function."""
        return self._qtest.read(_address(source, offset, size), size)

    def write(self, source: int, offset: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes of a function's configuration space. Not repeated after a reset."""
        self._qtest.write(_address(source, offset, size), value, size)

    def bar(self, source: int, index: int) -> int:
        """Where a function's memory BAR was put. Raises DeviceError when the function has none."""
        try:
            return self.bars[source][index].address
        except KeyError:
            where = f"{source >> 8:02x}:{source >> 3 & 31:02x}.{source & 7}"
            raise DeviceError(f"PCI function {where} has no memory BAR {index}") from None

    def _decide(self, pipeline: Pipeline, source: int, offset: int, value: int, size: int) -> None:
        """A write that every later set-up repeats."""
        address = _address(source, offset, size)
        self._script.append((address, value, size))
        pipeline.write(address, value, size)

    def functions(self, bus: int) -> list[int]:
        """The source-ids of the functions that answer on a bus."""
        with self._qtest.pipeline() as pipeline:
            ids = {source: pipeline.read(_address(source, _VENDOR, 4), 4) for source in range(bus << 8, bus + 1 << 8)}
        return [source for source, answer in ids.items() if answer.value not in (0, 0xFFFFFFFF)]

    def _enumerate(self, bus: int) -> None:
        for source in self.functions(bus):
            header = self.read(source, _HEADER_TYPE, 1) & ~_MULTIFUNCTION
            self._place_bars(source, 2 if header == _BRIDGE else 6)
            if header == _BRIDGE:
                self._open_bridge(bus, source)
            # The host bridge and its like need no enabling, and each write of a command register takes QEMU a while.
            if self.bars[source] or header == _BRIDGE:
                with self._qtest.pipeline() as pipeline:
                    self._decide(pipeline, source, _COMMAND, _MEMORY_AND_MASTER, 2)

    def _place_bars(self, source: int, count: int) -> None:
        """Find the sizes by writing all ones, as section 7.5.1.2.1 of the PCI Express base specification has it."""
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
                self._decide(pipeline, source, _BAR0 + 4 * bar.index, bar.address, 4)
        self.bars[source] = bars

    def _allocate(self, size: int) -> int:
        address = -(-self._next_mmio // size) * size
        if address + size > MMIO_LIMIT:
            raise DeviceError(f"no room for a BAR of {size:#x} bytes below {MMIO_LIMIT:#x}")
        self._next_mmio = address + size
        return address

    def _open_bridge(self, bus: int, source: int) -> None:
        """Number the bus behind a bridge, set up what is there, and let the bridge forward it."""
        secondary = self._next_bus
        self._next_bus += 1
        first = self._next_mmio = self._allocate(_WINDOW)
        with self._qtest.pipeline() as pipeline:
            pipeline.write(_address(source, _BUS_NUMBERS, 4), bus | secondary << 8 | 0xFF << 16, 4)
        before_those_behind = len(self._script)
        self._enumerate(secondary)
        limit = self._next_mmio = max(self._allocate(_WINDOW), first + _WINDOW)
        with self._qtest.pipeline() as pipeline:
            numbers = bus | secondary << 8 | self._next_bus - 1 << 16
            pipeline.write(_address(source, _BUS_NUMBERS, 4), numbers, 4)
            # In a repetition the numbers must stand before what is behind the bridge can be reached.
            self._script.insert(before_those_behind, (_address(source, _BUS_NUMBERS, 4), numbers, 4))
            self._decide(pipeline, source, _MEMORY_WINDOW, first >> 16 & 0xFFF0 | limit - 1 & 0xFFF00000, 4)
            self._decide(pipeline, source, _PREFETCHABLE_WINDOW, 0x0000FFF0, 4)


def _address(source: int, offset: int, size: int) -> int:
    if not (0 <= source <= 0xFFFF and 0 <= offset <= 0x1000 - size and offset % size == 0):
        raise MisuseError(f"no {size} bytes of configuration space at {offset:#x} of {source:#x}")
    return ECAM | source << 12 | offset
