"""A difference once more: shrunk, and run on a QEMU of its own with its trace on."""

from __future__ import annotations

from dataclasses import replace

from iommu import RemappingUnit
from qemu.vtd.fuzz.case import Case, Found
from qemu.vtd.fuzz.groups import Likeness, likeness
from qemu.vtd.fuzz.lanes import SlowLane, alone, difference
from qemu.vtd.fuzz.shrink import shrink

_COSTLY = 60
"""Candidates that are tried when each ends a QEMU."""


def smallest(
    found: Found, like: Likeness, qemu: str | None, unit: type[RemappingUnit] | None = None
) -> tuple[Found, bool]:
    """The smallest case with a difference of this kind, and whether it shows on a QEMU of its own.

    `unit` is the model's, instead of that of the QEMU's version.
    """
    lane = SlowLane(qemu, unit)
    try:
        terms = lane.terms(found.case.setup)

        def shows(case: Case) -> bool:
            seen = difference(case, lane.observe(case.setup, case), terms, "")
            return seen is not None and _alike(likeness(seen, terms), like)

        most = _COSTLY if like.kind == "end of QEMU" else 600
        case = shrink(found.case, shows, most)
    finally:
        lane.close()
    for candidate in (case, found.case):
        seen, alone_terms, trace = alone(candidate, qemu, traced=True)
        again = difference(candidate, seen, replace(alone_terms, unit=unit), found.origin)
        if again is not None:
            return replace(again, trace=trace), True
    return found, False


def _alike(one: Likeness, other: Likeness) -> bool:
    """Whether two differences are of one kind. What decided a smaller case may be another structure."""
    return (one.kind, one.expected, one.seen) == (other.kind, other.expected, other.seen)
