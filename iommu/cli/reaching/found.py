"""What the requesters of a machine reach: all that `vtd reach` shows, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iommu.batch.reach_domains import Requester, Space, Spaces
from iommu.batch.reach_findings import Findings, Machine, findings, places
from iommu.batch.reach_hosts import Hosts
from iommu.batch.reach_stale import Stale, stale
from iommu.batch.reach_tables import Budget
from iommu.engine.request import SourceId
from iommu.errors import MisuseError
from iommu.files.documents import shown
from iommu.snapshot import Snapshot, UnitSnapshot
from iommu.snapshot.memory import ranges_of
from iommu.snapshot.request import number_of
from iommu.snapshot.tables import queues_of

Progress = Callable[[int, int], None]
"""Called with how many of the page tables have been read, and how many there are."""


@dataclass
class UnitReach:
    """One unit.

    Attributes:
        register_base: of the unit.
        spaces: what its requesters reach, those that are translated alike together.
        own: what each of its tables and queues is, and where; registers and the kernel's text too.
        findings: what of that matters.
        stale: what it has cached; None if that was not asked for, or is not known.
        caches_unknown: it was asked for, and is not known.
        cut_short: not all was read.
    """

    register_base: int
    spaces: list[Space]
    own: list[tuple[str, Hosts]]
    findings: Findings
    stale: Stale | None
    caches_unknown: bool
    cut_short: bool


@dataclass
class MachineReach:
    """All units of a snapshot.

    Attributes:
        name, origin: of the snapshot.
        ram: where it has memory; None if it has only tables.
        units: each of them.
    """

    name: str
    origin: str
    ram: list[range] | None
    units: list[UnitReach]


@dataclass(frozen=True)
class Wanted:
    """What was asked for: one device or all, a range of host addresses or all."""

    device: SourceId | None = None
    host: range | None = None
    everything: bool = False
    stale: bool = False
    kernel: range | None = None

    def shows(self, requester: Requester) -> bool:
        """Whether a requester is to be shown."""
        return self.device is None or requester.source_id in (None, self.device)


def reach_of(snapshot: Snapshot, wanted: Wanted, progress: Progress) -> MachineReach:
    """Read what all units of a snapshot let through. Raises as `UnitSnapshot.unit` does."""
    ram = None if snapshot.tables_only else list(ranges_of(snapshot.memory))
    windows = [
        (f"the registers of the unit at {each.register_base:#x}", each.register_base, len(each.registers))
        for each in snapshot.units
    ]
    registers = [(what, range(start, start + max(size, 0x1000))) for what, start, size in windows]
    made = MachineReach(snapshot.name, snapshot.origin, ram, [])
    for each in snapshot.units:
        machine = Machine(ram, registers, list(queues_of(each)), wanted.kernel)
        made.units.append(_unit(each, wanted, machine, progress))
    return made


def _unit(snapshot: UnitSnapshot, wanted: Wanted, machine: Machine, progress: Progress) -> UnitReach:
    unit = snapshot.unit_without_caches()
    asked = Spaces(unit, None if wanted.everything else Spaces.requesters)
    groups = asked.groups()
    spaces = []
    for number, (kind, requesters) in enumerate(groups):
        progress(number, len(groups))
        budget = Budget(None, None) if wanted.everything else Budget(tables=1 << 18, runs=1 << 25)
        spaces.append(asked.space(kind, requesters, budget))
    progress(len(groups), len(groups))
    cached = stale(snapshot.unit(), spaces) if wanted.stale and snapshot.state is not None else None
    cut_short = asked.cut_short or any(space.reach.cut_short for space in spaces)
    own = places(unit, asked, spaces, machine)
    found = findings(own, spaces, machine)
    unknown = wanted.stale and snapshot.state is None
    return UnitReach(
        snapshot.register_base, spaces, [(what, hosts) for _, what, hosts in own], found, cached, unknown, cut_short
    )


def parse_range(text: str, option: str) -> range:
    """Host addresses: "0x1000-0x1fff", "0x1000+0x1000", or one address. Raises MisuseError."""
    for sign in "-+":
        if sign in text:
            first, other = (number_of(part, option) for part in text.split(sign, 1))
            stop = other + 1 if sign == "-" else first + other
            break
    else:
        first = number_of(text, option)
        stop = first + 1
    if not 0 <= first < stop <= 1 << 64:
        raise MisuseError(f"{option} {shown(text)} is not a range of 64-bit addresses: give FIRST-LAST or FIRST+SIZE")
    return range(first, stop)
