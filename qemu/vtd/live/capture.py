"""A snapshot of a running QEMU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iommu.dmar import Dmar
from iommu.errors import DmarError
from iommu.snapshot import Snapshot
from iommu.snapshot.contents import Contents
from iommu.snapshot.firmware import find_dmar
from iommu.snapshot.memory import PAGE
from iommu.snapshot.unit import NOT_SHOWN, WIDTH_ASSUMED, UnitSnapshot, assumed_width
from qemu.vtd.errors import QemuError
from qemu.vtd.live.layout import Region, layout_of
from qemu.vtd.live.monitor import Monitor, monitor
from qemu.vtd.live.process_memory import Block, LiveMemory, process_memory

_UNIT = "intel_iommu"
_WORD = re.compile(r"0x([0-9a-f]{16})(?!:)")
_COMPARED = 0xF0000
"""Memory that differs from guest to guest: the tables that a BIOS leaves."""


@contextmanager
def captured(socket: Path, pid: int | None = None) -> Iterator[Snapshot]:
    """A snapshot of the QEMU behind a QMP socket, whose guest stands still inside the block.

    Its memory is read when it is asked for, only inside the block.

    Args:
        pid: its process; by default the one that has opened the socket.

    Raises QemuError for what is not a QEMU, cannot be read, or has no remapping unit.
    """
    with monitor(socket) as qemu, qemu.paused():
        regions = layout_of(qemu.human("info mtree -f"))
        units = [region for region in regions if region.name == _UNIT]
        if not units:
            raise QemuError(f"the guest behind {socket} has no Intel remapping unit (-device intel-iommu)")
        blocks = [_placed(qemu, region) for region in regions if region.is_memory]
        with process_memory(qemu.pid if pid is None else pid, blocks) as memory:
            _check_same(qemu, memory)
            yield Snapshot(*_contents(qemu, memory, units))


def _placed(qemu: Monitor, region: Region) -> Block:
    """Where QEMU has a region of memory. Raises QemuError."""
    answer = qemu.human(f"gpa2hva {region.start:#x}")
    found = re.search(r" is 0x([0-9a-f]+)", answer)
    if found is None:
        raise QemuError(f"QEMU does not say where the memory at {region.start:#x} is: {answer.strip()}")
    return Block(region.start, region.stop, int(found[1], 16))


def _check_same(qemu: Monitor, memory: LiveMemory) -> None:
    """The process has the memory that QEMU has. Raises QemuError."""
    if not any(each.start <= _COMPARED and _COMPARED + PAGE <= each.stop for each in memory.ranges):
        return
    if memory.read(_COMPARED, PAGE) != _words(qemu, _COMPARED, PAGE):
        raise QemuError(f"process {memory.pid} is not the QEMU behind {qemu.socket}: give its --pid")


def _words(qemu: Monitor, address: int, length: int) -> bytes:
    """Guest-physical memory or registers as the monitor reads them, without effect on the guest."""
    text = qemu.human(f"xp /{length // 8}gx {address:#x}")
    data = b"".join(int(word, 16).to_bytes(8, "little") for word in _WORD.findall(text))
    if len(data) != length // 8 * 8:
        raise QemuError(f"QEMU does not show what is at {address:#x}: {text.strip()[:80]}")
    return data


def _contents(qemu: Monitor, memory: LiveMemory, units: list[Region]) -> Contents:
    dmar, unknown = find_dmar(memory), list(NOT_SHOWN)
    width = None
    if dmar is not None:
        try:
            width = Dmar.parse(dmar).header.width
        except DmarError:
            dmar = None
    windows = [_words(qemu, unit.start, unit.stop - unit.start).ljust(PAGE, b"\0") for unit in units]
    if width is None:
        width = assumed_width(windows[0])
        unknown.append(WIDTH_ASSUMED)
    name = str(qemu.socket)
    taken = tuple(
        UnitSnapshot(name, window, memory, width, unit.start) for window, unit in zip(windows, units, strict=True)
    )
    return Contents(name, memory, taken, dmar, qemu.version, tuple(unknown))
