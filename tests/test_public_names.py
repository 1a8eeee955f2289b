"""Every type that a user of `iommu` meets can be imported from `iommu`; those of the DMAR from `iommu.dmar`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import iommu
import iommu.dmar
from iommu import DmaRequest, InterruptRequest, PageRequest, RemappingUnit, SourceId
from iommu.engine.parts import Parts
from tests.engine.interrupting import POSTED_71, Interrupting, request
from tests.engine.scalable_world import ADDRESS, second_stage
from tests.engine.world import NIC, READ

PUBLIC = {getattr(iommu, name) for name in iommu.__all__} | {getattr(iommu.dmar, name) for name in iommu.dmar.__all__}
# Parts of a unit that a subclass overrides; whoever does so works inside the engine.
PARTS = set(typing.get_type_hints(Parts))
SPECIAL = ("__init__", "__call__", "__getitem__", "__iter__")


def types_in(annotation: object) -> Iterator[type]:
    """All types that an annotation names."""
    if isinstance(annotation, type):
        yield annotation
    for part in annotation if isinstance(annotation, list) else typing.get_args(annotation):
        yield from types_in(part)


def annotations_of(public: type) -> Iterator[tuple[str, object]]:
    """The annotations of a class, of its public methods and of its properties, each with a name for the message."""
    for kind in public.__mro__:
        if not kind.__module__.startswith(("iommu", "tests")):
            continue
        if kind not in (RemappingUnit, Parts):
            yield from ((f"{kind.__name__}.{name}", hint) for name, hint in typing.get_type_hints(kind).items())
        for name, member in vars(kind).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            # The constructor of a base class that is not public is not called by users.
            special = name in SPECIAL and not (
                name == "__init__" and (kind.__name__.startswith("_") or kind is Parts)
            )
            if inspect.isfunction(function) and (not name.startswith("_") or special):
                hints = typing.get_type_hints(function)
                yield from ((f"{kind.__name__}.{name}", hint) for hint in hints.values())


def unknown(public: type) -> set[str]:
    """The types of ours that a class leads to and that are not public."""
    return {
        f"{met.__module__}.{met.__name__}, in {where}"
        for where, annotation in annotations_of(public)
        if not where.rpartition(".")[2].startswith("_") or where.endswith(SPECIAL)
        for met in types_in(annotation)
        if met.__module__.startswith(("iommu", "tests")) and met not in PUBLIC
    }


@pytest.mark.parametrize("name", [name for name in iommu.__all__ if isinstance(getattr(iommu, name), type)])
def test_types_in_annotations_are_public(name: str) -> None:
    assert unknown(getattr(iommu, name)) == set()


class Hidden(NamedTuple):
    """A type that is not public."""

    number: int


class Leads:
    """A class that leads to it in each of the ways."""

    def given(self, hidden: Hidden) -> None:
        """As an argument."""

    def returned(self) -> list[Hidden | None]:
        """As a part of a result."""
        return []

    @property
    def owned(self) -> tuple[int, Hidden]:
        """As a property."""
        return 0, Hidden(0)

    @classmethod
    def made(cls) -> dict[str, Hidden]:
        """By a class method."""
        return {}

    def _private(self, hidden: Hidden) -> None:
        """Not at all."""


def test_a_new_type_would_be_noticed() -> None:
    class Result(NamedTuple):
        hidden: int

    Result.__annotations__["hidden"] = Hidden
    places = {name.rpartition(".")[2] for name in unknown(Leads)}
    assert places == {"given", "returned", "owned", "made"}
    assert {name.rpartition(".")[2] for name in unknown(Result)} == {"hidden"}


def values_in(value: Any) -> Iterator[Any]:
    """A result and everything in its public attributes."""
    yield value
    if isinstance(value, tuple | list):
        for part in value:
            yield from values_in(part)
    elif type(value) in PUBLIC and not isinstance(value, int):
        names = [name for name in dir(value) if not name.startswith("_")]
        for part in (getattr(value, name) for name in names):
            if not callable(part):
                yield from values_in(part)


def test_types_of_results_are_public() -> None:
    """Also where the annotation says `object`, for the steps of a trace. Entries are subclasses of Layout."""
    world = second_stage(audit=True)
    unit = world.unit
    world.code()
    world.put(world.second[1], 0)
    traced = unit.translate(DmaRequest(NIC, ADDRESS, READ), trace=True)
    blocked = unit.translate(DmaRequest(SourceId(1, 0, 0), ADDRESS, READ), trace=True)
    posting = Interrupting(posted_interrupts=True)
    posting.irte(0, POSTED_71)
    posting.descriptor()
    results = [
        traced,
        blocked,
        unit.audit(),
        unit.page_request(PageRequest(NIC, ADDRESS)),
        unit.remap_interrupt(InterruptRequest(NIC, 0xFEE0_1000, 0)),
        posting.unit.remap_interrupt(request(0)),
        posting.unit.drain_events(),
    ]
    assert traced.trace and traced.stale
    met = {type(value) for result in results for value in values_in(result)}
    ours = {kind for kind in met if kind.__module__.startswith("iommu")}
    assert {kind for kind in ours if not any(base in PUBLIC for base in kind.__mro__)} == set()
