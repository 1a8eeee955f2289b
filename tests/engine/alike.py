"""Whether two objects are alike in everything they hold: all attributes of all parts, and what the parts share."""

from __future__ import annotations

import mmap
import types
from collections.abc import Iterator
from enum import Enum
from functools import partial
from threading import RLock
from typing import Any

from iommu import Attributes
from iommu.engine.audit import ReadEntry

# What follows from the rest: results that were worked out before, and what only lives within one request.
PASSING = {
    "FastPath._lookups",
    "Formats._masks",
    "Formats._paging",
    "Ledger.seen",
    "Ledger._used",
    "_Structures._first_read",
    "Capabilities.offered",
    "Capabilities.cap",
    "Capabilities.ecap",
}
_LOCK = type(RLock())
_VALUES = (int, str, bytes, float, bool, range, type(None), type, set, frozenset, Attributes)


def differences(one: Any, other: Any) -> list[str]:
    """Where two objects differ, as paths with both values."""
    return list(_Comparison().walk("", one, other))


class _Comparison:
    def __init__(self) -> None:
        # Objects are kept, so that no other takes their place in memory meanwhile.
        self.partners: dict[int, tuple[Any, Any]] = {}

    def walk(self, path: str, one: Any, other: Any) -> Iterator[str]:
        if type(one) is not type(other):
            # A mode is a plain number once it was latched.
            if not (isinstance(one, int) and isinstance(other, int) and one == other):
                yield f"{path}: {one!r} and {other!r}"
        elif isinstance(one, (*_VALUES, Enum)):
            if one != other:
                yield f"{path}: {one!r} and {other!r}"
        elif isinstance(one, _LOCK):
            pass  # a lock holds nothing
        elif id(one) in self.partners:
            if self.partners[id(one)][1] is not other and not isinstance(one, ReadEntry):
                yield f"{path}: not the same object as before"
        else:
            self.partners[id(one)] = one, other
            yield from self.inside(path, one, other)

    def inside(self, path: str, one: Any, other: Any) -> Iterator[str]:
        if isinstance(one, dict):
            yield from self.walk(f"{path} keys", list(one), list(other))
            for key in one.keys() & other.keys():
                yield from self.walk(f"{path}[{key!r}]", one[key], other[key])
        elif isinstance(one, memoryview | mmap.mmap | bytearray):
            if bytes(one) != bytes(other):
                yield f"{path}: other bytes"
        elif isinstance(one, list | tuple):
            if len(one) != len(other):
                yield f"{path}: {one!r} and {other!r}"
            for n, (each, its) in enumerate(zip(one, other, strict=False)):
                yield from self.walk(f"{path}[{n}]", each, its)
        elif isinstance(one, types.MethodType | types.BuiltinMethodType):
            if one.__name__ != other.__name__:
                yield f"{path}: {one} and {other}"
            yield from self.walk(f"{path} of", one.__self__, other.__self__)
        elif isinstance(one, partial):
            yield from self.walk(f"{path} of", [one.func, *one.args], [other.func, *other.args])
        elif isinstance(one, types.FunctionType):
            yield from self.walk(f"{path} code", one.__code__.co_code, other.__code__.co_code)
            yield from self.walk(f"{path} closure", self.closure(one), self.closure(other))
        else:
            yield from self.attributes(path, one, other)

    def closure(self, function: types.FunctionType) -> list[Any]:
        return [cell.cell_contents for cell in function.__closure__ or ()]

    def attributes(self, path: str, one: Any, other: Any) -> Iterator[str]:
        names = {name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())}
        names |= {*getattr(one, "__dict__", ()), *getattr(other, "__dict__", ())}
        assert names, f"{path}: {one!r} has nothing to compare"
        kinds = [kind.__name__ for kind in type(one).__mro__]
        for name in sorted(names):
            if not any(f"{kind}.{name}" in PASSING for kind in kinds):
                missing = object()
                mine, its = getattr(one, name, missing), getattr(other, name, missing)
                yield from self.walk(f"{path}.{name}", mine, its)
