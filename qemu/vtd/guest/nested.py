"""A guest inside a guest: the inner one owns a device, and the outer one's tables lead to its memory.

VFIO maps all RAM of the inner machine (L2) for the device, at the addresses it has there. So the tables of the outer
guest (L1) lead from L2-physical to L1-physical addresses. L2 executes nothing: qtest, over L1's second serial line,
programs the device as a driver in L2 would.

The witnesses: the pagemap of the QEMU that runs in L1, what qtest reads at L2 addresses, the resource file of the
device in L1's sysfs, the fault record and the kernel's line.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from qemu.vtd import pci
from qemu.vtd.devices import edu
from qemu.vtd.guest import carried
from qemu.vtd.guest.check import ADDRESS, DEVICE, Inspection, check_fault
from qemu.vtd.guest.errors import GuestError
from qemu.vtd.guest.guest import EDU, NO_HELPER, Guest
from qemu.vtd.guest.kernel import Kernel
from qemu.vtd.guest.serial_qtest import SerialQtest
from qemu.vtd.guest.variants import Variant
from qemu.vtd.launch import MIB
from qemu.vtd.private_cache import PROGRAM
from qemu.vtd.probe import find_qemu

RAM = 96 * MIB
"""Of the L2 that qtest drives."""

_L1_RAM, _L1_PROCESSORS = 1024 * MIB, 2
_PAGE, _LARGE = 0x1000, 2 * MIB
_BAR = 0xE000_0000
_L2_SLOT = pci.source_id(0, 4)
_SECONDS, _POLL_SECONDS = 60.0, 0.2
LOG = "/tmp/l2.log"
"""In L1: what the QEMU inside printed."""
_SAMPLE = 32
# Physical page numbers out of a pagemap (bits 31:0 are enough for L1), as runs: first page, number of pages.
_RUNS = """\
hexdump -v -e '2/4 "%u " "\\n"' | awk '{ if (n && $1 != s + n) { print s, n; n = 0 } if (!n) s = $1; n++ } \
END { print s, n }'"""


@dataclass(frozen=True)
class Inner:
    """The inner machine: the device that it owns, by its source-id in L1, and its RAM in bytes."""

    device: SourceId
    ram: int

    def stretches(self) -> Iterator[tuple[int, int]]:
        """The RAM that the machine sees, in pieces that lie in one 2 MiB each: first address and end.

        There is no display; what ROMs hide is left out, from 768 KiB to 1 MiB.
        """
        for first, end in ((0, 0xC_0000), (MIB, self.ram)):
            for start in range(first - first % _LARGE, end, _LARGE):
                yield max(first, start), min(end, start + _LARGE)


@asynccontextmanager
async def outer_guest(
    variant: Variant,
    qemu: str | None = None,
    *,
    kernel: Kernel | None = None,
    accel: str = "tcg",
    devices: Sequence[str] = (EDU,),
    added: Mapping[str, bytes] | None = None,
    extra: Sequence[str] = (),
) -> AsyncIterator[Guest]:
    """A guest that carries the system's QEMU, or else the one it runs under; its second serial line is free.

    Raises NothingToBoot when that cannot be carried, GuestError.
    """
    program = find_qemu(qemu)
    # An older QEMU inside is the quicker one: it is emulated itself.
    files = await asyncio.to_thread(carried.qemu, shutil.which(PROGRAM) or program)
    async with Guest(
        program,
        kernel=kernel,
        iommu=variant.properties,
        devices=devices,
        command_line=f"{variant.command_line} transparent_hugepage=always".strip(),
        memory=_L1_RAM,
        processors=_L1_PROCESSORS,
        processor=variant.processor,
        accel=accel,
        added={NO_HELPER: b"", **files, **(added or {})},
        extra=extra,
        refuse=variant.obstacle,
        # What runs inside is emulated twice.
        seconds=_SECONDS,
    ) as guest:
        yield guest


async def start_inside(guest: Guest, address: str, options: str) -> None:
    """Give a device to vfio-pci and start a QEMU in the guest that owns it. Raises GuestError when it ends."""
    await guest.give_to_vfio(address)
    device = f"-device vfio-pci,host={address},addr=4"
    common = "-M q35 -accel tcg -nodefaults -no-user-config -display none"
    with guest.doing("starting a QEMU inside"):
        await guest.run(f"{carried.COMMAND} {common} {device} {options} </dev/null >{LOG} 2>&1 & L2=$!")
        async with guest.within(_SECONDS, "a QEMU inside that has opened the device"):
            while "[vfio-device]" not in (open_files := await guest.run(f"ls -l /proc/$L2/fd; cat {LOG}")):
                if " -> " not in open_files:
                    lines = open_files.splitlines()
                    raise GuestError(f"the QEMU inside the guest ended: {lines[-1]}", "", lines)
                await asyncio.sleep(_POLL_SECONDS)


async def run(
    variant: Variant, qemu: str | None = None, *, kernel: Kernel | None = None, accel: str = "tcg"
) -> Inspection:
    """All that can be checked from outside with an L2 that qtest drives. Raises GuestError, NothingToBoot."""
    async with outer_guest(variant, qemu, kernel=kernel, accel=accel) as guest:
        return await inspect(guest, variant)


async def inspect(guest: Guest, variant: Variant) -> Inspection:
    """The same in a guest that is running. Raises GuestError."""
    found = Inspection(guest, variant)
    found.story.append(f"L2, inside it, has {RAM // MIB} MiB and executes nothing: qtest drives it and its device")
    await start_inside(guest, ADDRESS, f"-m {RAM // MIB} -S -qtest /dev/ttyS1 -qtest-log none")
    qtest = SerialQtest(guest.second)
    with guest.doing("talking to the QEMU inside"):
        await qtest.synchronize()
        async with qtest.pipeline() as pipeline:
            pci.queue_one(pipeline, _L2_SLOT, _BAR)
        inner = Inner(DEVICE, RAM)
        await check_memory(found, inner)
        await check_samples(found, inner, qtest)
        await check_registers(found)
        await check_copy(found, qtest)
        await check_outside(found, qtest)
    return found


async def check_memory(found: Inspection, inner: Inner) -> None:
    """Every page of L2's RAM is where the pagemap of L1's QEMU says."""
    frames = await frames_of(found.guest, inner.ram)
    async with found.guest.unit() as unit:
        judge_memory(found, unit, inner, frames)


def judge_memory(found: Inspection, unit: RemappingUnit, inner: Inner, frames: Sequence[int]) -> None:
    """Compare L1-physical addresses of L2's pages with those that the model finds."""
    sizes: dict[int, int] = {}
    for first, end in inner.stretches():
        hosts = []
        for page in range(first, end, _PAGE):
            outcome = unit.translate(DmaRequest(inner.device, page, Access.WRITE))
            hosts.append(outcome.host_address)
            if outcome.host_address is not None:
                sizes[outcome.page_size] = sizes.get(outcome.page_size, 0) + _PAGE
        witness = frames[first // _PAGE : end // _PAGE]
        found.compare(f"L2 {first:#x} to {end - 1:#x}", runs(witness), runs(hosts))
    pages = sum(end - first for first, end in inner.stretches()) // _PAGE
    found.compare("pages of L2's RAM", pages, sum(sizes.values()) // _PAGE)
    found.story.append(
        f"the device reaches {pages} pages of L2's RAM: {sizes.get(_PAGE, 0) // _PAGE} through entries of 4 KiB, the "
        f"others through {sizes.get(_LARGE, 0) // _LARGE} of 2 MiB"
    )


def runs(frames: Sequence[int | None]) -> str:
    """Physical addresses of pages, those that follow each other together: "0x200000-0x3fffff nowhere"."""
    found: list[list[int]] = []
    for frame in frames:
        if frame is None:
            found.append([])
        elif found and found[-1] and found[-1][1] == frame:
            found[-1][1] += _PAGE
        else:
            found.append([frame, frame + _PAGE])
    return " ".join(f"{each[0]:#x}-{each[1] - 1:#x}" if each else "nowhere" for each in found)


async def frames_of(guest: Guest, ram: int) -> list[int]:
    """The L1-physical address of each page of L2's RAM, by the pagemap of the QEMU in L1."""
    maps = await guest.run("grep ' rw-p 00000000 00:00 0 *$' /proc/$L2/maps")
    found = [int(low, 16) for low, high in re.findall(r"^(\w+)-(\w+)", maps, re.MULTILINE) if _size(low, high) == ram]
    if len(found) != 1:
        raise GuestError(f"{len(found)} mappings of the QEMU inside have the size of L2's RAM", "", maps.splitlines())
    entries = f"dd if=/proc/$L2/pagemap bs=4096 iflag=skip_bytes skip={found[0] >> 9} count={ram >> 21}"
    listed = await guest.run(f"{entries} 2>/dev/null | {_RUNS}", _SECONDS)
    return [
        (int(first) + n) * _PAGE for first, count in map(str.split, listed.splitlines()) for n in range(int(count))
    ]


def _size(low: str, high: str) -> int:
    return int(high, 16) - int(low, 16)


async def check_samples(found: Inspection, inner: Inner, qtest: SerialQtest) -> None:
    """What qtest writes to a page in each 2 MiB is where the model says; what is written there, qtest reads."""
    # Another page in each, so that the lower bits of the addresses differ too.
    samples = [first + n * 37 * _PAGE % (end - first) + 16 * n for n, (first, end) in enumerate(inner.stretches())]
    async with qtest.pipeline() as pipeline:
        for address in samples:
            pipeline.write_bytes(address, sample(address))
    async with qtest.pipeline() as pipeline:
        seen = [pipeline.read_bytes(address, _SAMPLE) for address in samples]
    async with found.guest.unit() as unit:
        for address, answer in zip(samples, seen, strict=True):
            found.compare(f"L2 {address:#x}: contents", answer.value.hex(), read(unit, address, _SAMPLE))
        place = unit.translate(DmaRequest(DEVICE, samples[-1], Access.WRITE)).host_address
    found.story.append(f"in L2, qtest wrote to {len(samples)} of them: the data are in L1, where the walk leads")
    if place is not None:
        found.guest.memory.write(place, bytes(range(_SAMPLE)))
        async with qtest.pipeline() as pipeline:
            back = pipeline.read_bytes(samples[-1], _SAMPLE)
        found.compare(f"L2 {samples[-1]:#x}: written from outside", back.value.hex(), bytes(range(_SAMPLE)).hex())


def sample(address: int) -> bytes:
    """Bytes that no other address gets."""
    return b"".join((address * (2 * n + 3) & (1 << 64) - 1).to_bytes(8, "little") for n in range(_SAMPLE // 8))


def read(unit: RemappingUnit, address: int, length: int) -> str | None:
    """What is in L1's memory where the device reaches an L2 address; None where it does not reach all of it."""
    data = b""
    while length:
        host = unit.translate(DmaRequest(DEVICE, address, Access.WRITE)).host_address
        if host is None:
            return None
        part = min(length, _PAGE - address % _PAGE)
        data += unit.memory.read(host, part)
        address, length = address + part, length - part
    return data.hex()


async def check_registers(found: Inspection) -> None:
    """VFIO maps the device's registers too: where they are in L2 leads to where they are in L1."""
    start = (await found.guest.run(f"head -n 1 /sys/bus/pci/devices/{ADDRESS}/resource")).split()[0]
    async with found.guest.unit() as unit:
        host = unit.translate(DmaRequest(DEVICE, _BAR, Access.WRITE)).host_address
    found.compare("L2: the device's registers", hex(int(start, 16)), None if host is None else hex(host))


async def check_copy(found: Inspection, qtest: SerialQtest) -> None:
    """What the device copies between two L2 addresses is in the L1 pages that the model names."""
    # The destination lies on both sides of 2 MiB: usually a page of its own, and the start of a large one.
    source, destination, length = 0x5_0000, _LARGE - 0x40, 0x80
    data = b"".join(sample(source + n) for n in range(0, length, _SAMPLE))
    async with qtest.pipeline() as pipeline:
        pipeline.write_bytes(source, data)
        edu.queue_fetch(pipeline, _BAR, source, length)
    await _idle(found.guest, qtest)
    async with qtest.pipeline() as pipeline:
        edu.queue_store(pipeline, _BAR, destination, length)
    await _idle(found.guest, qtest)
    async with qtest.pipeline() as pipeline:
        seen = pipeline.read_bytes(destination, length)
    async with found.guest.unit() as unit:
        found.compare(f"L2 {destination:#x}: what the device copied", data.hex(), read(unit, destination, length))
        places = [
            unit.translate(DmaRequest(DEVICE, at, Access.WRITE)).host_address or 0 for at in (destination, _LARGE)
        ]
    found.compare(f"L2 {destination:#x}: what L2 sees of it", data.hex(), seen.value.hex())
    found.story.append(
        f"the device copied {length} bytes from L2 {source:#x} to L2 {destination:#x}: they are at L1 "
        + " and ".join(f"{place:#x}" for place in places)
    )


async def _idle(guest: Guest, qtest: SerialQtest) -> None:
    """Wait until the device has moved its data, which takes it 100 ms."""
    async with guest.within(_SECONDS, "the device has moved its data"):
        while True:
            async with qtest.pipeline() as pipeline:
                running = edu.queue_running(pipeline, _BAR)
            if not running.value & 1:
                return
            await asyncio.sleep(_POLL_SECONDS / 4)


async def check_outside(found: Inspection, qtest: SerialQtest) -> None:
    """An address above L2's RAM faults."""
    address = RAM + 0x3000

    async def write() -> None:
        async with qtest.pipeline() as pipeline:
            edu.queue_store(pipeline, _BAR, address, 4)
        await _idle(found.guest, qtest)

    await check_fault(found, address, "the device writes to an address above L2's RAM", write)
