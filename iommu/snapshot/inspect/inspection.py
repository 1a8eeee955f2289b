"""All that a snapshot shows of a running system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from iommu.engine.present import Problem, Tables
from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError
from iommu.explain import Explanation, FaultReport, from_record, group
from iommu.registers import FRCD
from iommu.snapshot.inspect.cached import Cached, cached_in
from iommu.snapshot.inspect.devices import Device, Devices, Limits, Space
from iommu.snapshot.inspect.interrupts import InterruptRow, interrupt_rows, names_of
from iommu.snapshot.inspect.lenient import LenientUnit
from iommu.snapshot.inspect.meter import CutShort, MeteredMemory
from iommu.snapshot.inspect.queue import QueueState, queue_state
from iommu.snapshot.inspect.units import UnitState, unit_state
from iommu.snapshot.snapshot import Snapshot
from iommu.snapshot.unit import UnitSnapshot


@dataclass(frozen=True)
class UnitInspection:
    """What a unit has been set up to do.

    Attributes:
        unit: its registers.
        devices: each with an entry that is present, by source-id and PASID.
        spaces: the page tables that the devices use.
        interrupts: the present entries of the interrupt-remapping table.
        queue: the invalidation queue; None if the unit has none.
        faults: the faults that are recorded, those alike as one.
        odd_records: fault records that are not possible, with what is wrong.
        problems: what is in the tables and the unit refuses.
        cut_short: not all devices or tables were read: there are more than the limits allow.
        cached: what the unit of the model had cached; None where that is not known. The tables were read without it.
    """

    unit: UnitState
    devices: list[Device]
    spaces: list[Space]
    interrupts: list[InterruptRow]
    queue: QueueState | None
    faults: list[Explanation]
    odd_records: list[str]
    problems: list[Problem]
    cut_short: bool
    cached: Cached | None

    @property
    def mixed_domains(self) -> list[tuple[int, list[Device]]]:
        """The domain-ids under which translations by different tables are cached, with the devices (spec 6.2.4).

        Those of a first stage are cached by PASID as well, and those of pass-through not at all.
        """
        by_tag: dict[object, list[Device]] = {}
        for device in self.devices:
            stages = () if device.space is None else self.spaces[device.space].stages
            if stages:
                pasid = device.pasid if stages[0].stage == "first stage" else None
                by_tag.setdefault((device.domain_id, pasid), []).append(device)
        return [
            (devices[0].domain_id, devices)
            for devices in by_tag.values()
            if len({self.spaces[device.space or 0].stages for device in devices}) > 1
        ]

    @property
    def kinds_of_problems(self) -> list[tuple[Problem, int]]:
        """The first problem of each kind, and how many there are of it."""
        counts = Counter((problem.name, problem.what) for problem in self.problems)
        first: dict[tuple[str, str], Problem] = {}
        for problem in self.problems:
            first.setdefault((problem.name, problem.what), problem)
        return [(first[kind], counts[kind]) for kind in first]


def inspect_unit(
    snapshot: UnitSnapshot, limits: Limits | None = None, names: Mapping[int, str] = MappingProxyType({})
) -> UnitInspection:
    """Read all that the registers and the tables of a unit say. Raises as `UnitSnapshot.unit` does.

    `names` are those of requesters that are not PCI devices, by source-id.

    The page tables are shown as they describe it, also where a unit would refuse an entry on the way: `problems` and
    `Device.problems` say so.
    """
    limits = limits or Limits()
    memory = MeteredMemory(snapshot.memory, None)
    metered = replace(snapshot, memory=memory)
    unit, lenient = metered.unit_without_caches(), metered.unit(kind=LenientUnit)
    # Tables that are set up before translation is switched on are shown too.
    lenient.translation.switch(1)
    lenient.caches.invalidate_dma()
    tables = Tables(unit, follow_refused=True)
    devices = Devices(tables, lenient, memory, limits)
    devices.read()
    memory.allowance = limits.structures
    try:
        rows = interrupt_rows(tables, names)
    except CutShort:
        rows = []
    memory.allowance = None
    reports, odd = _faults(snapshot, unit)
    problems = [*devices.problems.values(), *tables.absent]
    problems += [row.problem for row in rows if row.problem is not None]
    return UnitInspection(
        unit_state(snapshot, unit.capabilities),
        devices.found,
        devices.spaces,
        rows,
        queue_state(metered, unit, limits.commands),
        group(reports),
        odd,
        list(dict.fromkeys(problems)),
        devices.cut_short,
        None if snapshot.state is None else cached_in(snapshot.unit().caches, limits.cached),
    )


def _faults(snapshot: UnitSnapshot, unit: RemappingUnit) -> tuple[list[FaultReport], list[str]]:
    """The recorded faults, and what is wrong with records that hold none that is possible."""
    reports, odd = [], []
    for slot in unit.registers.all(FRCD):
        if (raw := snapshot.register(slot.offset, 16)) >> 127:
            try:
                reports.append(from_record(raw))
            except MisuseError as error:
                odd.append(str(error))
    return reports, odd


@dataclass(frozen=True)
class Inspection:
    """What the units of a machine have been set up to do.

    Attributes:
        name, origin: where the snapshot comes from, and what was captured; see Contents.
        unknown: what the snapshot cannot show of any of it.
        tables_only: it holds tables and queues only.
        units: each unit.
    """

    name: str
    origin: str
    unknown: tuple[str, ...]
    tables_only: bool
    units: list[UnitInspection]


def inspect(snapshot: Snapshot, limits: Limits | None = None) -> Inspection:
    """Read all that a snapshot says. The limits are those of each unit. Raises as `UnitSnapshot.unit` does."""
    table = snapshot.table
    units = [inspect_unit(unit, limits, names_of(table, unit.register_base)) for unit in snapshot.units]
    return Inspection(snapshot.name, snapshot.origin, snapshot.unknown, snapshot.tables_only, units)
