"""What changed between two tables, by meaning: a unit moved its registers, a scope appeared; not byte by byte.

Structures are paired first by what identifies them (a unit's registers, a region's base), then, among those left, by
what they have in common: scopes, flags, order. A structure without a partner was added or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    left, right = list(range(len(before))), list(range(len(after)))
    partner: dict[int, int] = {}
    for alike in (_equal, _same_identity, _common_scopes, _same_role):
        for one in list(left):
            scores = [(alike(before[one], after[other]), -other) for other in right]
            best = max(scores, default=(0, 0))
            if best[0] > 0:
                partner[one] = -best[1]
                left.remove(one)
                right.remove(-best[1])
    pairs: list[tuple[Structure | None, Structure | None]] = [
        (structure, after[partner[one]] if one in partner else None) for one, structure in enumerate(before)
    ]
    return [*pairs, *((None, after[other]) for other in right)]


def _equal(one: Structure, other: Structure) -> int:
    return one == other


def _same_identity(one: Structure, other: Structure) -> int:
    return bool(one.identity) and all(getattr(one, name) == getattr(other, name) for name in one.identity)


def _common_scopes(one: Structure, other: Structure) -> int:
    return len({_key(scope) for scope in one.offered_scopes} & {_key(scope) for scope in other.offered_scopes})


def _same_role(one: Structure, other: Structure) -> int:
    """Units with INCLUDE_PCI_ALL, and structures of a type that nothing identifies: there is usually only one."""
    if isinstance(one, Drhd) and isinstance(other, Drhd):
        return one.include_all and other.include_all and one.segment == other.segment
    return not one.identity


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
