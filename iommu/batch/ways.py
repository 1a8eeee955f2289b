"""The ways on which requests are translated: pass-through, or stages with certain levels, formats and flags."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import numpy as np

from iommu.batch.arrays import NO_ADDRESS, Bools, Int64, Uint64
from iommu.batch.first_stage import FirstStageWalk
from iommu.batch.found import READERS
from iommu.batch.second_stage import SecondStageWalk
from iommu.batch.walk import Faults, Reasons, add_faults, faults_at, first_of
from iommu.engine.caches.tables import SECOND_STAGE, FaultCodes, FirstStageRoot, Root, SecondStageRoot
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT_RANGE
from iommu.engine.translation.translation import Translation

Answer = tuple[Uint64, Reasons | None]
"""The host addresses; and the fault of each request, or 0, or None if no request has one."""


class Way(Protocol):
    """How the requests of some contexts are translated."""

    def translate(self, readers: READERS, addresses: Uint64, writes: Bools, first: Int64, second: Int64) -> Answer:
        """Translate requests.

        Args:
            first, second: the top tables, as numbers of quadwords; one if it is the same for all.
        """
        ...


class Ways:
    """All ways that a unit has been seen to use, by number. Number 0 stands for blocked requests, and has none.

    Args:
        translation: a copy of the unit's that caches nothing.
    """

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._numbers: dict[Hashable, int] = {}
        self._ways: list[Way] = []

    def __getitem__(self, number: int) -> Way:
        return self._ways[number - 1]

    def pass_through(self, blocks: Callable[[int], int]) -> int:
        """Pass-through. `blocks`: the fault reason for an address, or 0, as the unit's own code says."""
        width = self._translation.capabilities.host_address_width
        beyond, in_range = blocks(1 << width), blocks(INTERRUPT_RANGE << 20)
        return self._number((beyond, in_range), lambda: PassThrough(width, beyond, in_range))

    def stages(self, first: FirstStageRoot | None, second: SecondStageRoot | None, *, user: bool) -> int:
        """Translation by one stage or both. `user`: whether the requests are not privileged."""
        scalable = self._translation.scalable

        def make() -> Way:
            walk = None if second is None else SecondStageWalk(scalable.second_stage, second)
            if first is None:
                assert walk is not None
                return SecondStageWay(walk)
            return FirstStageWay(FirstStageWalk(scalable.first_stage, first, walk, user=user))

        return self._number((_key(first), _key(second), user), make)

    def _number(self, key: Hashable, make: Callable[[], Way]) -> int:
        number = self._numbers.get(key)
        if number is None:
            self._ways.append(make())
            number = self._numbers[key] = len(self._ways)
        return number


def _key(tables: Root | None) -> Hashable:
    """What tells two ways apart: all but addresses, domains and the attributes of pages."""
    if tables is None:
        return None
    plain: dict[str, Any] = tables._asdict()
    for name in ("address", "domain_id", "pasid", "attributes", "second"):
        plain.pop(name, None)
    codes: FaultCodes = plain.pop("codes")
    # The unit makes each tuple of formats once and keeps it.
    formats = id(plain.pop("formats"))
    return formats, tuple(plain.items()), tuple(codes.missing.items()), codes[:5], codes.not_present


class PassThrough:
    """The host address is the address (spec 3.9).

    Args:
        width: of host addresses.
        beyond, in_range: the faults for an address beyond that width, and for one in the interrupt range; 0 for none.
    """

    def __init__(self, width: int, beyond: int, in_range: int) -> None:
        self._width, self._beyond, self._in_range = width, beyond, in_range

    def translate(self, readers: READERS, addresses: Uint64, writes: Bools, first: Int64, second: Int64) -> Answer:
        """See Way."""
        reason = np.zeros(len(addresses), np.uint8)
        # LGN.1, SGN.4: the address is beyond the host address width.
        reason[addresses >> np.uint64(self._width) != 0] = self._beyond
        # SGN.8: the host address is in the interrupt range.
        reason[_in_range(addresses)] = self._in_range
        return addresses, reason


class SecondStageWay:
    """A second stage alone, in either mode."""

    def __init__(self, walk: SecondStageWalk) -> None:
        self._walk = walk

    def translate(self, readers: READERS, addresses: Uint64, writes: Bools, first: Int64, second: Int64) -> Answer:
        """See Way."""
        walk, words = self._walk, readers[self._walk.snooped]
        # LGN.1, SGN.5: the address is beyond the guest address width, or beyond what the levels can index.
        if int(addresses.max()) >> walk.bits:
            return _limited(self, addresses >> np.uint64(walk.bits) == 0, walk.codes.beyond)(
                readers, addresses, writes, first, second
            )
        wanted = walk.wanted(writes)
        leaves = walk.find(words, second, addresses.view(np.int64), wanted)
        reason = add_faults(leaves.reason, len(addresses), walk.not_permitted(leaves, wanted))
        reason = _checked_range(reason, leaves.host, walk.codes)
        reason = first_of(reason, walk.not_updated(words, leaves, writes))
        if words.marks:
            walk.mark_leaves(words, leaves, _through(reason, len(leaves.host)), writes)
        return leaves.host.view(np.uint64), reason


class FirstStageWay:
    """A first stage, alone or nested in a second stage."""

    def __init__(self, walk: FirstStageWalk) -> None:
        self._walk = walk

    def translate(self, readers: READERS, addresses: Uint64, writes: Bools, first: Int64, second: Int64) -> Answer:
        """See Way."""
        walk, words = self._walk, readers[self._walk.snooped]
        # SGN.1: the address is not canonical: the bits above the top indexed bit do not all equal it.
        address = addresses.view(np.int64)
        upper = address >> walk.bits
        canonical = (upper == 0) | (upper == -1)
        if not canonical.all():
            return _limited(self, canonical, walk.codes.beyond)(readers, addresses, writes, first, second)
        first, second = np.broadcast_to(first, len(address)), np.broadcast_to(second, len(address))
        leaves = walk.find(words, first, second, address, writes)
        reason, host = leaves.reason, leaves.host
        nested = walk.second
        if nested is not None:
            # SFS.5: the page is beyond the guest address width.
            within = host >> nested.bits == 0
            if not within.all():
                reason = first_of(reason, faults_at(~within, FaultReason.SFS_5))
            wanted = nested.wanted(writes)
            going = within if reason is None else reason == 0
            page = nested.find_some(words, second, host, wanted, going)
            reason = first_of(reason, page.reason)
            reason = add_faults(reason, len(host), nested.not_permitted(page, wanted, SECOND_STAGE))
            host = page.host
        reason = _checked_range(reason, host, walk.codes)
        reason = first_of(reason, leaves.late)
        if nested is not None:
            reason = first_of(reason, nested.not_updated(words, page, writes))
        if words.marks:
            through = _through(reason, len(host))
            walk.mark_leaves(words, leaves, through, writes)
            if nested is not None:
                nested.mark_leaves(words, page, through, writes)
        return host.view(np.uint64), reason


def _through(reason: Reasons | None, count: int) -> Int64:
    """The rows of requests that are not blocked."""
    return np.arange(count) if reason is None else np.flatnonzero(reason == 0)


def _limited(way: Way, allowed: Bools, beyond: FaultReason) -> Callable[..., Answer]:
    """The translation by a way of those requests whose addresses it takes; the others have this fault."""

    def translate(readers: READERS, addresses: Uint64, writes: Bools, first: Int64, second: Int64) -> Answer:
        hosts = np.full(len(addresses), NO_ADDRESS, np.uint64)
        reason = np.full(len(addresses), beyond, np.uint8)
        rows = np.flatnonzero(allowed)
        reason[rows] = 0
        if rows.size:
            if marks := readers[0].marks:
                marks.order = marks.order[rows]
            tables = (table if len(table) == 1 else table[rows] for table in (first, second))
            hosts[rows], faults = way.translate(readers, addresses[rows], writes[rows], *tables)
            if faults is not None:
                reason[rows] = faults
        return hosts, reason

    return translate


def _checked_range(reason: Reasons | None, host: Int64, codes: FaultCodes) -> Reasons | None:
    """LGN.4, SGN.8: the host address is in the interrupt range (3.14)."""
    inside = _in_range(host)
    if not inside.any():
        return reason
    rows = np.flatnonzero(inside)
    return add_faults(reason, len(host), Faults(rows, np.full(len(rows), codes.interrupt_range, np.uint8)))


def _in_range(addresses: Int64 | Uint64) -> Bools:
    inside: Bools = addresses >> 20 == INTERRUPT_RANGE
    return inside
