"""A proof that a device reaches none of some host addresses, or a request that does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from iommu.batch.reach import Reachable
from iommu.batch.reach_domains import Requester, Spaces
from iommu.batch.reach_hosts import Hosts
from iommu.batch.reach_tables import Budget
from iommu.engine.quiet import quiet_copy
from iommu.engine.request import Access, AddressType, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit


@dataclass
class Evidence:
    """What requests of one kind reach, and why not more.

    Attributes:
        requester: whose they are.
        kind: the translation in words.
        reach: all that they reach.
        below, above: the host ranges next to those that are never to be reached; None if there is none.
    """

    requester: Requester
    kind: str
    reach: Reachable
    below: range | None
    above: range | None


@dataclass
class Certificate:
    """The answer to "does this device never reach these host addresses?".

    Attributes:
        source_id, never: the question.
        counterexample: a request that reaches one of them; None if there is none.
        evidence: what each kind of requests reaches; up to the counterexample if there is one. None if the device has
            no entry that the unit accepts: all its requests are blocked.
        cut_short: not all was read: without a counterexample, nothing is proven.
    """

    source_id: SourceId
    never: range
    counterexample: DmaRequest | None = None
    evidence: list[Evidence] = field(default_factory=list)
    cut_short: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is proven."""
        return self.counterexample is None and not self.cut_short

    @property
    def entries(self) -> Counter[tuple[str, int, str]]:
        """The entries that map nothing, by stage, level and reason."""
        total: Counter[tuple[str, int, str]] = Counter()
        for each in self.evidence:
            total += each.reach.refused
        return total


def never(unit: RemappingUnit, source_id: SourceId, host: range, *, unlimited: bool = False) -> Certificate:
    """Whether a device never reaches any of a range of host addresses, by the tables as they stand in memory.

    All its requests count: with each PASID and without one, privileged ones, and translated ones where a device-TLB
    is allowed. A counterexample is one that the engine, which caches nothing, lets through.

    Args:
        unlimited: read all, however long that takes.
    """
    made = Certificate(source_id, host)
    spaces = Spaces(unit, None if unlimited else Spaces.requesters)
    groups = spaces.groups()
    made.cut_short = spaces.cut_short
    for kind, requesters in groups:
        for one in requesters:
            if one.source_id not in (None, source_id):
                continue
            own = one._replace(source_id=source_id)
            budget = Budget(None, None) if unlimited else Budget()
            found = spaces.space(kind, [own], budget).reach
            made.cut_short |= found.cut_short
            made.evidence.append(Evidence(own, kind, found, *_beside(found, host)))
            made.counterexample = _confirmed(unit, _requests(own, found, host))
            if made.counterexample is not None:
                return made
            break  # all of a group that are of one device are translated alike
    return made


def _beside(found: Reachable, host: range) -> tuple[range | None, range | None]:
    """The reached host ranges just below and above a range."""
    reached = Hosts.reached(found)
    before = int(np.searchsorted(reached.lasts, np.uint64(host.start))) - 1
    after = int(np.searchsorted(reached.firsts, np.uint64(host.stop - 1), side="right"))
    below, above = (reached.one(at) if 0 <= at < len(reached.firsts) else None for at in (before, after))
    return below, above


def _requests(one: Requester, found: Reachable, host: range) -> Iterator[DmaRequest]:
    """Requests that should reach the range."""
    assert one.source_id is not None
    hit = found.to(host)
    for each in [hit[at] for at in range(min(len(hit), 4))]:
        access = Access.WRITE if "w" in each.rights else Access.READ
        execute = each.rights == "x"
        yield DmaRequest(one.source_id, each.start, access, 1, one.pasid, one.privileged, execute=execute)
    if one.translated:
        for address in (host.start, host.stop - 1):
            yield DmaRequest(one.source_id, address, Access.WRITE, address_type=AddressType.TRANSLATED)


def _confirmed(unit: RemappingUnit, requests: Iterator[DmaRequest]) -> DmaRequest | None:
    """The first request that the engine lets through."""
    quiet = quiet_copy(unit.translation)
    return next((each for each in requests if quiet.translate(each).host_address is not None), None)
