"""Which unit remaps a device, and whether the device can be assigned to a guest.

Matching follows the specification (8.3, 8.3.1): an explicit scope first, a bridge's scope for everything below
it (the nearest bridge wins), multi-hop paths through the bridges' secondary buses, and INCLUDE_PCI_ALL for the rest
of its segment. A virtual function belongs to the unit of its physical function. ACPI namespace devices, I/O APICs and
HPETs are found by the source-id that their scope gives.

Each device has one unit (8.3). Where a table wrongly names it in two, the first in the table has it, as in Linux
(dmar_pci_bus_add_dev stops at the first unit whose scopes match). Where a unit names a bridge and another a device
below it, the nearer scope counts; Linux takes the first of the two units (device_lookup_iommu).

Assignment follows Linux: a device that is in an RMRR's scope, or below a bridge that is, cannot leave the one-to-one
mapping, except USB controllers and graphics (device_rmrr_is_relaxable); and a group is assigned as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from iommu.dmar.kinds import Drhd, Rmrr
from iommu.dmar.pci import PciAddress, PciFunction, PciTree
from iommu.dmar.scopes import DeviceScope, ScopeType
from iommu.dmar.table import Table
from iommu.errors import MisuseError

S = TypeVar("S", Drhd, Rmrr)
_PCI = frozenset({ScopeType.ENDPOINT, ScopeType.BRIDGE})
DMA_SOURCES = _PCI | {ScopeType.NAMESPACE}
"""The types of scopes that name devices with DMA."""
INTERRUPT_SOURCES = DMA_SOURCES | {ScopeType.IOAPIC, ScopeType.HPET}
"""The types of scopes that name devices with interrupts."""
_USB, _DISPLAY = 0x0C03, 0x03
_ROOT_PORT, _DOWNSTREAM = 4, 6


@dataclass(frozen=True, slots=True)
class Placement:
    """A function's place in the topology.

    Attributes:
        unit: the unit that remaps its DMA; None when none does.
        scope: the device scope that names it or a bridge above it; None under INCLUDE_PCI_ALL.
        group: its IOMMU group: the kernel's number, or one of our own where `estimated`.
        regions: the RMRRs that list it or a bridge above it.
        obstacles: the reasons why it cannot be assigned to a guest; empty when it can.
        together: the functions that must be assigned along with it.
    """

    function: PciFunction
    unit: Drhd | None
    scope: DeviceScope | None
    group: int | None
    estimated: bool
    regions: tuple[Rmrr, ...]
    obstacles: tuple[str, ...]
    together: tuple[PciAddress, ...]


def unit_for(
    table: Table, address: PciAddress, tree: PciTree | None = None, *, sources: Collection[int] = DMA_SOURCES
) -> tuple[Drhd | None, DeviceScope | None]:
    """The unit that remaps a function's DMA, and the scope that names the function or a bridge above it.

    Without a tree, only scopes of one hop can be compared: a function below a bridge that a scope names is then
    taken to belong to the unit with INCLUDE_PCI_ALL. `Units.undecided` says when that may be wrong.

    Args:
        sources: the types of scopes that count; with INTERRUPT_SOURCES it is the unit that remaps interrupts.
    """
    return Units(table, tree, sources).unit_for(address)


class _Named(Generic[S]):
    """What the scopes of structures name: found at once, however many structures there are."""

    def __init__(self, structures: Iterable[S], tree: PciTree | None, sources: Collection[int]) -> None:
        self._tree = tree
        self._named: defaultdict[PciAddress, list[tuple[S, DeviceScope]]] = defaultdict(list)
        for structure in structures:
            for scope in structure.scopes:
                target = target_of(structure.segment, scope, tree) if scope.type in sources else None
                if target is not None:
                    self._named[target].append((structure, scope))

    def of(self, address: PciAddress) -> Iterator[tuple[S, DeviceScope]]:
        """The scopes that cover a function: those that name it, then those of the bridges above it, nearest first."""
        yield from self._named.get(address, ())
        for bridge in self._tree.ancestors(address) if self._tree else ():
            for structure, scope in self._named.get(bridge.address, ()):
                if scope.type == ScopeType.BRIDGE and bridge.address != address:
                    yield structure, scope


class Units:
    """The units of a table by what they remap, for many functions. The arguments are those of `unit_for`."""

    def __init__(self, table: Table, tree: PciTree | None, sources: Collection[int] = DMA_SOURCES) -> None:
        self._tree = tree
        self._named = _Named(table.units, tree, sources)
        self._rest: dict[int, Drhd] = {}
        buses: defaultdict[int, set[int]] = defaultdict(set)
        # Scopes that may name what is below a host bridge, by its first bus: those of two units are enough.
        self._below: defaultdict[tuple[int, int], list[tuple[Drhd, DeviceScope]]] = defaultdict(list)
        for unit in table.units:
            if unit.include_all:
                self._rest.setdefault(unit.segment, unit)
            for scope in unit.scopes:
                if scope.type in _PCI:
                    buses[unit.segment].add(scope.bus)
                if scope.type in sources and (len(scope.path) > 1 or scope.type == ScopeType.BRIDGE):
                    below = self._below[unit.segment, scope.bus]
                    if len(below) < 2 and all(owner is not unit for owner, _ in below):
                        below.append((unit, scope))
        self._first_buses = {segment: sorted(each) for segment, each in buses.items()}

    def unit_for(self, address: PciAddress) -> tuple[Drhd | None, DeviceScope | None]:
        """See the function `unit_for`."""
        if self._tree is not None:
            address = _physical(self._tree, address)
        return next(self._named.of(address), (self._rest.get(address.segment), None))

    def undecided(self, address: PciAddress) -> str | None:
        """What is missing to say which unit a function belongs to; None if what `unit_for` says is certain.

        Without a tree, a scope of one hop that names the function decides, and so does its absence where no scope of
        another unit is a bridge or has several hops on the host bridge that the function is below. The start buses of
        PCI scopes are the first buses of host bridges (8.3.1). Every function is then taken to be a physical one.
        """
        unit, scope = self.unit_for(address)
        if scope is not None:
            return None
        segment, bus = address.segment, address.bus
        if self._tree is not None:
            known = self._tree.has_bus(segment, bus)
            return None if known else f"the PCI tree has no bus {bus:02x} in segment {segment}"
        first_buses = self._first_buses.get(segment, [])
        place = bisect_right(first_buses, bus)
        root = first_buses[place - 1] if place else 0
        for owner, each in self._below.get((segment, root), ()) if bus != root else ():
            if owner is not unit:
                kind = "has a path of several hops" if len(each.path) > 1 else "is a bridge"
                return f"{address} needs a PCI tree: scope {each} of the {owner.title} {kind}"
        return None


def _physical(tree: PciTree, address: PciAddress) -> PciAddress:
    """The function that counts for a virtual function: its physical one."""
    function = tree.functions.get(address)
    return address if function is None or function.physical is None else function.physical


def target_of(segment: int, scope: DeviceScope, tree: PciTree | None) -> PciAddress | None:
    """The function, or the source-id, that a scope names; None if the tree that its path needs does not have it."""
    if len(scope.path) == 1:
        return PciAddress(segment, scope.bus, *scope.path[0])
    found = tree.resolve(segment, scope.bus, scope.path) if tree else None
    return found.address if found else None


def place(table: Table, tree: PciTree) -> dict[PciAddress, Placement]:
    """The place of each function of a machine.

    Raises MisuseError when the answer would be far longer than the table and the tree: the functions of a group list
    each other.
    """
    groups, estimated = _groups(tree)
    members: defaultdict[int, list[PciFunction]] = defaultdict(list)
    for address, group in groups.items():
        members[group].append(tree.functions[address])
    _bound(sum(len(each) ** 2 for each in members.values()))
    units, regions = Units(table, tree), _regions(table, tree)
    blocked = {
        address: _obstacles(function, units.unit_for(address)[0], regions[address])
        for address, function in tree.functions.items()
    }
    said = {address: [f"{address} of its group: {why}" for why in reasons] for address, reasons in blocked.items()}
    _bound(sum(len(mates) * sum(len(said[each.address]) for each in mates) for mates in members.values()))
    result = {}
    for address, function in tree.functions.items():
        unit, scope = units.unit_for(address)
        mates = [m for m in members.get(groups.get(address, -1), []) if m.address != address and not m.is_bridge]
        obstacles = list(blocked[address])
        for mate in mates:
            obstacles += said[mate.address]
        result[address] = Placement(
            function,
            unit,
            scope,
            groups.get(address),
            estimated,
            regions[address],
            tuple(obstacles),
            tuple(mate.address for mate in mates),
        )
    return result


_MOST_LISTED = 4 << 20


def _bound(listed: int) -> None:
    """Raise MisuseError for an answer that lists too much."""
    if listed > _MOST_LISTED:
        raise MisuseError(
            f"the functions of this PCI tree share so many groups and RMRRs that {listed} lines would be listed, "
            f"more than {_MOST_LISTED}"
        )


def _regions(table: Table, tree: PciTree) -> dict[PciAddress, tuple[Rmrr, ...]]:
    """The RMRRs of each function, in the table's order. Raises MisuseError as `place` does."""
    rmrrs = [structure for structure in table.structures if isinstance(structure, Rmrr)]
    order = {id(region): number for number, region in enumerate(rmrrs)}
    named, found, listed = _Named(rmrrs, tree, DMA_SOURCES), dict[PciAddress, tuple[Rmrr, ...]](), 0
    for address in tree.functions:
        numbers = {order[id(region)] for region, _ in named.of(_physical(tree, address))}
        listed += len(numbers)
        _bound(listed)
        found[address] = tuple(rmrrs[number] for number in sorted(numbers))
    return found


def _obstacles(function: PciFunction, unit: Drhd | None, regions: Iterable[Rmrr]) -> list[str]:
    """Why a function itself cannot be assigned."""
    found = []
    if function.is_bridge:
        found.append("it is a bridge")
    if unit is None:
        found.append("no unit remaps its DMA")
    relaxable = function.class_code >> 8 == _USB or function.class_code >> 16 == _DISPLAY
    for region in () if relaxable else regions:
        found.append(f"firmware needs {region.base:#x} to {region.limit:#x} mapped one to one for it (RMRR)")
    return found


def _groups(tree: PciTree) -> tuple[dict[PciAddress, int], bool]:
    """Each function's IOMMU group; the kernel's where it has any, otherwise estimated as Linux would form them.

    The estimate is pessimistic: where ACS could not be read, there is none.
    """
    known = {address: function.group for address, function in tree.functions.items() if function.group is not None}
    if known:
        return known, False
    joined: dict[tuple[int, int, int], PciAddress] = {}  # the first function of each slot that is not isolated
    for address, function in tree.functions.items():
        if not function.isolated:
            joined.setdefault(address[:3], address)
    numbers: dict[PciAddress, int] = {}
    count = 0
    for address, function in tree.functions.items():
        leader = _leader(tree, function, joined)
        if leader not in numbers:
            numbers[leader], count = count, count + 1
        numbers[address] = numbers[leader]
    return numbers, True


def _leader(tree: PciTree, function: PciFunction, joined: Mapping[tuple[int, int, int], PciAddress]) -> PciAddress:
    """The function that a group is named after: the topmost one that isolation does not separate from this one."""
    top = function
    for bridge in tree.ancestors(function.address):
        port = bridge.pcie_type in {_ROOT_PORT, _DOWNSTREAM}
        if port and bridge.isolated:
            break
        top = bridge
    return top.address if top.isolated else joined[top.address[:3]]
