"""Interrupts of a guest's devices: what QEMU made of each message is what the model makes of it.

The witnesses: QEMU's trace event for a remapped message, the guest's /proc/interrupts, and the processors that the
guest sends an interrupt to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from iommu.engine.faults.events import Message
from iommu.engine.interrupts.request import Interrupt, InterruptRequest
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from qemu.vtd.guest import nvme, pci
from qemu.vtd.guest.check import ADDRESS, DEVICE, Inspection
from qemu.vtd.guest.guest import Guest
from qemu.vtd.guest.trace import Trace, numbers

EVENT = "vtd_ir_remap_msi"
_STRANGER = SourceId(0, 30, 0)


@dataclass(frozen=True)
class Arrival:
    """An interrupt that arrived in the guest: the witness.

    Attributes:
        irq: the guest's number of it.
        source_id: the device that sent it.
        message: what the device sent.
        remapped: what QEMU made of it, each time the same.
        count: how often it arrived, by the guest's count.
        processors: the APIC ids of the processors to which the guest sends it.
        logical: the same as logical ids.
    """

    irq: int
    source_id: SourceId
    message: Message
    remapped: frozenset[Message]
    count: int
    processors: frozenset[int]
    logical: int


async def check_messages(found: Inspection, trace: Trace) -> None:
    """MSI of the assigned device and MSI-X of the NVMe controller, on each processor in turn.

    The device's interrupts must have been taken before: see `check.check_interrupt`.
    """
    for processor in range(len(await apic_ids(found.guest))):
        arrived = await arrivals(found, trace, processor)
        found.compare(f"interrupts that arrived, from MSI on processor {processor} and MSI-X", 3, len(arrived))
        async with found.guest.unit() as unit:
            for each in arrived:
                judge(found, unit, each)


async def arrivals(found: Inspection, trace: Trace, processor: int = 0) -> list[Arrival]:
    """Let both devices interrupt: the assigned one on a processor, NVMe's two queues on those that Linux selected."""
    guest = found.guest
    sent = {irq: (DEVICE, message) for irq, message in (await pci.messages(guest, ADDRESS)).items()}
    for irq in sent:
        await guest.run(f"echo {1 << processor:x} > /proc/irq/{irq}/smp_affinity")
    # Linux changes the remapping entry, or the message itself: read it again.
    sent = {irq: (DEVICE, message) for irq, message in (await pci.messages(guest, ADDRESS)).items()}
    sent |= {irq: (nvme.SOURCE, message) for irq, message in (await pci.messages(guest, nvme.ADDRESS)).items()}
    before, start = await counts(guest), trace.mark()
    await guest.ask("interrupt")
    await guest.run("echo 1 > /sys/class/nvme/nvme0/rescan_controller")
    await guest.run(nvme.READ_SOMETHING)
    after = await counts(guest)
    events = [numbers(line) for line in trace.lines(EVENT, start)]
    ids = await apic_ids(guest)
    arrived = []
    for irq, (source_id, message) in sent.items():
        if after[irq] > before[irq]:
            remapped = frozenset(Message(*event[2:4]) for event in events if tuple(event[:2]) == message)
            mask = int((await guest.run(f"cat /proc/irq/{irq}/effective_affinity")).replace(",", ""), 16)
            targets = [id_ for number, id_ in enumerate(ids) if mask >> number & 1]
            logical = 0
            for id_ in targets:
                logical |= await logical_id(found, id_)
            arrived.append(
                Arrival(irq, source_id, message, remapped, after[irq] - before[irq], frozenset(targets), logical)
            )
    return arrived


def judge(found: Inspection, unit: RemappingUnit, seen: Arrival) -> None:
    """Compare one interrupt that arrived with what the model says of it."""
    what = f"IRQ {seen.irq} of {seen.source_id}"
    outcome = unit.remap_interrupt(InterruptRequest(seen.source_id, *seen.message))
    became = [] if outcome.message is None else [outcome.message]
    found.compare(f"{what}: remapped to", _shown(seen.remapped), _shown(became))
    stranger = unit.remap_interrupt(InterruptRequest(_STRANGER, *seen.message)).fault
    found.compare(f"{what}: from a device that does not own it", "0x26", stranger and hex(stranger))
    sent = outcome.remapped
    expected = hex(next(iter(seen.processors), 0))
    if sent is not None and sent.logical:
        expected = hex(seen.logical)
    found.compare(f"{what}: destination", expected, None if sent is None else hex(sent.destination))
    if sent is not None:
        found.story.append(
            f"{what}, {seen.message.address:#x} {seen.message.data:#x}: {_told(sent)}, {seen.count} arrived"
        )


def _shown(messages: frozenset[Message] | list[Message]) -> str:
    return ", ".join(f"{each.address:#x} {each.data:#x}" for each in sorted(messages))


def _told(sent: Interrupt) -> str:
    mode = "logical" if sent.logical else "physical"
    return f"vector {sent.vector:#x} for {mode} APIC id {sent.destination:#x}"


async def counts(guest: Guest) -> dict[int, int]:
    """How often each interrupt has arrived, on all processors together, by IRQ."""
    found = {}
    for line in (await guest.run("cat /proc/interrupts")).splitlines():
        if row := re.match(r" *(\d+): *((?:\d+ +)+)", line):
            found[int(row[1])] = sum(map(int, row[2].split()))
    return found


async def apic_ids(guest: Guest) -> list[int]:
    """The APIC id of each processor, by the guest's number."""
    text = await guest.run("grep ^apicid /proc/cpuinfo")
    return [int(line.rpartition(":")[2]) for line in text.splitlines()]


async def logical_id(found: Inspection, apic_id: int) -> int:
    """The logical id of a processor.

    In x2APIC mode it follows from the id (Intel's manual, volume 3, 11.12.10.2). Otherwise it is in the APIC, as QEMU
    shows it.
    """
    if found.variant.extended:
        return apic_id >> 4 << 16 | 1 << (apic_id & 0xF)
    state = str(await found.guest.qmp("human-monitor-command", command_line=f"info lapic {apic_id}"))
    register = re.search(r"\bLDR 0x([0-9a-f]+)", state)
    return int(register[1], 16) if register else 0
