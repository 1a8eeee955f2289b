"""A guest inside a guest: the tables of the outer one lead to the memory of the inner one."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from qemu.vtd.errors import QtestError
from qemu.vtd.guest import carried, nested, nested_linux
from qemu.vtd.guest.check import ADDRESS, DEVICE, Inspection
from qemu.vtd.guest.console import Console
from qemu.vtd.guest.errors import GuestError, GuestTimeout, NothingToBoot
from qemu.vtd.guest.serial_qtest import SerialQtest
from qemu.vtd.guest.variants import variant
from qemu.vtd.probe import probe
from qemu.vtd.quirks import POLICY, profile
from tests.qemu_vtd import remains
from tests.qemu_vtd.guest.breaks import FirstStageShifted, OtherBusWithPasids, OtherPasid, broken
from tests.qemu_vtd.guest.turns import qemu_for_guests

SLOW = [("system", "legacy-4-level"), ("trixie", "second-stage"), ("sid", "legacy-3-level"), ("sid", "x2apic")]


RULES = (FirstStageShifted, OtherBusWithPasids, OtherPasid)
"""Broken one at a time, in the model that reads the tables of a first-stage guest."""


async def _agrees(qemu: str, id_: str, rules: Sequence[type[Any]] = ()) -> None:
    chosen, path = variant(id_), qemu_for_guests(qemu)
    if (why := chosen.obstacle(await asyncio.to_thread(probe, path))) is not None:
        pytest.skip(why)
    before = remains.children(), remains.open_files()
    async with nested.outer_guest(chosen, path) as guest:
        found = await nested.inspect(guest, chosen)
        assert await _unnoticed(found, rules) == []
    assert [each for each in found.findings if not each.agrees] == []
    # Each 2 MiB of L2's RAM, the first in two parts: where it is, and a sample of its contents; the number of pages,
    # a sample from outside, the device's registers; the copy from both sides; the line and the record of the fault.
    assert len(found.findings) == 2 * 49 + 3 + 2 + 2
    assert (remains.children(), remains.open_files()) == before


async def _unnoticed(found: Inspection, rules: Sequence[type[Any]]) -> list[str]:
    """The rules without which the model finds L2's RAM where it is."""
    frames = await nested.frames_of(found.guest, nested.RAM) if rules else []
    missed = []
    async with found.guest.snapshot() as snapshot:
        for rule in rules:
            judged = Inspection(found.guest, found.variant)
            unit = snapshot.unit(POLICY, broken(profile(found.guest.build.version), rule))
            nested.judge_memory(judged, unit, nested.Inner(DEVICE, nested.RAM), frames)
            if judged.agrees:
                missed.append(rule.__name__)
    return missed


# docs/guests.md runs it for `make test`, without the broken rules.
@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_device_of_a_machine_in_a_guest() -> None:
    await _agrees("sid", "first-stage", RULES)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
@pytest.mark.parametrize(("qemu", "id_"), SLOW)
async def test_a_device_of_a_machine_in_other_guests(qemu: str, id_: str) -> None:
    await _agrees(qemu, id_)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
@pytest.mark.parametrize(("qemu", "id_"), [("sid", "first-stage"), ("system", "second-stage")])
async def test_a_linux_in_a_guest_runs_an_nvme_controller(qemu: str, id_: str) -> None:
    chosen, path = variant(id_), qemu_for_guests(qemu)
    if (why := chosen.obstacle(await asyncio.to_thread(probe, path))) is not None:
        pytest.skip(why)
    before = remains.children(), remains.open_files()
    found = await nested_linux.run(chosen, path)
    assert [each for each in found.findings if not each.agrees] == []
    # Three places on the disk; L2's RAM by 2 MiB, and its pages; the controller's first command, its two kinds of
    # queue, and the entries of the administration queues and of at least one pair more.
    assert len(found.findings) >= 3 + 65 + 1 + 3 + 4
    assert (remains.children(), remains.open_files()) == before


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_qemu_inside_that_refuses_says_why() -> None:
    before = remains.children(), remains.open_files()
    async with nested.outer_guest(variant("legacy-4-level")) as guest:
        with pytest.raises(GuestError, match=r"the QEMU inside the guest ended: .*no-such-file"):
            # Firmware is loaded before devices are made: the one that it owns would be open for a moment.
            await nested.start_inside(guest, ADDRESS, "-bios no-such-file")
    assert (remains.children(), remains.open_files()) == before


def test_what_a_guest_can_carry() -> None:
    files = carried.qemu(qemu_for_guests("system"))
    assert {"usr/bin/qemu-system-x86_64", "lib64/ld-linux-x86-64.so.2", "usr/share/qemu/bios-256k.bin"} <= set(files)
    assert "lib/x86_64-linux-gnu/libc.so.6" in files
    assert all(data[:4] == b"\x7fELF" for path, data in files.items() if not path.startswith("usr/share"))


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\nexec qemu\n", b"\x7fELF"])
def test_what_a_guest_cannot_carry(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "qemu").write_bytes(data)
    with pytest.raises(
        NothingToBoot, match="cannot run inside a guest: it is neither a program with shared libraries"
    ):
        carried.qemu(str(tmp_path / "qemu"))


def test_a_library_that_is_missing(tmp_path: Path) -> None:
    """The loader itself says which."""
    source = "int absent(void); int main(void) { return absent(); }"
    library, program = tmp_path / "libabsent.so", tmp_path / "qemu"
    subprocess.run(["gcc", "-shared", "-x", "c", "-", "-o", library], input=b"int absent;", check=True)
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", program, f"-L{tmp_path}", "-labsent"], input=source.encode(), check=True
    )
    library.unlink()
    with pytest.raises(NothingToBoot, match=r"cannot be listed: .*libabsent\.so"):
        carried.qemu(str(program))


def test_runs() -> None:
    assert nested.runs([0x5000, 0x6000, None, 0x8000, 0x7000]) == "0x5000-0x6fff nowhere 0x8000-0x8fff 0x7000-0x7fff"


class Line:
    """A serial line, and the end at which QEMU answers."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.console = Console("second serial line", ours, lambda: "testing")

    async def serve(self, answers: dict[str, str], lost: int) -> None:
        """Answer each line, after the first `lost` bytes."""
        loop, pending = asyncio.get_running_loop(), b""
        while data := await loop.sock_recv(self.theirs, 4096):
            pending, lost = pending + data[lost:], max(0, lost - len(data))
            *whole, pending = pending.split(b"\n")
            for each in whole:
                assert each, "an empty line aborts QEMU"
                said = answers.get(each.decode(), f"FAIL Unknown command '{each.decode()}'")
                await loop.sock_sendall(self.theirs, f"{said}\n".encode())


@pytest_asyncio.fixture
async def line() -> AsyncIterator[Line]:
    found = Line()
    await found.console.open()
    yield found
    await found.console.close()
    found.theirs.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", [0, 4, 11, 15])
async def test_qtest_answers_although_the_first_bytes_are_lost(line: Line, lost: int) -> None:
    server = asyncio.create_task(line.serve({"endianness": "OK little", "readl 0x10": "OK 0x12"}, lost))
    qtest = SerialQtest(line.console, 5)
    await qtest.synchronize()
    async with qtest.pipeline() as pipeline:
        first, second = pipeline.read(0x10, 4), pipeline.read(0x10, 4)
    assert (first.value, second.value) == (0x12, 0x12)
    with pytest.raises(QtestError, match="Unknown command 'readl 0x14'"):
        async with qtest.pipeline() as pipeline:
            pipeline.read(0x14, 4)
    server.cancel()


@pytest.mark.asyncio
async def test_a_qtest_that_is_silent(line: Line) -> None:
    with pytest.raises(
        GuestTimeout, match=r"within 0\.1 s \(waited for .* on its second serial line, which has printed nothing\)"
    ):
        await SerialQtest(line.console, 0.1).exchange(["readl 0x10"])


def test_a_kind_of_nesting_that_there_is_not() -> None:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("vtd")), "guest", "run", "--nested", "no"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--nested 'no' is neither qtest nor linux" in ran.stderr and len(ran.stderr.strip().splitlines()) == 1
