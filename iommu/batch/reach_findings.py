"""What matters of all that is reached: tables, memory of others, the kernel's text, what is not RAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from iommu.batch.reach_domains import Requester, Space, Spaces
from iommu.batch.reach_hosts import Hosts
from iommu.engine.present import Tables
from iommu.engine.unit import RemappingUnit

_PAGE = np.uint64(0xFFF)


class Finding(NamedTuple):
    """Host addresses that matter, and who reaches them.

    Attributes:
        kind: "tables", "domains", "kernel", "registers" or "no RAM".
        what: what is there, in words.
        requesters, writers: who reaches it, and who of them can write to any of it.
        reached, writable: the addresses, and those of them that can be written.
    """

    kind: str
    what: str
    requesters: list[Requester]
    writers: list[Requester]
    reached: Hosts
    writable: Hosts


@dataclass
class Machine:
    """What is known of a machine besides the tables of a unit.

    Attributes:
        ram: where there is RAM; None if that is not known.
        registers: the register windows of its units, each with a name.
        queues: the queues of the unit, each with a name.
        kernel: where the kernel's text is; None if that is not known.
    """

    ram: Sequence[range] | None = None
    registers: Sequence[tuple[str, range]] = ()
    queues: Sequence[tuple[str, range]] = ()
    kernel: range | None = None


@dataclass
class Findings:
    """The findings about one unit.

    Attributes:
        found: in order of importance.
        everything: the requesters that reach every host address as it is, about which nothing else is said.
    """

    found: list[Finding] = field(default_factory=list)
    everything: list[Requester] = field(default_factory=list)


Place = tuple[str, str, Hosts]
"""The kind of a Finding, what is there, and where it is."""


def places(unit: RemappingUnit, asked: Spaces, spaces: Sequence[Space], machine: Machine) -> list[Place]:
    """What devices have no business with: tables and queues of the unit, registers, the kernel's text."""
    found = [("tables", what, hosts) for what, hosts in _own(unit, asked, spaces)]
    found += [("tables", what, Hosts.of_ranges([where])) for what, where in machine.queues]
    found += [("registers", what, Hosts.of_ranges([where])) for what, where in machine.registers]
    if machine.kernel is not None:
        found.append(("kernel", "the kernel's text", Hosts.of_ranges([machine.kernel])))
    return found


def findings(places: Sequence[Place], spaces: Sequence[Space], machine: Machine) -> Findings:
    """What matters of what the requesters of a unit reach."""
    made = Findings()
    sets = []
    for space in spaces:
        if space.passes:
            made.everything += space.requesters
        else:
            sets.append((space, Hosts.reached(space.reach), Hosts.reached(space.reach, writable=True)))
    for kind, what, hosts in places:
        made.found += _reaching(kind, what, hosts, sets)
    made.found += _shared(sets)
    if machine.ram is not None:
        outside = Hosts.of_ranges(machine.ram).complement()
        known = Hosts.of_ranges(where for _, where in machine.registers)
        made.found += _reaching("no RAM", "addresses without RAM", outside.outside(known), sets)
    return made


Reached = tuple[Space, Hosts, Hosts]


def _reaching(kind: str, what: str, hosts: Hosts, sets: Iterable[Reached]) -> Iterator[Finding]:
    for space, reached, writable in sets:
        if overlap := reached.within(hosts):
            written = writable.within(hosts)
            yield Finding(kind, what, space.requesters, space.requesters if written else [], overlap, written)


def _own(unit: RemappingUnit, asked: Spaces, spaces: Sequence[Space]) -> Iterator[tuple[str, Hosts]]:
    """The tables and queues of the unit: what they are, and where."""
    above: dict[str, list[range]] = {}
    for what, address, size in asked.structures:
        above.setdefault(what, []).append(range(address, address + size))
    for what, ranges in sorted(above.items(), key=lambda each: _ORDER.index(each[0])):
        yield f"a {what}" if what != "root table" else "the root table", Hosts.of_ranges(ranges)
    pages = [Hosts.of(space.reach.tables, space.reach.tables | _PAGE) for space in spaces]
    yield "page tables", Hosts.united(pages)
    if (interrupts := Tables(unit).interrupts()) is not None:
        yield "the interrupt-remapping table", _sized(interrupts.address, 16 * interrupts.length)


_ORDER = ("root table", "context table", "PASID directory", "PASID table")
_MOST_DOMAINS = 32


def _sized(address: int, size: int) -> Hosts:
    return Hosts.of_ranges([range(address, address + size)])


def _shared(sets: Sequence[Reached]) -> Iterator[Finding]:
    """What several domains reach: for each set of domains that share something, what they share."""
    domains: dict[object, list[Reached]] = {}
    for each in sets:
        for domain in {one.domain_id for one in each[0].requesters}:
            domains.setdefault(domain, []).append(each)
    if len(domains) < 2:
        return
    reached = {name: Hosts.united([each[1] for each in own]) for name, own in domains.items()}
    shared = Hosts.in_two(list(reached.values()))
    if not shared:
        return
    owns = {name: own for name, hosts in reached.items() if (own := hosts.within(shared))}
    parts = _parts(owns) if len(owns) <= _MOST_DOMAINS else {tuple(owns): shared}
    for names, hosts in parts.items():
        if len(names) < 2:
            continue
        members = [each for name in names for each in domains[name] if each[1].within(hosts)]
        written = [(each[0], each[2].within(hosts)) for each in members]
        listed = ", ".join(str(name) for name in sorted(names, key=str))
        yield Finding(
            "domains",
            f"the domains {listed}",
            _unique(space.requesters for space, _ in written),
            _unique(space.requesters for space, part in written if part),
            hosts,
            Hosts.united([part for _, part in written]),
        )


def _unique(several: Iterable[list[Requester]]) -> list[Requester]:
    return list(dict.fromkeys(one for each in several for one in each))


def _parts(owns: dict[object, Hosts]) -> dict[tuple[object, ...], Hosts]:
    """What each has, divided: for each group of them, what all of the group have, and no other."""
    parts: dict[tuple[object, ...], Hosts] = {}
    for name, own in owns.items():
        rest = own
        for others, before in list(parts.items()):
            if both := before.within(rest):
                parts[(*others, name)] = both
                parts[others] = before.outside(rest)
                rest = rest.outside(both)
        if rest:
            parts[(name,)] = rest
    return {names: hosts for names, hosts in parts.items() if hosts}
