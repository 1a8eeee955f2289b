"""What `vtd inspect` shows of a guest is what the guest has set up for its device: no more and no less."""

from __future__ import annotations

from collections import Counter

from iommu.snapshot.inspect import Limits, Space, UnitInspection, inspect_unit
from iommu.snapshot.inspect.devices import rights_of
from qemu.vtd.guest.check import DEVICE, Inspection


async def check_shown(found: Inspection) -> None:
    """The device's pages, their sizes and permissions, its levels, and its interrupt; that the queue works."""
    async with found.guest.snapshot() as snapshot:
        judge(found, inspect_unit(snapshot, Limits(ranges=None)))


def judge(found: Inspection, seen: UnitInspection) -> None:
    """Compare what is shown with what the guest mapped."""
    devices = [each for each in seen.devices if each.source_id == DEVICE and each.without_pasid]
    found.compare("inspect: entries of the device", 1, len(devices))
    for device in devices:
        if device.space is not None:
            judge_space(found, seen.spaces[device.space])
    own = [row for row in seen.interrupts if row.source_id == DEVICE]
    found.compare("inspect: the device has an interrupt entry", True, bool(own))
    found.compare("inspect: the queue has stopped", False, seen.queue is None or bool(seen.queue.stopped))
    found.compare("inspect: all was read", True, not seen.cut_short)


def judge_space(found: Inspection, space: Space) -> None:
    """Compare page tables with the pages that the guest mapped: `found.mapped` is all that the device has."""
    pages = {address: (frame, mapping) for mapping in found.mapped for address, frame in mapping.pages()}
    sizes = Counter(mapping.page for _, mapping in pages.values())
    shown = Counter({size: count for (_, size), count in space.pages.items()})
    found.compare("inspect: pages by size", sorted(sizes.items()), sorted(shown.items()))
    found.compare("inspect: bytes mapped", sum(size * count for size, count in sizes.items()), space.size)
    found.compare("inspect: levels", [found.variant.levels], [stage.levels for stage in space.stages])
    for address, (frame, mapping) in pages.items():
        reached = next((each for each in space.ranges if address in each.addresses), None)
        model = None if reached is None else f"{reached.host_of(address):#x} {rights_of(reached)}"
        found.compare(f"inspect: {address:#x}", f"{frame:#x} {mapping.access}", model)
