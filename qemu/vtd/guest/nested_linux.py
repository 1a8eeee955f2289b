"""A Linux inside a Linux guest, whose own driver runs an NVMe controller of the outer QEMU.

The commands that L2's driver queues hold L2-physical addresses; the controller finds them through L1's tables. Their
data come from the outer QEMU's disk, and go to it.

The witnesses: QEMU's trace of the commands that the controller fetched, the disk as seen from outside, what programs
in L2 read from it, and the pagemap of the QEMU that runs in L1.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256

from iommu.files.reading import contents
from qemu.vtd.guest import initramfs, nested, nvme
from qemu.vtd.guest import kernel as kernels
from qemu.vtd.guest.check import Inspection
from qemu.vtd.guest.errors import GuestError, GuestTimeout
from qemu.vtd.guest.guest import NO_HELPER, Guest
from qemu.vtd.guest.kernel import Kernel
from qemu.vtd.guest.trace import Trace
from qemu.vtd.guest.variants import Variant
from qemu.vtd.launch import MIB

_RAM, _DISK = 128 * MIB, 16 * MIB
_BOOT_SECONDS, _SECONDS = 300.0, 60.0
_KERNEL, _INITRAMFS = "l2/vmlinuz", "l2/initramfs"
# Every instruction is emulated by an emulated processor. Without what these leave out, L2 boots in half the time; it
# finds its one processor and its devices without ACPI.
_COMMAND_LINE = "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check acpi=off cryptomgr.notests lsm=capability"
# The places on the disk that each side writes: bytes from its start, and how many.
_BEFORE, _DURING, _INSIDE, _LENGTH = 1 * MIB, 2 * MIB, 3 * MIB, 0x8000


class Disk:
    """The controller's disk: memory of this process, under a name that QEMU can open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        file = f"filename=/proc/{os.getpid()}/fd/{descriptor},locking=off"
        self.arguments = ("-blockdev", f"driver=file,{file},node-name=nvme")

    def write(self, where: int, data: bytes) -> None:
        """Write from outside."""
        os.pwrite(self._descriptor, data, where)

    def digest(self, where: int) -> str:
        """SHA-256 of what is there."""
        return sha256(os.pread(self._descriptor, _LENGTH, where)).hexdigest()


@contextmanager
def _disk() -> Iterator[Disk]:
    descriptor = os.memfd_create("vtd-disk", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _DISK)
        yield Disk(descriptor)
    finally:
        os.close(descriptor)


async def run(
    variant: Variant, qemu: str | None = None, *, kernel: Kernel | None = None, accel: str = "tcg"
) -> Inspection:
    """All that can be checked from outside with a Linux in the guest. Raises GuestError, NothingToBoot."""
    kernel = await asyncio.to_thread(kernels.of_package) if kernel is None else kernel
    with _disk() as disk, Trace(*nvme.EVENTS) as trace:
        disk.write(_BEFORE, os.urandom(_LENGTH))
        outer = nested.outer_guest(
            variant,
            qemu,
            kernel=kernel,
            accel=accel,
            devices=(nvme.DEVICE,),
            added=await asyncio.to_thread(_files, kernel),
            extra=(*disk.arguments, *trace.arguments),
        )
        async with outer as guest:
            found = Inspection(guest, variant)
            await _boot(found)
            await check_sectors(found, disk)
            await nested.check_memory(found, nested.Inner(nvme.SOURCE, _RAM))
            seen = await nvme.activity(found, trace)
            async with guest.unit() as unit:
                nvme.judge(found, unit, seen)
            return found


def _files(kernel: Kernel) -> dict[str, bytes]:
    """What L2 boots. It needs no modules: the driver of NVMe is built in."""
    archive = initramfs.build(replace(kernel, modules=None), kernels.busybox(), {NO_HELPER: b""})
    return {_KERNEL: contents(kernel.image)[:], _INITRAMFS: archive.read_bytes()}


async def _boot(found: Inspection) -> None:
    guest = found.guest
    boot = f"-kernel /{_KERNEL} -initrd /{_INITRAMFS} -append '{_COMMAND_LINE}'"
    await nested.start_inside(guest, nvme.ADDRESS, f"-m {_RAM // MIB} -serial /dev/ttyS1 {boot}")
    started = asyncio.get_running_loop().time()
    with guest.doing("booting the guest inside"):
        try:
            await guest.second.wait_for(r"^init: ready$", _BOOT_SECONDS, '"init: ready"')
        except GuestTimeout as error:
            said = (await guest.run(f"cat {nested.LOG}")).splitlines()
            raise GuestError(f"{error}; the QEMU inside says {said[-1] if said else 'nothing'}", "", said) from None
        await _inside(guest, "PS1=")
    seconds = asyncio.get_running_loop().time() - started
    found.story.append(f"L2, inside it, is a Linux with {_RAM // MIB} MiB; it was up after {seconds:.0f} s")


async def _inside(guest: Guest, command: str) -> str:
    """What a command prints in L2."""
    with guest.doing(f"running {command!r} inside"):
        return await guest.second.run(command, _SECONDS)


async def check_sectors(found: Inspection, disk: Disk) -> None:
    """L2 reads what was written to the disk from outside, and what it writes is on the disk."""
    disk.write(_DURING, os.urandom(_LENGTH))
    for where, when in ((_BEFORE, "before L2 was started"), (_DURING, "while L2 runs")):
        seen = (await _inside(found.guest, f"{_copy('/dev/nvme0n1', '-', where)} | sha256sum")).split()[0]
        found.compare(f"disk at {where:#x}, written {when}", seen, disk.digest(where))
    written = await _inside(
        found.guest,
        f"head -c {_LENGTH} /dev/urandom > /tmp/data; {_copy('/tmp/data', '/dev/nvme0n1', _INSIDE)}; "
        "sha256sum /tmp/data",
    )
    found.compare(f"disk at {_INSIDE:#x}, written by L2", written.split()[0], disk.digest(_INSIDE))
    found.story.append(
        f"L2 read {2 * _LENGTH >> 10} KiB that were written to the disk outside, and wrote {_LENGTH >> 10} KiB that "
        "are on it"
    )


def _copy(source: str, destination: str, where: int) -> str:
    """A command that copies from or to that place on the disk, past the cache of L2."""
    count, block = _LENGTH // 4096, where // 4096
    if destination == "-":
        return f"dd if={source} bs=4096 count={count} skip={block} iflag=direct 2>/dev/null"
    return f"dd if={source} of={destination} bs=4096 count={count} seek={block} oflag=direct 2>/dev/null"
