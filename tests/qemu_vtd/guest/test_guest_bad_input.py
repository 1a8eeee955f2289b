"""Guests that cannot be run, or do something else: one line says what, where, and what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from qemu.vtd.errors import QemuDied, QemuUnsuitable
from qemu.vtd.guest import Guest, initramfs, kernel
from qemu.vtd.guest.check import guest_of
from qemu.vtd.guest.errors import GuestEnded, GuestError, GuestTimeout, NothingToBoot
from qemu.vtd.guest.variants import variant
from tests.qemu_vtd import remains

VTD = str(Path(sys.executable).with_name("vtd"))


@pytest.mark.parametrize("name", ["", "../etc", "linux image", "a/b/c", "-o"])
def test_a_name_that_no_package_has(name: str) -> None:
    with pytest.raises(NothingToBoot, match="is not the name of a Debian package, such as linux-image-cloud-amd64"):
        kernel.of_package(name)


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NothingToBoot, match="there is no such file"):
        kernel.of_file(tmp_path / "vmlinuz")


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "busybox").touch()
    with pytest.raises(NothingToBoot, match="no C compiler for the guest's helper; install the Debian package gcc"):
        initramfs.build(kernel.Kernel("none", tmp_path / "none", None), tmp_path / "busybox")


def test_with_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "busybox").touch()
    said = "fatal error: stdio.h: No such file or directory\ncompilation terminated."
    (tmp_path / "cc").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o700)
    with pytest.raises(NothingToBoot, match=r"is libc6-dev there\? fatal error: stdio.h"):
        initramfs.build(kernel.Kernel("none", tmp_path / "none", None), tmp_path / "busybox")
    assert not list((tmp_path / "cache/vtdlab/guest").glob("vfio-*"))


@pytest.mark.asyncio
async def test_a_variant_that_the_qemu_cannot_run() -> None:
    chosen = variant("legacy-3-level")
    before = remains.open_files()
    with pytest.raises(QemuUnsuitable, match="not today"):
        async with Guest(iommu=chosen.properties, refuse=lambda _: "not today"):
            pass
    assert remains.open_files() == before


@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"no kernel" * 1000)
    before = remains.open_files(), remains.children()
    with pytest.raises(QemuDied, match="QEMU ended, status 1: qemu: linux kernel too old"):
        async with Guest(kernel=kernel.of_file(tmp_path / "vmlinuz"), iommu={}):
            pass
    assert (remains.open_files(), remains.children()) == before


@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_guest_that_does_not_boot_in_time() -> None:
    before = remains.open_files(), remains.children()
    with pytest.raises(
        GuestTimeout, match=r"no answer .* within 0\.2 s \(waited for .init: ready. on its console.*\), while booting"
    ):
        async with Guest(iommu={}, boot_seconds=0.2):
            pass
    assert (remains.open_files(), remains.children()) == before


@pytest.mark.asyncio
@pytest.mark.usefixtures("turn")
async def test_a_guest_that_panics_hangs_or_refuses() -> None:
    before = remains.open_files(), remains.children()
    async with guest_of(variant("legacy-3-level")) as guest:
        with pytest.raises(GuestError, match="the guest's helper refuses 'open 0000:00:9f"):
            await guest.ask("open 0000:00:9f")
        with pytest.raises(GuestError, match="'false' ended with status 1"):
            await guest.run("false")
        with pytest.raises(
            GuestTimeout, match=r"no answer .* within 0\.5 s \(waited for the end of the .*, while running 'sleep 60'"
        ):
            await guest.run("sleep 60", 0.5)
        await guest.console.send("\x03\necho c > /proc/sysrq-trigger\n")
        panicked = pytest.raises(GuestEnded, match="the guest's kernel panicked, while going down")
        with panicked as raised, guest.doing("going down"):
            await guest.console.wait_for("never printed", 20)
        assert "sysrq triggered crash" in raised.value.console()
    assert (remains.open_files(), remains.children()) == before


@pytest.mark.usefixtures("turn")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [VTD, "guest", "shell"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {remains.MARK: mark},
    )
    assert process.stdin is not None and process.stderr is not None
    assert "leave with" in process.stderr.readline()
    assert len(remains.marked(mark)) > 1
    process.send_signal(number)
    assert process.wait(10) == (-number if number is signal.SIGKILL else 128 + number)
    process.stdin.close()
    process.stderr.close()
    assert remains.all_end(mark)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--variant", "none"], "there is no variant 'none'; there are legacy-3-level"),
        (["run", "--kernel", "/nowhere/vmlinuz"], "there is no such file"),
        (["run", "--kernel-package", "no such"], "is not the name of a Debian package"),
        (["run", "--qemu", "/nowhere/qemu"], "no QEMU"),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str) -> None:
    ran = subprocess.run([VTD, "guest", *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr and len(ran.stderr.strip().splitlines()) == 1
