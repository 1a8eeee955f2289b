"""The interrupts that a remapping unit itself sends, as Linux has set them up: for faults, and for page requests."""

from __future__ import annotations

import re

from iommu.engine.ats import PageRequest
from iommu.engine.faults.events import Message
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.registers import FAULT_EVENT, PAGE_REQUEST_EVENT, PQA, PQH, PQT
from iommu.snapshot import UnitSnapshot
from iommu.structures import CompatibilityAddress, CompatibilityData, PageRequestDescriptor
from qemu.vtd.guest import messages
from qemu.vtd.guest.check import DEVICE, Inspection
from qemu.vtd.guest.trace import Trace, numbers
from qemu.vtd.quirks import POLICY, profile

EVENT = "vtd_irq_generate"
NOWHERE = 0x300_0000
"""An address that `check.inspect` leaves unmapped."""
_SMALLEST_VECTOR, _PAGE = 0x20, 0x5000


async def check_fault_event(found: Inspection, trace: Trace) -> None:
    """The message that a fault makes the model send is the one that QEMU sent. A fault has been seen before."""
    sent = [Message(*numbers(line)) for line in trace.lines(EVENT)]
    async with found.guest.snapshot() as snapshot:
        unit = listening(found, snapshot)
        unit.translate(DmaRequest(DEVICE, NOWHERE, Access.WRITE, 4))
        predicted = unit.drain_events()
    found.compare("fault event", [*map(_shown, sent[-1:])], [*map(_shown, predicted)])


def _shown(message: Message) -> str:
    return f"{message.address:#x} {message.data:#x}"


async def check_page_requests(found: Inspection) -> None:
    """Linux has given the unit a queue for page requests, and takes its interrupt; nothing here makes a request.

    The model makes one, in memory that the guest does not see, and shows where it would arrive.
    """
    guest = found.guest
    rows = re.findall(r" *(\d+):.* dmar\d+-prq", await guest.run("cat /proc/interrupts"))
    async with guest.snapshot() as snapshot:
        unit = listening(found, snapshot)
        queue = unit.page_requests.queue
        address = snapshot.register(PQA.offset, 8)
        found.compare("page requests: Linux takes their interrupt", bool(rows), queue is not None and address != 0)
        if queue is None or not rows:
            return
        where = PQA.PQA.get(address) + PQT.PQT.get(snapshot.register(PQT.offset, 8))
        queue.put(PageRequest(DEVICE, _PAGE))
        request = PageRequestDescriptor(int.from_bytes(snapshot.memory.read(where, 32), "little"))
        (event,) = unit.drain_events()
    written = f"{SourceId.of(request.RID)} {request.ADDR:#x}"
    found.compare("page requests: the next one, at the queue's tail", f"{DEVICE} {_PAGE:#x}", written)
    found.compare(
        "page requests: vector of an interrupt", True, CompatibilityData.V.get(event.data) >= _SMALLEST_VECTOR
    )
    mask = int((await guest.run(f"cat /proc/irq/{rows[0]}/effective_affinity")).replace(",", ""), 16)
    ids = [id_ for number, id_ in enumerate(await messages.apic_ids(guest)) if mask >> number & 1]
    logical = CompatibilityAddress.DM.get(event.address)
    wanted = [await messages.logical_id(found, id_) for id_ in ids] if logical else ids
    destination = event.address >> 40 << 8 | CompatibilityAddress.DEST.get(event.address)
    found.compare("page requests: destination", sum(wanted), destination)
    found.story.append(f"page requests go to {where:#x}, their interrupt to APIC id {destination:#x}")


def listening(found: Inspection, snapshot: UnitSnapshot) -> RemappingUnit:
    """A unit as `UnitSnapshot.unit` makes it, with the registers of its own interrupts and of its page requests."""
    unit = snapshot.unit(POLICY, profile(found.guest.build.version))
    layouts = [*FAULT_EVENT]
    if unit.page_requests.queue is not None:
        layouts += [*PAGE_REQUEST_EVENT, PQA, PQH]
    for layout in reversed(layouts):
        unit.mmio_write(layout.offset, snapshot.register(layout.offset, layout.bits // 8), layout.bits // 8)
    return unit
