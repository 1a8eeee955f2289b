"""Which freedom of the specification each QEMU version uses.

Where the specification leaves hardware a choice, a scenario allows several outcomes, and all of them are right. Which
one a QEMU takes is pinned here, for a change would otherwise go unseen. Quirks are something else: wrong outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

from qemu.vtd.quirks.quirk import FIRST, Version

EXPECTED = 0
"""The outcome of a version without a line: what the scenario expects, none of the others that it allows."""


@dataclass(frozen=True)
class Freedom:
    """One scenario in which QEMU takes another outcome than the expected one.

    Attributes:
        scenario: its id.
        outcome: which of the scenario's `allowed`, counted from 1.
        because: what in QEMU makes it so.
        first: the first version known to do so.
        gone: the first version that no longer does; None when every later one does.
    """

    scenario: str
    outcome: int
    because: str
    first: Version = FIRST
    gone: Version | None = None


CONTEXT_GLOBAL = "each context-cache invalidation that names a domain is performed as a global one"
SRTP_RESETS = "a new root table resets the context cache and the IOTLB"
NO_ENTRY_CACHE = "without KVM, the interrupt entry is read from memory for each interrupt"
COLLAPSED = "vtd_try_collapse_fault drops a fault while one of the same source-id is pending"
PER_LEVEL = "the walk checks R and W of an entry before it reads the next table"
NO_PASID_CACHE = "the PASID-table entry is read from memory for each walk"
ANY_TYPE = "a PASID-based invalidation drops entries of every translation type"

FREEDOMS: tuple[Freedom, ...] = (
    Freedom("cache.context.domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.root.outlives-srtp", 1, SRTP_RESETS),
    Freedom("ir.cache.other-index", 1, NO_ENTRY_CACHE),
    Freedom("ir.cache.stale", 1, NO_ENTRY_CACHE),
    Freedom("legacy.compression.same-device", 1, COLLAPSED),
    Freedom("legacy.permission.missing-above-reserved-below", 1, PER_LEVEL),
    Freedom("order.walk.table-before-permission", 1, PER_LEVEL),
    Freedom("queue.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("scalable.cache.entry.new-domain", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.only-context-cache", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.only-iotlb", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.other-pasid", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.pasid-new-domain", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.stale", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.second.by-pasid", 1, ANY_TYPE, first=(10, 0, 0)),
    Freedom("scalable.cache.srtp.alone", 1, SRTP_RESETS),
    Freedom("scalable.first.missing-above-reserved-below", 1, PER_LEVEL, first=(11, 0, 0)),
)


def freedom_of(scenario: str, version: Version) -> int:
    """The outcome that a version takes in that scenario: one of its `allowed`, counted from 1, or EXPECTED."""
    for freedom in FREEDOMS:
        known = freedom.first <= version and (freedom.gone is None or version < freedom.gone)
        if freedom.scenario == scenario and known:
            return freedom.outcome
    return EXPECTED
