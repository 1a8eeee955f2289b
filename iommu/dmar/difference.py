"""What changed between two tables, by meaning: a unit moved its registers, a scope appeared; not byte by byte.

Structures are paired first by what identifies them (a unit's registers, a region's base), then, among those left, by
what they have in common: scopes, flags, order. A structure without a partner was added or removed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from iommu.dmar.declared import Part
from iommu.dmar.kinds import Drhd
from iommu.dmar.scopes import SCOPE_TYPES, DeviceScope, ScopeType
from iommu.dmar.structure import Structure
from iommu.dmar.table import Table

# Length and checksum follow from the rest. Scopes are compared one by one, and padding only as part of the length.
_DERIVED = {"length", "checksum"}
_NOT_FIELDS = {"scopes", "padding"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change: its subject, and the values before and after; None where there was nothing."""

    subject: str
    field: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.subject}: {self.field} {self.after} appeared"
        if self.after is None:
            return f"{self.subject}: {self.field} {self.before} disappeared"
        return f"{self.subject}: {self.field} was {self.before}, is {self.after}"


def difference(old: Table, new: Table) -> list[Change]:
    """All changes from one table to another; empty when they mean the same."""
    return [*_header(old, new), *_structures(old, new), *_order(old, new)]


def _header(old: Table, new: Table) -> Iterator[Change]:
    names = [name.lower() for name in reversed(old.header.layout.fields)]
    yield from _fields("header", old.header, new.header, [name for name in names if name not in _DERIVED])


def _structures(old: Table, new: Table) -> Iterator[Change]:
    for kind in dict.fromkeys(type(structure) for structure in [*old.structures, *new.structures]):
        before = [structure for structure in old.structures if type(structure) is kind]
        after = [structure for structure in new.structures if type(structure) is kind]
        for one, other in _pairs(before, after):
            if one is None or other is None:
                name = None if one is None else one.title
                yield Change("table", kind.kind, name, None if other is None else other.title)
            else:
                yield from _fields(one.title, one, other, _compared(one))
                yield from _scopes(one, other)


def _pairs(before: list[Structure], after: list[Structure]) -> list[tuple[Structure | None, Structure | None]]:
    """Partners, in the order of the old table; then what is new."""
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for marks in (_content, _identity, _scope_marks, _role):
        left = _Unpaired(marks, after, taken)
        for number, one in enumerate(before):
            if number not in partner and (best := left.most_alike(one)) is not None:
                partner[number] = best
                taken.add(best)
    pairs: list[tuple[Structure | None, Structure | None]] = [
        (structure, after[partner[number]] if number in partner else None) for number, structure in enumerate(before)
    ]
    return [*pairs, *((None, structure) for number, structure in enumerate(after) if number not in taken)]


Marks = Callable[[Structure], Collection[Hashable]]
"""What a structure has that another may have too. The more of it two have in common, the more they are alike."""


class _Unpaired:
    """The structures that have no partner yet, by their marks. `taken`: the numbers of the others; it grows."""

    def __init__(self, marks: Marks, structures: list[Structure], taken: set[int]) -> None:
        self._marks, self._taken = marks, taken
        self._having: defaultdict[Hashable, list[int]] = defaultdict(list)
        for number in reversed(range(len(structures))):
            if number not in taken:
                for mark in marks(structures[number]):
                    self._having[mark].append(number)

    def most_alike(self, structure: Structure) -> int | None:
        """The one that has most marks in common with a structure, the first of several; None if none has any."""
        common = Counter(number for mark in self._marks(structure) for number in self._first(mark))
        return max(common, key=lambda number: (common[number], -number), default=None)

    def _first(self, mark: Hashable) -> list[int]:
        """The first ones with a mark. More are not looked at, so that the work grows as the tables do."""
        having, found = self._having.get(mark, []), list[int]()
        while having and len(found) < _MOST_ALIKE:
            if (number := having.pop()) not in self._taken:
                found.append(number)
        having += reversed(found)
        return found


_MOST_ALIKE = 16


def _content(structure: Structure) -> Collection[Hashable]:
    own = tuple(getattr(structure, item.name) for item in fields(structure) if item.name != "scopes")
    return [(own, *(tuple(getattr(scope, item.name) for item in _SCOPE) for scope in structure.offered_scopes))]


_SCOPE = fields(DeviceScope)


def _identity(structure: Structure) -> Collection[Hashable]:
    return [tuple(getattr(structure, name) for name in structure.identity)] if structure.identity else []


def _scope_marks(structure: Structure) -> Collection[Hashable]:
    return {_key(scope) for scope in structure.offered_scopes}


def _role(structure: Structure) -> Collection[Hashable]:
    """Units with INCLUDE_PCI_ALL, and structures of a type that nothing identifies: there is usually only one."""
    if isinstance(structure, Drhd):
        return [structure.segment] if structure.include_all else []
    return [] if structure.identity else [None]


def _compared(structure: Structure) -> list[str]:
    """The attributes to compare, in memory order."""
    names = [item.name for item in fields(structure) if item.name not in _NOT_FIELDS]
    return sorted(names, key=("rest", "declared_length").__contains__)


def _fields(subject: str, one: Part, other: Part, names: list[str]) -> Iterator[Change]:
    for name in names:
        if getattr(one, name) != getattr(other, name):
            yield Change(subject, name, one.show(name), other.show(name))


def _scopes(one: Structure, other: Structure) -> Iterator[Change]:
    before = {_key(scope): scope for scope in one.offered_scopes}
    after = {_key(scope): scope for scope in other.offered_scopes}
    for key, scope in before.items():
        if key not in after:
            yield Change(one.title, "scope", _show_scope(scope), None)
        elif scope.flags != after[key].flags:
            subject = f"{one.title}, {_show_scope(scope)}"
            yield Change(subject, "flags", f"{scope.flags:#x}", f"{after[key].flags:#x}")
    for key, scope in after.items():
        if key not in before:
            yield Change(one.title, "scope", None, _show_scope(scope))


def _order(old: Table, new: Table) -> Iterator[Change]:
    """The units' order has a meaning: software may take the first that matches."""
    before, after = [unit.base for unit in old.units], [unit.base for unit in new.units]
    if before != after and sorted(before) == sorted(after):
        yield Change("table", "order of units", _bases(before), _bases(after))


def _bases(bases: list[int]) -> str:
    return ", ".join(f"{base:#x}" for base in bases)


def _key(scope: DeviceScope) -> tuple[Any, ...]:
    return scope.type, scope.enumeration_id, scope.bus, scope.path


def _show_scope(scope: DeviceScope) -> str:
    known = scope.type in SCOPE_TYPES
    return f"{ScopeType(scope.type).name.lower() if known else f'type {scope.type}'} {scope}"
