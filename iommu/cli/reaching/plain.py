"""What `vtd reach` prints for programs: addresses as numbers."""

from __future__ import annotations

from typing import Any

from iommu.batch.reach import Range, Reachable
from iommu.batch.reach_domains import Requester, Space
from iommu.batch.reach_findings import Finding
from iommu.batch.reach_never import Certificate
from iommu.batch.reach_stale import Stale
from iommu.cli.reaching.found import MachineReach, UnitReach, Wanted
from iommu.cli.reaching.show import first
from iommu.snapshot.request import show_request

_MOST = 10_000


def as_dict(found: MachineReach, wanted: Wanted) -> dict[str, Any]:
    """All that is reached, as plain data; of each list at most 10,000 ranges, unless all is wanted."""
    most = None if wanted.everything else _MOST
    return {
        "name": found.name,
        "origin": found.origin,
        "ram": None if found.ram is None else [[each.start, each.stop] for each in found.ram],
        "units": [_unit(unit, wanted, most) for unit in found.units],
    }


def _unit(unit: UnitReach, wanted: Wanted, most: int | None) -> dict[str, Any]:
    spaces = [(space, space.reach if wanted.host is None else space.reach.to(wanted.host)) for space in unit.spaces]
    return {
        "register_base": unit.register_base,
        "spaces": [
            _space(space, reach, most)
            for space, reach in spaces
            if any(map(wanted.shows, space.requesters)) and (wanted.host is None or len(reach))
        ],
        "everything": [_requester(one) for one in unit.findings.everything if wanted.shows(one)],
        "findings": [_finding(each, most) for each in unit.findings.found if any(map(wanted.shows, each.requesters))],
        "stale": None if unit.stale is None else _stale(unit.stale),
        "cut_short": unit.cut_short,
    }


def _space(space: Space, reach: Reachable, most: int | None) -> dict[str, Any]:
    return {
        "kind": space.kind,
        "requesters": [_requester(one) for one in space.requesters],
        **_reach(reach, most),
    }


def _reach(reach: Reachable, most: int | None) -> dict[str, Any]:
    return {
        "count": len(reach),
        "size": reach.size,
        "ranges": [_range(each) for each in first(reach, most)],
        "cut_short": reach.cut_short,
    }


def _range(each: Range) -> dict[str, Any]:
    return {"address": each.start, "size": each.size, "host": each.host, "rights": each.rights}


def _requester(one: Requester) -> dict[str, Any]:
    device = None if one.source_id is None else str(one.source_id)
    return {**one._asdict(), "source_id": device}


def _finding(found: Finding, most: int | None) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "what": found.what,
        "requesters": [_requester(one) for one in found.requesters],
        "writers": [_requester(one) for one in found.writers],
        "size": found.reached.size,
        "writable": found.writable.size,
        "ranges": [[each.start, each.stop] for each in found.reached.ranges(most)],
    }


def _stale(found: Stale) -> dict[str, Any]:
    return {
        "cached": found.cached,
        "contexts": [str(each) for each in found.contexts],
        "pasids": [{"source_id": str(device), "pasid": pasid} for device, pasid in found.pasids],
        "pages": [page._asdict() for page in found.pages],
    }


def certificate_dict(found: Certificate, walk: dict[str, Any] | None, most: int | None) -> dict[str, Any]:
    """A proof or a counterexample. `walk`: that of the counterexample."""
    request = found.counterexample
    return {
        "device": str(found.source_id),
        "never": [found.never.start, found.never.stop],
        "holds": found.holds,
        "cut_short": found.cut_short,
        "counterexample": None if request is None else show_request(request),
        "walk": walk,
        "evidence": [
            {
                "requester": _requester(each.requester),
                "kind": each.kind,
                **_reach(each.reach, most),
                "tables": [int(table) for table in each.reach.tables[:most]],
                "entries": [
                    {"stage": stage, "level": level, "reason": reason, "count": count}
                    for (stage, level, reason), count in sorted(each.reach.refused.items())
                ],
            }
            for each in found.evidence
        ],
    }
