"""Which kind of domain Linux gave each device of a guest, and which the model reads in the tables."""

from __future__ import annotations

from collections.abc import Mapping

from iommu.engine.reasons import Blocked
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.registers import TableMode
from iommu.structures import ContextEntry, PasidEntry, PasidTranslationType, TranslationType
from qemu.vtd.guest.check import DEVICE, Inspection

_SHOW = "cd /sys/bus/pci/devices; for each in *; do echo $each $(cat $each/iommu_group/type); done; cd /"
_KINDS = {"identity": "pass-through", "DMA": "translated", "DMA-FQ": "translated"}
_ANYWHERE = 0x1234_5000


async def check_domains(found: Inspection) -> None:
    """Each device that Linux kept has a domain of the kind that its sysfs shows."""
    kinds = await shown(found)
    async with found.guest.unit() as unit:
        judge(found, unit, kinds)


async def shown(found: Inspection) -> dict[SourceId, str]:
    """What sysfs shows of each device, except of the one that is assigned: that is no longer in its first domain."""
    kinds = {}
    for line in (await found.guest.run(_SHOW)).splitlines():
        name, kind = line.split()
        source_id = source_id_of(name)
        if source_id != DEVICE:
            kinds[source_id] = _KINDS.get(kind, kind)
    return kinds


def source_id_of(name: str) -> SourceId:
    """The source-id in a name such as 0000:00:1f.2."""
    _, bus, rest = name.split(":")
    device, function = rest.split(".")
    return SourceId(int(bus, 16), int(device, 16), int(function, 16))


def judge(found: Inspection, unit: RemappingUnit, kinds: Mapping[SourceId, str]) -> None:
    """Compare the kinds of domains that Linux shows with those in the tables."""
    for source_id, kind in kinds.items():
        found.compare(f"domain of {source_id}", kind, kind_of(unit, source_id))
        if kind == "pass-through":
            host = unit.translate(DmaRequest(source_id, _ANYWHERE, Access.WRITE)).host_address
            found.compare(f"{source_id}: {_ANYWHERE:#x} passes through to", _ANYWHERE, host)
    found.story.append("domains: " + ", ".join(f"{source_id} {kind}" for source_id, kind in kinds.items()))


def kind_of(unit: RemappingUnit, source_id: SourceId) -> str:
    """What the device's entry says of its requests: "pass-through", "translated", or why they are blocked."""
    try:
        if unit.translation.mode == TableMode.LEGACY:
            entry = ContextEntry(unit.translation.legacy.context_entry(source_id))
            passes = entry.TT == TranslationType.PASS_THROUGH
        else:
            tables = unit.translation.scalable
            context = tables.context_of(source_id)
            raw = tables.pasid_context_of(context, source_id, context.rid_pasid).raw
            passes = PasidEntry(raw).PGTT == PasidTranslationType.PASS_THROUGH
    except Blocked as condition:
        return f"blocked, {condition.reason.name}"
    return "pass-through" if passes else "translated"
