"""A system of several remapping units: the DMAR says which unit remaps what (spec 8.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Self

from iommu.dmar.kinds import Andd, Drhd
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.scopes import DeviceScope, ScopeType
from iommu.dmar.table import Table
from iommu.dmar.topology import DMA_SOURCES, INTERRUPT_SOURCES, Units, target_of
from iommu.engine.ats import AtsDevice, PageRequest
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import Message
from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.page_requests.page_requests import PageRequestOutcome
from iommu.engine.policy import Policy
from iommu.engine.request import DmaRequest, Outcome, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError, RoutingError
from iommu.memory import Memory

_Remap = Callable[[InterruptRequest], InterruptOutcome]


class ScopedDevice(NamedTuple):
    """An I/O APIC, an HPET or an ACPI device, which a device scope names: its unit, segment and source-id (8.3.1)."""

    unit: RemappingUnit
    segment: int
    source_id: SourceId


class _Route:
    """What translates a device's requests where that is not simply a unit.

    `System.translate` calls `_translate` of either. A unit's own is all that `RemappingUnit.translate` calls without
    an audit or a trace. It is read for each request, since a reset replaces it. Calling `translate` instead would
    add a tenth to the time of a cached translation.
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[DmaRequest], Outcome]) -> None:
        self._translate = translate


class System:
    """The remapping units of a DMAR, and the way of each request to its unit.

        system = System.from_dmar(Dmar.parse(data), memory, Capabilities(), tree=PciTree.from_sysfs())
        system.mmio_write(0xFED90000 + RTADDR.offset, root_table, size=8)
        system.translate(DmaRequest(SourceId(0, 4, 0), 0x5000, Access.WRITE))

    Which unit it is, is the rule of iommu.dmar.topology. What the table does not decide without a PCI tree is refused
    with a RoutingError, not guessed. Without a tree every source-id is taken for that of a physical function, and for
    the one that reaches the unit.

    A device that no unit covers is not remapped, as if its unit were off: a unit has under its scope only what its
    DRHD says (8.3), and Linux, which finds no unit then (device_lookup_iommu), leaves such a device to itself.

    Attributes:
        table: the DMAR; it must not be changed afterwards.
        units: the units by register base.
        tree: the PCI functions, if they are known; `rescan` changes it.

    Raises:
        MisuseError: the table has no units, one of them is not in `units`, or their registers are at 0 or overlap.
    """

    def __init__(self, table: Table, units: Mapping[int, RemappingUnit], tree: PciTree | None = None) -> None:
        _check(table, units)
        self.table, self.units = table, {drhd.base: units[drhd.base] for drhd in table.units}
        self._windows = [(drhd.base, drhd.base + drhd.register_bytes, units[drhd.base]) for drhd in table.units]
        # What is not remapped goes through a unit that is never turned on.
        self._off = RemappingUnit(next(iter(self.units.values())).memory)
        self._absent: set[tuple[int, SourceId]] = set()
        # By segment << 16 | source-id; for segment 0 the SourceId itself, which is found faster.
        self._routes: dict[int, RemappingUnit | _Route] = {}
        self._interrupt_routes: dict[int, _Remap] = {}
        self.tree = tree
        self._remapping: dict[frozenset[int], Units] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the routes found so far lead to the original's units; a copy finds its own."""
        return vars(self) | {"_routes": {}, "_interrupt_routes": {}, "_remapping": {}}

    @classmethod
    def from_dmar(
        cls,
        table: Table,
        memory: Memory,
        capabilities: Capabilities | Mapping[int, Capabilities] | None = None,
        *,
        tree: PciTree | None = None,
        policy: Policy | None = None,
        audit: bool = False,
        stepped: bool = False,
    ) -> Self:
        """A system with one unit for each DRHD.

        Args:
            table: the DMAR (iommu.dmar.Dmar).
            memory: host memory, which the units share.
            capabilities: those of every unit, or of each unit by its register base.
            tree: the PCI functions, for scopes that are bridges or have several hops, virtual functions, and aliases.
            policy, audit, stepped: see RemappingUnit.

        Raises:
            MisuseError: `capabilities` has no entry for a unit or one for no unit, or see System.
        """
        bases = [drhd.base for drhd in table.units]
        if not isinstance(capabilities, Mapping):
            capabilities = dict.fromkeys(bases, capabilities or Capabilities())
        for base in bases:
            if base not in capabilities:
                raise MisuseError(f"capabilities has no entry for the unit at {base:#x}")
        for base in capabilities:
            if base not in bases:
                raise MisuseError(f"capabilities has an entry for {base:#x}, where the table has no unit")
        units = {
            base: RemappingUnit(memory, offered, policy, audit=audit, stepped=stepped)
            for base, offered in capabilities.items()
        }
        return cls(table, units, tree)

    # Requests.

    def translate(self, request: DmaRequest, segment: int = 0) -> Outcome:
        """Translate a request of the device `request.source_id`; its unit sees the source-id that bridges give it.

        Use `unit_for(...).translate` for a request with another source-id, or with a trace.

        Raises RoutingError if the unit or the source-id is not known, or the device has been detached.
        """
        try:
            route = self._routes[segment << 16 | request.source_id if segment else request.source_id]
        except KeyError:
            route = self._route(segment, request.source_id)
        return route._translate(request)

    def remap_interrupt(self, request: InterruptRequest, segment: int = 0) -> InterruptOutcome:
        """Remap an interrupt of a device, an I/O APIC or an HPET; see `translate`.

        Raises MisuseError for what is not an interrupt request, RoutingError as `translate` does.
        """
        request.check()
        try:
            route = self._interrupt_routes[segment << 16 | request.source_id]
        except KeyError:
            route = self._interrupt_route(segment, request.source_id)
        return route(request)

    def page_request(self, request: PageRequest, segment: int = 0) -> PageRequestOutcome:
        """Pass a page request to the unit of its device.

        Raises MisuseError for a request that no device could send, RoutingError as `translate` or without a unit.
        """
        unit, _ = self._way(segment, request.source_id, DMA_SOURCES)
        if unit is self._off:
            raise RoutingError(f"no unit takes page requests of {_address(segment, request.source_id)}")
        return unit.page_request(request)

    def drain_events(self) -> dict[int, list[Message]]:
        """The messages that units have sent since the last call, oldest first, by the register base of their unit."""
        sent = {base: unit.drain_events() for base, unit in self.units.items()}
        return {base: events for base, events in sent.items() if events}

    # Registers.

    def mmio_read(self, address: int, size: int) -> int:
        """Read `size` bytes, 4 or 8, of a unit's registers at a physical address.

        Raises RoutingError if no unit has registers there, MisuseError as RemappingUnit.mmio_read does.
        """
        unit, offset = self._register(address)
        return unit.mmio_read(offset, size)

    def mmio_write(self, address: int, value: int, size: int) -> None:
        """Write `size` bytes, 4 or 8, at a physical address. Raises as `mmio_read` does."""
        unit, offset = self._register(address)
        unit.mmio_write(offset, value, size)

    def _register(self, address: int) -> tuple[RemappingUnit, int]:
        for base, end, unit in self._windows:
            if base <= address < end:
                return unit, address - base
        raise RoutingError(f"no unit has registers at {address:#x}")

    # Which unit.

    def unit_for(self, segment: int, source_id: SourceId) -> RemappingUnit | None:
        """The unit that remaps a device's DMA; None if none does.

        Raises RoutingError if the table does not decide it without a PCI tree, or the tree lacks the bus.
        """
        return self._find(_address(segment, source_id))[0]

    def aliases(self, segment: int, source_id: SourceId) -> tuple[SourceId, ...]:
        """The source-ids that a device's requests may have (spec 3.11.1, 3.11.2); `translate` takes the last.

        Software must program the context entries of all of them alike. Without a PCI tree, only the device's own.
        Raises RoutingError if the tree does not have the type of a bridge above the device.
        """
        address = _address(segment, source_id)
        found = [address] if self.tree is None else self.tree.aliases(address)
        return tuple(SourceId(*each[1:]) for each in found)

    def io_apic(self, number: int) -> ScopedDevice:
        """The unit and the source-id of an I/O APIC, by its id in the MADT; of its first scope if it has several.

        Raises RoutingError if no scope names it, or one does by a path that needs a PCI tree.
        """
        return self._scoped(ScopeType.IOAPIC, number, "I/O APIC")

    def hpet(self, number: int) -> ScopedDevice:
        """The same for an HPET, by its number in the ACPI table."""
        return self._scoped(ScopeType.HPET, number, "HPET")

    def namespace_device(self, name: str) -> ScopedDevice:
        """The same for an ACPI namespace device, by the object name of its ANDD."""
        for andd in (structure for structure in self.table.structures if isinstance(structure, Andd)):
            if andd.object_name == name:
                return self._scoped(ScopeType.NAMESPACE, andd.device_number, f"ACPI device {name}, number")
        raise RoutingError(f"no ANDD declares an ACPI device {name}")

    def _scoped(self, kind: ScopeType, number: int, name: str) -> ScopedDevice:
        for drhd in self.table.units:
            for scope in drhd.scopes:
                if (scope.type, scope.enumeration_id) == (kind, number):
                    found = target_of(drhd.segment, scope, self.tree)
                    if found is None:
                        why = "needs a PCI tree" if self.tree is None else "the PCI tree has no such function"
                        raise RoutingError(f"{name} {number} is at {scope} of the {drhd.title}: {why}")
                    return ScopedDevice(self.units[drhd.base], drhd.segment, SourceId(*found[1:]))
        raise RoutingError(f"no scope names {name} {number}")

    def _find(
        self, address: PciAddress, sources: frozenset[int] = DMA_SOURCES
    ) -> tuple[RemappingUnit | None, DeviceScope | None]:
        """A device's unit, and the scope that says so. Raises RoutingError."""
        if sources not in self._remapping:
            self._remapping[sources] = Units(self.table, self.tree, sources)
        units = self._remapping[sources]
        if missing := units.undecided(address):
            raise RoutingError(missing)
        drhd, scope = units.unit_for(address)
        return None if drhd is None else self.units[drhd.base], scope

    def _way(self, segment: int, source_id: SourceId, sources: frozenset[int]) -> tuple[RemappingUnit, SourceId]:
        """What handles a device's requests, and the source-id that it sees."""
        if (segment, source_id) in self._absent:
            raise RoutingError(f"device {source_id} of segment {segment} has been detached")
        unit, scope = self._find(_address(segment, source_id), sources)
        # A scope gives the source-id of what PCI does not enumerate as the unit sees it: no bridge changes it.
        given = scope is not None and scope.type in _NOT_PCI
        return unit or self._off, source_id if given else self.aliases(segment, source_id)[-1]

    def _route(self, segment: int, source_id: SourceId) -> RemappingUnit | _Route:
        """Find what translates a device's requests, and keep it."""
        unit, seen = self._way(segment, source_id, DMA_SOURCES)
        route: RemappingUnit | _Route = unit
        if seen != source_id:
            route = _Route(lambda request: unit.translate(replace(request, source_id=seen)))
        elif unit.ledger is not None or type(unit).translate is not RemappingUnit.translate:
            route = _Route(unit.translate)
        self._routes[segment << 16 | source_id if segment else source_id] = route
        return route

    def _interrupt_route(self, segment: int, source_id: SourceId) -> _Remap:
        """Find what remaps a device's interrupts, and keep it."""
        unit, seen = self._way(segment, source_id, INTERRUPT_SOURCES)

        def route(request: InterruptRequest) -> InterruptOutcome:
            return unit.remap_interrupt(request._replace(source_id=seen))

        self._interrupt_routes[segment << 16 | source_id] = route
        return route

    # Hot-plug.

    def attach(self, device: AtsDevice, segment: int = 0) -> RemappingUnit:
        """A device was plugged in: it receives the device-TLB invalidations of its unit, which is returned.

        A Device that was made on that unit is attached to it already; that is allowed. Below a bridge, a device has
        the unit of the bridge (spec 8.3.4).

        Raises:
            RoutingError: it has no unit, or see `unit_for`.
            MisuseError: another device with its source-id is attached.
        """
        unit = self.unit_for(segment, device.source_id)
        if unit is None:
            raise RoutingError(f"no unit remaps the DMA of {_address(segment, device.source_id)}")
        if unit.devices.get(device.source_id) is not device:
            unit.attach(device)
        self._absent.discard((segment, device.source_id))
        return unit

    def detach(self, source_id: SourceId, segment: int = 0) -> None:
        """A device was pulled out: its requests are refused from now on.

        If it is attached to a unit, device-TLB invalidations for it time out from now on. Raises as `unit_for` does.
        """
        unit = self.unit_for(segment, source_id)
        if unit is not None and source_id in unit.devices:
            unit.detach(source_id)
        self._absent.add((segment, source_id))
        self._forget()

    def rescan(self, tree: PciTree | None) -> None:
        """Take the PCI tree as it is now, after bridges were renumbered or devices plugged (spec 8.3.5).

        What has been detached may be there again. Devices stay attached under the source-ids they had.
        """
        self.tree = tree
        self._remapping.clear()
        self._absent.clear()
        self._forget()

    def _forget(self) -> None:
        self._routes.clear()
        self._interrupt_routes.clear()


_NOT_PCI = frozenset({ScopeType.IOAPIC, ScopeType.HPET, ScopeType.NAMESPACE})


def _address(segment: int, source_id: SourceId) -> PciAddress:
    if not (isinstance(source_id, SourceId) and 0 <= segment < 1 << 16):
        raise MisuseError(f"segment {segment}, source-id {source_id!r}: not a 16-bit number and a SourceId")
    return PciAddress(segment, source_id >> 8, source_id >> 3 & 31, source_id & 7)


def _check(table: Table, units: Mapping[int, RemappingUnit]) -> None:
    """Raises MisuseError for a table that does not give each unit registers of its own, or a unit that is missing."""
    if not table.units:
        raise MisuseError("the DMAR has no remapping units")
    known: list[Drhd] = []
    for drhd in table.units:
        if drhd.base not in units:
            raise MisuseError(f"there is no unit for the DRHD at {drhd.base:#x}")
        if not drhd.base:
            raise MisuseError("a DRHD has register base 0: no unit is there; leave it out of the table")
        for other in known:
            if drhd.base < other.base + other.register_bytes and other.base < drhd.base + drhd.register_bytes:
                raise MisuseError(f"the registers of the {drhd.title} and the {other.title} overlap")
        known.append(drhd)
