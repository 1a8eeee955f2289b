"""What is checked in a guest: the model reads the tables that Linux built, and must say what the guest saw.

The witnesses are independent of the model: the guest's pagemap, the contents of its pages, the lines that its kernel
prints, the registers that QEMU wrote, and the interrupts that arrived.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iommu.engine.interrupts.request import InterruptRequest
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from iommu.explain import linux
from iommu.registers import FRCD, TableMode
from qemu.vtd.guest.guest import Guest
from qemu.vtd.guest.variants import Variant

DEVICE = SourceId(0, 3, 0)
ADDRESS = "0000:00:03.0"
PATTERN = 0x5EED_0000_0000_0001
_LOG_SECONDS = 10
_FAULT = "fault addr"
"""In each line of the kernel about a fault."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what the witness says, and what the model says."""

    what: str
    witness: str
    model: str

    @property
    def agrees(self) -> bool:
        """Whether both say the same."""
        return self.witness == self.model


@dataclass(frozen=True)
class Mapped:
    """Memory of the guest that its device can reach: `frames` are the physical addresses of its pages."""

    address: int
    page: int
    access: str
    frames: tuple[int, ...]

    def pages(self) -> Sequence[tuple[int, int]]:
        """Each page with its physical address."""
        return [(self.address + n * self.page, frame) for n, frame in enumerate(self.frames)]


@dataclass
class Inspection:
    """What was found in one guest, so far.

    Attributes:
        story: what happened, a line each, for people.
        beyond: what QEMU accepted and the specification does not, a line each.
    """

    guest: Guest
    variant: Variant
    findings: list[Finding] = field(default_factory=list)
    mapped: list[Mapped] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)

    def compare(self, what: str, witness: object, model: object) -> None:
        """Note what the witness says and what the model says."""
        self.findings.append(Finding(what, str(witness), str(model)))

    @property
    def agrees(self) -> bool:
        """Whether all of it agrees."""
        return all(each.agrees for each in self.findings)


def guest_of(variant: Variant, qemu: str | None = None, *, command_line: str = "", **options: Any) -> Guest:
    """A guest of this variant, not yet started; `options` are further arguments of Guest.

    Raises QemuUnsuitable, on entering its block, when the QEMU cannot run it.
    """
    return Guest(
        qemu,
        iommu=variant.properties,
        command_line=f"{variant.command_line} {command_line}".strip(),
        processor=variant.processor,
        processors=variant.processors,
        refuse=variant.obstacle,
        **options,
    )


async def inspect(guest: Guest, variant: Variant) -> Inspection:
    """Everything that can be checked in a guest of this variant. Raises GuestError."""
    found = Inspection(guest, variant)
    await guest.assign(ADDRESS)
    for address, size, access, large in (
        (0x100_0000, 0x4000, "rw", False),
        (0x200_0000, 0x2000, "r", False),
        (0x4000_0000, 0x20_0000, "rw", True),
    ):
        frames = await guest.map(address, size, access=access, large=large)
        found.mapped.append(Mapped(address, 0x20_0000 if large else 0x1000, access, tuple(frames)))
    await check_tables(found)
    await check_mappings(found)
    await check_strictly(found)
    await check_copy(found)
    await check_fault(found, 0x200_1000, "the device writes to a page that it may only read")
    await check_fault(found, 0x300_0000, "the device writes to an address that is not mapped")
    await check_interrupt(found)
    return found


async def check_tables(found: Inspection) -> None:
    """The mode, the stage and the levels that Linux selected are those of the variant."""
    variant = found.variant
    async with found.guest.unit() as unit:
        outcome = unit.translate(DmaRequest(DEVICE, found.mapped[0].address, Access.READ), trace=True)
        steps = [str(step) for step in outcome.trace]
        found.compare("table mode", variant.mode.name, TableMode(unit.translation.mode).name)
        stage = "first" if variant.first_stage else "second"
        found.compare(
            f"levels of the {stage} stage", variant.levels, sum(each.startswith(f"{stage}-stage") for each in steps)
        )
        found.compare("32-bit destinations", variant.extended, unit.interrupts.extended)


async def check_mappings(found: Inspection) -> None:
    """Each page that the guest mapped is where the model says, as large, with the same permissions and contents."""
    async with found.guest.unit() as unit:
        for mapping in found.mapped:
            for address, frame in mapping.pages():
                outcome = unit.translate(DmaRequest(DEVICE, address, Access.READ))
                write = unit.translate(DmaRequest(DEVICE, address, Access.WRITE))
                host = outcome.host_address
                found.compare(f"{address:#x}: physical address", hex(frame), None if host is None else hex(host))
                found.compare(f"{address:#x}: page size", mapping.page, outcome.page_size)
                found.compare(f"{address:#x}: writable", "w" in mapping.access, write.host_address is not None)
                if host is not None:
                    # The guest wrote a number of its own to each 4 KiB, also within a large page.
                    last = address + mapping.page - 0x1000
                    end = unit.translate(DmaRequest(DEVICE, last, Access.READ)).host_address
                    for at, place in {address: host, last: end}.items():
                        found.compare(f"{at:#x}: contents", hex(at + PATTERN), contents(unit, place))
                    size = "2 MiB" if outcome.page_size >> 21 else "4 KiB"
                    found.story.append(f"{address:#12x}  {size}  {mapping.access:<2}  -> {host:#x}")


def contents(unit: RemappingUnit, host: int | None) -> str | None:
    """The quadword at a host address; None where there is no memory."""
    try:
        return None if host is None else hex(unit.memory.read_u64(host))
    except MemoryAccessError:
        return None


async def check_strictly(found: Inspection) -> None:
    """What the specification says of the same tables; a difference is QEMU's, not the guest's."""
    async with found.guest.unit(strict=True) as unit:
        outcome = unit.translate(DmaRequest(DEVICE, found.mapped[0].address, Access.READ), trace=True)
    if outcome.fault is not None:
        found.beyond.append(f"{found.mapped[0].address:#x}: {outcome.trace[-1]}")


async def check_copy(found: Inspection) -> None:
    """What the device copies from one page to another is in the page that the model names."""
    mapping = found.mapped[0]
    source, destination = mapping.pages()[0][0], mapping.pages()[2][0]
    await found.guest.copy(source, destination + 0x100, 16)
    (value,) = await found.guest.ask(f"peek {destination + 0x100:x}")
    async with found.guest.unit() as unit:
        host = unit.translate(DmaRequest(DEVICE, destination + 0x100, Access.WRITE)).host_address
        seen = None if host is None else hex(unit.memory.read_u64(host))
    found.compare(f"{destination + 0x100:#x}: what the device wrote", hex(value), seen)
    where = "nowhere that the model knows" if host is None else f"at {host:#x}"
    found.story.append(f"the device copied 16 bytes from {source:#x} to {destination + 0x100:#x}: they are {where}")


async def check_fault(
    found: Inspection, address: int, what: str, cause: Callable[[], Awaitable[None]] | None = None
) -> None:
    """The fault that the model predicts is the one that QEMU records and that the kernel prints.

    `cause` has the device write to the address; by default its owner in the guest has it copy four bytes there.
    """
    guest = found.guest
    before = await _faults(guest)
    async with guest.unit() as unit:
        predicted = unit.translate(DmaRequest(DEVICE, address, Access.WRITE, 4))
    await (guest.copy(found.mapped[0].address, address, 4) if cause is None else cause())
    # Reading from /dev/kmsg waits for the next line.
    await guest.run(
        f"timeout {_LOG_SECONDS} grep -m {len(before) + 1} '{_FAULT}' /dev/kmsg || true", 2 * _LOG_SECONDS
    )
    printed = await _faults(guest)
    line = printed[-1] if len(printed) > len(before) else None
    last = "it prints none" if line is None else linux_fault(line)
    model = f"{DEVICE} write {address & ~0xFFF:#x} {predicted.fault and int(predicted.fault):#04x}"
    found.compare(f"{what}: the kernel's line", last, model)
    async with guest.unit() as unit:
        record = FRCD(_record(unit, await guest.registers()))
    seen = f"{SourceId.of(record.SID)} {'read' if record.T1 else 'write'} {record.FI:#x} {record.FR:#04x}"
    found.compare(f"{what}: the fault record", seen, model)
    found.story += [f"{what}, {address:#x}: {model.rsplit(maxsplit=1)[-1]}", f"    {(line or last).strip()}"]


def linux_fault(line: str) -> str:
    """A line of the kernel, as `vtd explain` reads it."""
    (report,) = linux.faults([line])
    return f"{report.source_id} {report.kind} {report.address or 0:#x} {report.code:#04x}"


def _record(unit: RemappingUnit, registers: bytes) -> int:
    """The first fault recording register: the kernel has cleared F, and QEMU keeps the other fields."""
    at = unit.capabilities.fault_record_offset
    return int.from_bytes(registers[at : at + 16], "little")


async def _faults(guest: Guest) -> list[str]:
    return [line for line in (await guest.run("dmesg")).splitlines() if _FAULT in line]


async def check_interrupt(found: Inspection) -> None:
    """The device's MSI finds an entry with the right source, and the interrupt arrives."""
    guest = found.guest
    await guest.ask("interrupts")
    config = await guest.run(f"hexdump -v -e '1/1 \"%02x\"' /sys/bus/pci/devices/{ADDRESS}/config")
    address, data = _msi(bytes.fromhex(config.strip()))
    async with guest.unit() as unit:
        outcome = unit.remap_interrupt(InterruptRequest(DEVICE, address, data))
        stranger = unit.remap_interrupt(InterruptRequest(SourceId(0, 4, 0), address, data))
    found.compare("MSI: remapped", True, outcome.remapped is not None)
    found.compare("MSI: from another device", "0x26", stranger.fault and hex(stranger.fault))
    (count,) = await guest.ask("interrupt")
    found.compare("MSI: interrupts that arrived", 1, count)
    if (sent := outcome.remapped) is not None:
        found.story.append(
            f"its MSI {address:#x} {data:#x} is vector {sent.vector:#x} for APIC {sent.destination:#x}; it arrived"
        )


def _msi(config: bytes) -> tuple[int, int]:
    """Address and data of the MSI capability in configuration space."""
    at = config[0x34]
    while config[at] != 5:
        at = config[at + 1]
    return int.from_bytes(config[at + 4 : at + 12], "little"), int.from_bytes(config[at + 12 : at + 14], "little")
