"""What a lint rule is, and what it gets to see.

A rule is one small function that yields (offset, message) for each thing it objects to:

    @rule("drhd.base-zero", Severity.ERROR, "8.3", "Give the address the chipset decodes, or leave the unit out.")
    def base_zero(view: View) -> Found:
        for offset, unit in view.of(Drhd):
            if unit.base == 0:
                yield offset + unit.offset_of("base"), "the unit has its registers at 0"

Ids are stable: a published id keeps its meaning. `source` is a section of the VT-d specification, unless it names
something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from iommu.dmar.scopes import DeviceScope, ScopeType
from iommu.dmar.structure import Structure
from iommu.dmar.table import Table

S = TypeVar("S", bound=Structure)
Found = Iterator[tuple[int, str]]


class Severity(IntEnum):
    """How bad it is for somebody who boots with this table."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One objection to a table: the rule, the place (bytes from the table's start), what is wrong, and advice."""

    rule: str
    severity: Severity
    offset: int
    message: str
    source: str
    advice: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and what is known about it. `source` is where it comes from, `advice` what to do about a finding."""

    id: str
    severity: Severity
    source: str
    advice: str
    check: Callable[[View], Found]

    def findings(self, view: View) -> Iterator[Finding]:
        """The rule's objections to a table."""
        for offset, message in self.check(view):
            yield Finding(self.id, self.severity, offset, message, self.source, self.advice)


RULES: dict[str, Rule] = {}


def rule(
    identity: str, severity: Severity, source: str, advice: str
) -> Callable[[Callable[[View], Found]], Callable[[View], Found]]:
    """Register a function as a rule. Raises TypeError for an id that is taken."""

    def register(check: Callable[[View], Found]) -> Callable[[View], Found]:
        if identity in RULES:
            raise TypeError(f"two rules are called {identity}")
        RULES[identity] = Rule(identity, severity, source, advice, check)
        return check

    return register


@dataclass(frozen=True, slots=True)
class Placed:
    """A scope with its offset and the structure it belongs to."""

    offset: int
    owner: Structure
    scope: DeviceScope

    @property
    def segment(self) -> int:
        """The PCI segment of its structure."""
        return int(getattr(self.owner, "segment", 0))

    @property
    def is_pci(self) -> bool:
        """Whether it names a PCI function: an endpoint or a bridge."""
        return self.scope.type in {ScopeType.ENDPOINT, ScopeType.BRIDGE}

    @property
    def device(self) -> tuple[int, int, int, tuple[tuple[int, int], ...]]:
        """Segment, kind, start bus and path: equal for two scopes of the same device."""
        return self.segment, self.scope.type, self.scope.bus, self.scope.path

    def offset_of(self, name: str) -> int:
        """Where a field of the scope is, in bytes from the table's start."""
        return self.offset + self.scope.offset_of(name)


class View:
    """A table as rules see it: everything with its offset, computed once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.placed = table.placed()
        self._kinds: dict[type[Structure], list[tuple[int, Any]]] = {}
        for where, structure in self.placed:
            self._kinds.setdefault(type(structure), []).append((where, structure))
        self.scopes: list[Placed] = []
        for start, structure in self.placed:
            offset = start + structure.fixed_size
            for scope in structure.offered_scopes:
                self.scopes.append(Placed(offset, structure, scope))
                offset += scope.nbytes

    def of(self, kind: type[S]) -> list[tuple[int, S]]:
        """The structures of one type with their offsets."""
        return self._kinds.get(kind, [])

    def scopes_of(self, *kinds: type[Structure]) -> list[Placed]:
        """The scopes of structures of these types."""
        return [placed for placed in self.scopes if isinstance(placed.owner, kinds)]
