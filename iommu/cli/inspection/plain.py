"""What `vtd inspect` prints for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from iommu.cli.explain import to_dict
from iommu.engine.present import Problem
from iommu.snapshot.inspect.devices import Device, Space, rights_of
from iommu.snapshot.inspect.inspection import Inspection, UnitInspection
from iommu.snapshot.inspect.interrupts import InterruptRow


def as_dict(found: Inspection) -> dict[str, Any]:
    """The inspection as plain data: addresses as numbers, the bits of entries as hexadecimal strings."""
    return {
        "name": found.name,
        "origin": found.origin,
        "unknown": list(found.unknown),
        "tables_only": found.tables_only,
        "units": [_unit(unit) for unit in found.units],
    }


def _unit(found: UnitInspection) -> dict[str, Any]:
    queue = None if found.queue is None else asdict(found.queue)
    for side in ("done", "waiting"):
        for command in queue[side] if queue else ():
            command["raw"] = hex(command["raw"])
    return {
        **asdict(found.unit),
        "devices": [_device(each) for each in found.devices],
        "spaces": [_space(each) for each in found.spaces],
        "interrupts": [_interrupt(each) for each in found.interrupts],
        "queue": queue,
        "faults": [to_dict(each, None) for each in found.faults],
        "odd_records": found.odd_records,
        "problems": [_problem(each) for each in found.problems],
        "cut_short": found.cut_short,
        "cached": None if found.cached is None else asdict(found.cached),
    }


def _device(device: Device) -> dict[str, Any]:
    return {
        "source_id": str(device.source_id),
        "pasid": device.pasid,
        "without_pasid": device.without_pasid,
        "domain_id": device.domain_id,
        "kind": device.kind,
        "entry": device.entry,
        "context": device.context,
        "flags": list(device.flags),
        "space": device.space,
        "problems": [_problem(each) for each in device.problems],
    }


def _space(space: Space) -> dict[str, Any]:
    return {
        "stages": [asdict(stage) for stage in space.stages],
        "count": space.count,
        "size": space.size,
        "rights": dict(space.rights),
        "pages": [
            {"stage": stage, "size": size, "count": count} for (stage, size), count in sorted(space.pages.items())
        ],
        "tables": space.tables,
        "cut_short": space.cut_short,
        "ranges": [
            {"address": each.addresses.start, "size": each.size, "host": each.host, "rights": rights_of(each)}
            for each in space.ranges
        ],
    }


def _interrupt(row: InterruptRow) -> dict[str, Any]:
    return vars(row) | {
        "raw": hex(row.raw),
        "source_id": None if row.source_id is None else str(row.source_id),
        "problem": None if row.problem is None else _problem(row.problem),
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return problem._asdict() | {"raw": None if problem.raw is None else hex(problem.raw), "bits": hex(problem.bits)}
