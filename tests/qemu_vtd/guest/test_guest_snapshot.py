"""A snapshot of a running Linux guest: the file says what the guest saw."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iommu import Access, DmaRequest
from iommu.snapshot import Snapshot
from iommu.snapshot.memory import ranges_of, used_of
from qemu.vtd.guest.check import DEVICE, guest_of
from qemu.vtd.guest.variants import variant
from qemu.vtd.quirks import POLICY, profile
from tests import command
from tests.qemu_vtd import remains


@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_file_says_what_the_guest_saw(tmp_path: Path) -> None:
    place, before = tmp_path / "qmp", (remains.children(), remains.open_files())
    extra = ["-qmp", f"unix:{place},server=on,wait=off"]
    async with guest_of(variant("legacy-4-level"), extra=extra) as guest:
        await guest.assign("0000:00:03.0")
        frames = await guest.map(0x100_0000, 0x4000)
        for name, option in (("whole", ()), ("tables", ("--tables-only",))):
            done = await asyncio.to_thread(command.vtd, "snapshot", tmp_path / name, "--qmp", place, *option)
            assert (done.returncode, done.stderr) == (0, b"")
            assert b"translation and interrupt remapping on" in done.stdout
        assert await guest.run("echo alive") == "alive\n"
        assert "RESET" not in guest.events
        dmar, version = guest.dmar(), guest.build.version
        contents = [guest.memory.read(frame, 0x1000) for frame in frames]
    assert (remains.children(), remains.open_files()) == before
    whole, tables = Snapshot.open(tmp_path / "whole"), Snapshot.open(tmp_path / "tables")
    for taken in (whole, tables):
        assert taken.table is not None and taken.table.build() == dmar
        for strict in (taken.system().units.popitem()[1], taken.units[0].unit(POLICY, profile(version))):
            for number, frame in enumerate(frames):
                request = DmaRequest(DEVICE, 0x100_0000 + 0x1000 * number, Access.WRITE)
                assert strict.translate(request).host_address == frame
    assert [whole.memory.read(frame, 0x1000) for frame in frames] == contents
    assert 32 << 20 < sum(map(len, used_of(whole.memory))) < 400 << 20
    assert sum(map(len, ranges_of(tables.memory))) < 4 << 20
    assert not any(content in (tmp_path / "tables").read_bytes() for content in contents)
