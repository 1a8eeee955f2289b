"""What changed between two tables, by meaning: a unit moved its registers, a scope appeared; not byte by byte.

Structures are paired first by what identifies them (a unit's registers, a region's base), then, among those left, by
what they have in common: scopes, flags, order. What finds no partner was added or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iommu.dmar.layouts import SCOPE_TYPES, HeaderLayout, ScopeType
from iommu.dmar.model import Andd, DeviceScope, Drhd, Rhsa, Rmrr, Structure, Unknown
from iommu.dmar.table import Dmar

# Length, checksum and the like follow from the rest.
_DERIVED = {"length", "checksum"}
_HEX = {"base", "limit", "flags", "reserved", "oem_revision", "compiler_revision", "size"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change: what it is about, and the values before and after; None where there was nothing."""

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


def difference(old: Dmar, new: Dmar) -> list[Change]:
    """All changes from one table to another; empty when they mean the same."""
    return [*_header(old, new), *_structures(old, new), *_order(old, new)]


def _header(old: Dmar, new: Dmar) -> Iterator[Change]:
    for name in reversed(HeaderLayout.fields):
        key = name.lower()
        before, after = getattr(old.header, key), getattr(new.header, key)
        if key not in _DERIVED and before != after:
            yield Change("header", key, _show(key, before), _show(key, after))


def _structures(old: Dmar, new: Dmar) -> Iterator[Change]:
    for kind in dict.fromkeys(type(structure) for structure in [*old.structures, *new.structures]):
        before = [structure for structure in old.structures if type(structure) is kind]
        after = [structure for structure in new.structures if type(structure) is kind]
        for one, other in _pairs(before, after):
            if one is None or other is None:
                present = one or other
                assert present is not None
                name = None if one is None else name_of(one)
                yield Change("table", present.kind, name, None if other is None else name_of(other))
            else:
                yield from _fields(one, other)
                yield from _scopes(one, other)


def _pairs(before: list[Structure], after: list[Structure]) -> list[tuple[Structure | None, Structure | None]]:
    """Partners, in the order of the old table; then what is new."""
    left, right = list(range(len(before))), list(range(len(after)))
    partner: dict[int, int] = {}
    for alike in (_equal, _same_identity, _common_scopes, _anything):
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
    return _identity(one) is not None and _identity(one) == _identity(other)


def _common_scopes(one: Structure, other: Structure) -> int:
    return len({_scope(scope) for scope in one.offered_scopes} & {_scope(scope) for scope in other.offered_scopes})


def _anything(one: Structure, other: Structure) -> int:
    """Units that take everything, and structures of which there is usually one, are the same thing still."""
    if isinstance(one, Drhd) and isinstance(other, Drhd):
        return one.include_all and other.include_all and one.segment == other.segment
    return not isinstance(one, Drhd | Rmrr | Rhsa | Andd | Unknown)


def _identity(structure: Structure) -> tuple[Any, ...] | None:
    match structure:
        case Drhd() | Rmrr():
            return structure.segment, structure.base
        case Rhsa():
            return (structure.base,)
        case Andd():
            return (structure.object_name,)
        case Unknown():
            return (structure.code,)
    return None


def name_of(structure: Structure) -> str:
    """What people call a structure."""
    match structure:
        case Drhd():
            return f"unit at {structure.base:#x}"
        case Rmrr():
            return f"region {structure.base:#x} to {structure.limit:#x}"
        case Rhsa():
            return f"affinity of the unit at {structure.base:#x}"
        case Andd():
            return f"ACPI device {structure.object_name}"
        case Unknown():
            return f"structure of type {structure.code}"
    return structure.kind


def _fields(one: Structure, other: Structure) -> Iterator[Change]:
    names = [name.lower() for name in one.own_fields()]
    names += ["object_name"] if isinstance(one, Andd) else ["code", "data"] if isinstance(one, Unknown) else []
    for name in [*names, "rest", "declared_length"]:
        before, after = getattr(one, name), getattr(other, name)
        if before != after:
            yield Change(name_of(one), name, _show(name, before), _show(name, after))


def _scopes(one: Structure, other: Structure) -> Iterator[Change]:
    before = {_scope(scope): scope for scope in one.offered_scopes}
    after = {_scope(scope): scope for scope in other.offered_scopes}
    for key, scope in before.items():
        if key not in after:
            yield Change(name_of(one), "scope", _show_scope(scope), None)
        elif scope.flags != after[key].flags:
            subject = f"{name_of(one)}, {_show_scope(scope)}"
            yield Change(subject, "flags", f"{scope.flags:#x}", f"{after[key].flags:#x}")
    for key, scope in after.items():
        if key not in before:
            yield Change(name_of(one), "scope", None, _show_scope(scope))


def _order(old: Dmar, new: Dmar) -> Iterator[Change]:
    """Order means something among the units: the first that matches may be taken."""
    before, after = [unit.base for unit in old.units], [unit.base for unit in new.units]
    if before != after and sorted(before) == sorted(after):
        yield Change("table", "order of units", _bases(before), _bases(after))


def _bases(bases: list[int]) -> str:
    return ", ".join(f"{base:#x}" for base in bases)


def _scope(scope: DeviceScope) -> tuple[Any, ...]:
    return scope.type, scope.enumeration_id, scope.bus, scope.path


def _show_scope(scope: DeviceScope) -> str:
    known = scope.type in SCOPE_TYPES
    return f"{ScopeType(scope.type).name.lower() if known else f'type {scope.type}'} {scope}"


def _show(name: str, value: Any) -> str:
    if isinstance(value, int) and name in _HEX:
        return f"{value:#x}"
    return value.hex() if isinstance(value, bytes) else str(value)
