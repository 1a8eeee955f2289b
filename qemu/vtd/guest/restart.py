"""Guests that start again: by a reset, by kexec, and in a crash kernel after a panic.

A crash kernel finds translation on, and copies the tables of the kernel before it, so that devices which nobody has
stopped go on with the mappings that they have, until a driver takes them over.
"""

from __future__ import annotations

from pathlib import Path

from iommu.engine.faults.events import Message
from iommu.engine.interrupts.request import InterruptRequest
from iommu.engine.request import Access, DmaRequest
from iommu.engine.unit import RemappingUnit
from iommu.files.reading import contents
from qemu.vtd.guest import initramfs, nvme, pci
from qemu.vtd.guest.check import ADDRESS, DEVICE, PATTERN, Inspection, Mapped, check_mappings
from qemu.vtd.guest.deep import ENABLED, ROOT, Watched
from qemu.vtd.guest.kernel import Kernel
from qemu.vtd.guest.trace import Trace, numbers
from qemu.vtd.guest.variants import Variant

RESERVE = "crashkernel=192M"
"""The kernel parameter that leaves memory for a crash kernel."""
_KERNEL, _ARCHIVE = "boot/vmlinuz", "boot/initramfs"
_ALONE = "nr_cpus=1 reset_devices"
_EDU_SOURCE, _EDU_DESTINATION, _EDU_COUNT, _EDU_COMMAND, _EDU_BUFFER = 0x80, 0x88, 0x90, 0x98, 0x40000
_OFFSET = 0x200
_LONG = 60.0


def files(kernel: Kernel, busybox: Path) -> dict[str, bytes]:
    """What a guest needs to start this kernel itself: further files of its root file system."""
    return {
        _KERNEL: contents(kernel.image)[:],
        _ARCHIVE: initramfs.build(kernel, busybox).read_bytes(),
        "bin/kexec": initramfs.program("kexec"),
    }


async def assigned(seen: Watched, variant: Variant) -> Inspection:
    """Assign the device, map memory, and check where it is and what the NVMe controller does."""
    found = Inspection(seen.guest, variant)
    await seen.guest.assign(ADDRESS)
    frames = await seen.guest.map(0x100_0000, 0x4000)
    found.mapped.append(Mapped(0x100_0000, 0x1000, "rw", tuple(frames)))
    await check_mappings(found)
    await nvme.check_nvme(found, seen.trace)
    return found


async def reset(seen: Watched) -> None:
    """Reset the machine, and wait until it has booted again."""
    guest = seen.guest
    with guest.doing("booting after a reset"):
        await guest.qmp("system_reset")
        await guest.up()


async def kexec(seen: Watched) -> None:
    """Have the guest go over to the same kernel, and wait until that has booted."""
    guest = seen.guest
    await guest.run(f'kexec load /{_KERNEL} /{_ARCHIVE} "$(cat /proc/cmdline)"', _LONG)
    with guest.doing("booting after kexec"):
        await guest.console.send("kexec go\n")
        await guest.up()


async def crash(seen: Watched) -> None:
    """Have the guest panic, and wait until its crash kernel has booted. It was started with `RESERVE`."""
    guest = seen.guest
    command_line = f'"$(sed "s/crashkernel=[^ ]*//" /proc/cmdline) {_ALONE}"'
    await guest.run(f"kexec crash /{_KERNEL} /{_ARCHIVE} {command_line}", _LONG)
    with guest.doing("booting its crash kernel"), guest.console.panicking():
        await guest.console.send("echo c > /proc/sysrq-trigger\n")
        await guest.console.wait_for("Kernel panic - not syncing: sysrq triggered crash", _LONG)
        await guest.up()


async def interrupts(found: Inspection) -> dict[Message, str]:
    """What the model makes of each message of the assigned device."""
    await found.guest.ask("interrupts")
    sent = (await pci.messages(found.guest, ADDRESS)).values()
    async with found.guest.unit() as unit:
        return {message: _remapped(unit, message) for message in sent}


def _remapped(unit: RemappingUnit, message: Message) -> str:
    outcome = unit.remap_interrupt(InterruptRequest(DEVICE, *message))
    return f"{outcome.message or outcome.fault}"


async def check_copied(found: Inspection, before: dict[Message, str]) -> None:
    """A crash kernel has copied the mappings and interrupts of a device that no driver of it has taken yet.

    Args:
        found: of the kernel before, with what that had mapped.
        before: what `interrupts` said then.
    """
    guest = found.guest
    lines = await guest.run("dmesg")
    for what in ("Copied translation tables from previous kernel", "Copied IR table"):
        found.compare(f"the crash kernel's words: {what}", True, what in lines)
    await check_mappings(found)
    async with guest.unit() as unit:
        for message, remapped in before.items():
            found.compare(f"{message.address:#x} {message.data:#x} in the copy", remapped, _remapped(unit, message))
    await _copy_without_driver(found)


async def _copy_without_driver(found: Inspection) -> None:
    """Have the device, which is still as it was before, copy from one page to another through the copied tables."""
    guest, pages = found.guest, found.mapped[0].pages()
    base = pci.base_address(await pci.configuration(guest, ADDRESS), 0)
    (source, _), (destination, _) = pages[0], pages[3]
    for origin, target, direction in ((source, _EDU_BUFFER, 1), (_EDU_BUFFER, destination + _OFFSET, 3)):
        for register, value in (
            (_EDU_SOURCE, origin),
            (_EDU_DESTINATION, target),
            (_EDU_COUNT, 8),
            (_EDU_COMMAND, direction),
        ):
            await guest.run(f"devmem {base + register:#x} 64 {value:#x}")
        await guest.run("usleep 300000")
    async with guest.unit() as unit:
        host = unit.translate(DmaRequest(DEVICE, destination + _OFFSET, Access.WRITE)).host_address
    seen = None if host is None else hex(guest.memory.read_u64(host))
    found.compare("what the device wrote through the copied tables", hex(PATTERN + source), seen)


async def check_new_tables(found: Inspection, trace: Trace, start: int) -> None:
    """The kernel that started at this mark of the trace has tables of its own, and the model reads those."""
    roots = [numbers(line)[0] for line in trace.lines(ROOT, start)]
    async with found.guest.unit() as unit:
        found.compare("the root table", hex(roots[-1]), hex(unit.translation.legacy.root_table))


def switched(trace: Trace, start: int) -> list[int]:
    """How translation was switched since this mark of the trace: 1 on, 0 off."""
    return [numbers(line)[0] for line in trace.lines(ENABLED, start)]
