"""QEMUs that are not ours: started as anyone would, and found by their QMP socket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from iommu.registers import GCMD, RTADDR
from iommu.structures import ContextEntry, RootEntry, SecondStageMapper
from qemu.vtd import firmware

HIGH = 0x1_0000_0000
"""Where RAM goes on that does not fit below 4 GiB."""
UNIT = 0xFED9_0000
IOMMU = ("-M", "kernel-irqchip=split", "-device", "intel-iommu,intremap=on,aw-bits=48")
TABLES, PAGE_OF_DEVICE, HOST = HIGH + 0x1000, 0x5000, HIGH + 0x9_9000


class Stranger(NamedTuple):
    """A running QEMU: its QMP socket, its process, and a line to its qtest."""

    socket: Path
    pid: int
    qtest: IO[str]
    answers: IO[str]

    def tell(self, line: str) -> str:
        """A qtest command."""
        self.qtest.write(line + "\n")
        self.qtest.flush()
        while (answer := self.answers.readline()).startswith("IRQ"):
            pass
        assert answer.startswith("OK"), answer
        return answer

    def read(self, address: int, length: int) -> bytes:
        """Guest memory, as a device or processor sees it."""
        return bytes.fromhex(self.tell(f"read {address:#x} {length:#x}").split()[1][2:])

    def write(self, address: int, data: bytes) -> None:
        """The same for writing."""
        self.tell(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read_u64(self, address: int) -> int:
        """A 64-bit number."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """The same for writing."""
        self.write(address, value.to_bytes(8, "little"))

    def translate_for_device(self, device: int = 3, tables: int = TABLES, host: int = HOST) -> None:
        """Map one page for device 00:03.0, by default with tables above 4 GiB, and switch translation on."""
        free = iter(range(tables, tables + 0x8_0000, 0x1000))
        root, contexts = next(free), next(free)
        pages = SecondStageMapper(self, lambda: next(free))
        pages.map(PAGE_OF_DEVICE, host, 0x1000)
        self.write(root, RootEntry.make(P=1, CTP=contexts).to_bytes(16, "little"))
        entry = ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=pages.root)
        self.write(contexts + 16 * (device << 3), entry.to_bytes(16, "little"))
        self.tell(f"writeq {UNIT + RTADDR.offset:#x} {root:#x}")
        for command in (GCMD.make(SRTP=1), GCMD.make(TE=1)):
            self.tell(f"writel {UNIT + GCMD.offset:#x} {command:#x}")


@contextmanager
def stranger(qemu: str, folder: Path, *words: str, memory: str = "5G", socket: str = "qmp") -> Iterator[Stranger]:
    """A QEMU with private memory whose processor halts at once."""
    place, bios = folder / socket, folder / "bios"
    bios.write_bytes(firmware.halting())
    command: Sequence[str] = [
        *(qemu, "-M", "q35", "-accel", "tcg", "-m", memory, "-nodefaults", "-display", "none", "-qtest", "stdio"),
        *("-bios", str(bios), "-qmp", f"unix:{place},server=on,wait=off", *words),
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        found = Stranger(place, process.pid, process.stdin, process.stdout)
        found.tell(f"readl {UNIT:#x}")  # it listens by now
        yield found
    finally:
        process.kill()
        process.communicate()
