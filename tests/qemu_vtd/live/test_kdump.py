"""Compressed cores, as QEMU writes them: the same memory as in its ELF core, read by libkdumpfile."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommu import VtdError
from iommu.snapshot import Snapshot, kdump
from iommu.snapshot.core import Given
from iommu.snapshot.memory import ranges_of
from iommu.snapshot.unit import WIDTH_ASSUMED
from qemu.vtd.live.capture import captured
from qemu.vtd.live.monitor import monitor
from qemu.vtd.probe import Build
from tests import command
from tests.qemu_vtd.live.strangers import IOMMU, stranger
from tests.qemu_vtd.suites import NOT_TESTED

TABLES, HOST, LAST = 0x10_0000, 0x19_9000, 0x3FF_F000
REQUEST = ("--request", "00:03.0 write 0x5010")


@pytest.fixture(scope="module")
def cores(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with "elf", "flattened" and "compressed", cores of one machine, and "registers", its unit's."""
    if kdump._library() is None:
        pytest.skip(f"{NOT_TESTED}: kdump cores: libkdumpfile is not installed")
    folder = tmp_path_factory.mktemp("cores")
    with stranger(build.path, folder, *IOMMU, memory="64M") as vm:
        vm.translate_for_device(tables=TABLES, host=HOST)
        vm.write(HOST, b"here")
        vm.write(LAST, bytes(range(256)) * 16)
        with captured(vm.socket) as taken:
            (folder / "registers").write_bytes(taken.units[0].registers)
        with monitor(vm.socket, 60) as qemu:
            for name, form in (("elf", "elf"), ("flattened", "kdump-zlib")):
                place = f"file:{folder / name}"
                qemu._qmp.execute("dump-guest-memory", {"paging": False, "protocol": place, "format": form})
    rearrange(folder / "flattened", folder / "compressed")
    yield folder


def rearrange(flattened: Path, into: Path) -> None:
    """What `makedumpfile -R` does: each piece goes to the place that it states.

    A header of 4 KiB, then for each piece its place and its size, 64 bits each, big-endian; the last place is -1.
    """
    with flattened.open("rb") as source, into.open("wb") as target:
        source.seek(4096)
        while (place := int.from_bytes(source.read(8), "big", signed=True)) >= 0:
            size = int.from_bytes(source.read(8), "big")
            target.seek(place)
            target.write(source.read(size))


def opened(place: Path) -> Snapshot:
    return Snapshot.open(place, Given(registers=f"{place.with_name('registers')}@0xfed90000"))


def test_it_holds_what_the_elf_core_holds(cores: Path) -> None:
    plain, packed = opened(cores / "elf"), opened(cores / "compressed")
    assert (packed.origin, packed.unknown) == ("a kdump core", plain.unknown)
    assert WIDTH_ASSUMED in packed.unknown
    assert sum(len(each) for each in ranges_of(plain.memory)) >= 64 << 20
    for each in ranges_of(plain.memory):
        assert packed.memory.read(each.start, len(each)) == plain.memory.read(each.start, len(each))
    assert packed.memory.read(HOST, 4) == b"here"
    assert packed.memory.read(LAST, 0x1000) == bytes(range(256)) * 16
    packed.memory.write(HOST, b"HERE")
    assert opened(cores / "compressed").memory.read(HOST, 4) == b"here"


def test_commands_take_it(cores: Path, tmp_path: Path) -> None:
    registers = ("--registers", cores / "registers")
    walks = [command.vtd("walk", cores / name, *registers, *REQUEST) for name in ("elf", "compressed")]
    assert walks[0].stdout == walks[1].stdout
    assert f"host address {HOST + 0x10:#x}".encode() in walks[1].stdout
    done = command.vtd("inspect", cores / "compressed", *registers, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["units"]
    assert command.vtd("snapshot", tmp_path / "taken", cores / "compressed", *registers).returncode == 0
    assert Snapshot.open(tmp_path / "taken").memory.read(HOST, 4) == b"here"


def test_memory_that_was_left_out_reads_as_zeroes_and_is_named(cores: Path) -> None:
    """The bit of the last page is taken out of the second map, which has the pages that are in the file."""
    core = bytearray((cores / "compressed").read_bytes())
    size, more, blocks = struct.unpack_from("<3I", core, 428)
    last = 0xFFFF_F000
    at = size * (1 + more) + size * blocks // 2 + (last >> 12 >> 3)
    assert core[at] == 0xFF
    core[at] = 0x7F
    (cores / "filtered").write_bytes(core)
    whole, filtered = opened(cores / "compressed"), opened(cores / "filtered")
    assert whole.memory.read(last, 0x1000).strip(b"\0")
    assert filtered.memory.read(last, 0x1000) == bytes(0x1000)
    assert (kdump.LEFT_OUT in whole.unknown, kdump.LEFT_OUT in filtered.unknown) == (False, True)
    assert filtered.memory.read(HOST, 4) == b"here"


def test_registers_are_needed(cores: Path) -> None:
    with pytest.raises(VtdError, match="compressed is a kdump core, without registers: give --registers FILE"):
        Snapshot.open(cores / "compressed")


def test_a_flattened_one_is_read_or_says_what_to_do(cores: Path) -> None:
    """Newer versions of the library read it."""
    try:
        assert opened(cores / "flattened").memory.read(HOST, 4) == b"here"
    except VtdError as error:
        assert "flattened: libkdumpfile cannot read it: " in str(error)
        assert str(error).endswith(f"; try makedumpfile -R CORE < {cores / 'flattened'}")


CUT = """
import sys
from iommu import VtdError
from iommu.snapshot import Snapshot
from iommu.snapshot.core import Given
whole = open(sys.argv[1], "rb").read()
for size in (16, 100, 4096, 9000, 13_000, 60_000):
    open(sys.argv[3], "wb").write(whole[:size])
    try:
        Snapshot.open(sys.argv[3], Given(registers=sys.argv[2])).memory.read(0x10_0000, 4096)
        print("read")
    except VtdError as error:
        print(error)
"""


def test_one_that_is_cut_short_is_refused(cores: Path, tmp_path: Path) -> None:
    """In a process of its own: the library could end it."""
    words = [cores / "compressed", cores / "registers", tmp_path / "cut"]
    ran = subprocess.run([sys.executable, "-c", CUT, *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    said = ran.stdout.splitlines()
    assert len(said) == 6
    assert all("libkdumpfile cannot read" in line or "is cut short" in line for line in said)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdump, "_library", lambda: None)
    for begins in (b"KDUMP   ", b"makedumpfile\0"):
        (tmp_path / "dump").write_bytes(begins + bytes(4096))
        with pytest.raises(
            VtdError, match=r"libkdumpfile is not installed \(Debian: apt-get install libkdumpfile-dev"
        ):
            Snapshot.open(tmp_path / "dump")
