"""Exported scenarios run with nothing of ours, and show what QEMU does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from iommu import MisuseError, VtdError
from qemu.vtd.conformance.export import NotExportable, export, find
from qemu.vtd.probe import Build
from qemu.vtd.quirks import QUIRKS, Quirk, version_text
from tests.command import vtd
from tests.qemu_vtd.remains import is_gone, nothing_remains

ALONE = [sys.executable, "-I", "-S"]
"""Python without this project, or anything else that is not Python's own."""

PASS_THROUGH, BUS_RANGE = "legacy.pass-through.table-ignored", "ir.source.bus-range"


@cache
def exported(id_: str, qemu: str) -> str:
    """The text of a scenario's file."""
    return export(find(id_), qemu)


def run(text: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an exported file in an empty environment."""
    file = folder / "exported.py"
    file.write_text(text)
    command = [*ALONE, str(file), *arguments]
    return subprocess.run(command, env={}, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_nothing_of_ours_can_be_imported() -> None:
    for package in ("iommu", "qemu.vtd", "rich"):
        assert subprocess.run([*ALONE, "-c", f"import {package}"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
def test_shows_the_departure(quirk: type[Quirk], build: Build, tmp_path: Path) -> None:
    if not quirk.is_in(build.version):
        pytest.skip(f"QEMU {version_text(build.version)} does not have it")
    try:
        text = exported(quirk.scenarios[0], build.path)
    except NotExportable as error:
        pytest.skip(str(error))
    done = run(text, tmp_path, build.path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "DIFFERS" in done.stdout
    assert quirk.function in text.replace("\n", " ")


@pytest.mark.parametrize(("id_", "shown"), [
    (PASS_THROUGH, "DIFFERS  memory at 0x800010 after the write: expected 0x01020304, seen 0xa0b8c0d0"),
    ("cache.iotlb.write-after-read", "same     data read at 0x5010: expected 0xa0b8c0d0, seen 0xa0b8c0d0"),
    ("cache.iotlb.write-after-read", "DIFFERS  FSTS: expected 0x2, seen 0x0"),
    (BUS_RANGE, "DIFFERS  the interrupt: expected 0xfee03000,0x4055, seen none"),
    ("message.fault.serviced-while-masked", "DIFFERS  messages: expected none, seen 0xfee01000,0x31"),
    ("queue.error.code", "DIFFERS  IQERCD: expected 0x3, seen 0x0"),
])  # fmt: skip
def test_prints_expected_and_seen(id_: str, shown: str, build: Build, tmp_path: Path) -> None:
    assert shown in run(exported(id_, build.path), tmp_path, build.path).stdout.splitlines()


@pytest.mark.parametrize(
    "id_", ["legacy.pages.4k-3-levels", "cache.context.domain", "ir.cache.stale", "queue.wait.status"]
)
def test_agreement_and_freedom_are_no_departure(id_: str, build: Build, tmp_path: Path) -> None:
    done = run(exported(id_, build.path), tmp_path, build.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DIFFERS" not in done.stdout


def test_is_readable(build: Build) -> None:
    text = exported(PASS_THROUGH, build.path)
    for line in (
        "# root entry, bus 0x00: P=1 CTP=0x101000",
        "# context entry, 00:04.0: P=1 TT=PASS_THROUGH SSPTPTR=0xfffffffffffff000 AW=2 DID=1",
        "# GCMD: SRTP=1",
        "writel 0xfed90018 0x40000000",
        "    '-device', 'intel-iommu,aw-bits=48',",
        "    fault 0x0b A 0x800000 write  (LCT.3 reserved bit set in a present context entry)",
    ):
        assert line in text.splitlines()
    assert "-trace" not in text.partition("SCRIPT")[0]
    assert max(map(len, text.partition("SCRIPT")[0].splitlines())) <= 110


def test_says_when_a_trace_is_needed(build: Build) -> None:
    head, _, rest = exported(BUS_RANGE, build.path).partition("SCRIPT = ")
    assert "QEMU is started with -trace" in head.replace("\n", " ")
    assert "'-trace', 'vtd_ir_remap_msi'," in head
    assert "\ntrace vtd_ir_remap_msi ? 0xfee03000,0x4055 the interrupt\n" in rest


def test_a_qemu_that_cannot_be_run_is_reported(build: Build, tmp_path: Path) -> None:
    text = exported(PASS_THROUGH, build.path)
    done = run(text, tmp_path, "/no/such/qemu")
    assert done.returncode == 2
    assert done.stderr == "[Errno 2] No such file or directory: '/no/such/qemu'\n"
    done = run(text.replace("intel-iommu,aw-bits=48", "intel-iommu,aw-bits=47"), tmp_path, build.path)
    assert done.returncode == 2
    assert "aw-bits" in done.stderr


def test_a_value_that_never_comes_ends_the_script(build: Build, tmp_path: Path) -> None:
    text = exported(PASS_THROUGH, build.path).replace("SECONDS = 10", "SECONDS = 0.5")
    done = run(text.replace("== 0xc0000000", "== 0xc0000001"), tmp_path, build.path)
    assert (done.returncode, done.stderr) == (2, "readl 0xfed9001c did not become 0xc0000001\n")


def test_qemu_ends_with_a_file_that_is_killed(build: Build, tmp_path: Path) -> None:
    text = exported(PASS_THROUGH, build.path).replace("== 0xc0000000", "== 0xc0000001")
    (tmp_path / "exported.py").write_text(text)
    command = [*ALONE, "exported.py", build.path]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, env={"TMPDIR": str(tmp_path)}) as process:
        deadline = time.monotonic() + 10
        while not (started := children_of(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        started = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
    assert started
    assert all(is_gone(pid) for pid in started)


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_export_leaves_nothing_behind(build: Build) -> None:
    export(find(PASS_THROUGH), build.path)
    with nothing_remains():
        export(find(PASS_THROUGH), build.path)


def test_unknown_id() -> None:
    with pytest.raises(MisuseError, match=r"no scenario and no quirk 'legacy\.root'"):
        find("legacy.root")


def test_quirk_stands_for_its_first_scenario() -> None:
    assert find("q05").id == PASS_THROUGH


def test_capability_that_is_missing(build: Build) -> None:
    if build.version >= (11, 0, 0):
        pytest.skip("this QEMU offers ESRTPS")
    with pytest.raises(VtdError, match="does not offer invalidate_on_root_pointer"):
        export(find("cache.root.srtp-invalidates"), build.path)


def test_command_writes_a_file(build: Build, tmp_path: Path) -> None:
    into = vtd("conform", "--export", "Q05", "--qemu", build.path, "--to", tmp_path)
    file = tmp_path / f"{PASS_THROUGH}.py"
    assert (into.returncode, into.stdout) == (0, f"{file}: run it as python3 {file} [QEMU]\n".encode())
    named = tmp_path / "mine.py"
    assert vtd("conform", "--export", "Q05", "--qemu", build.path, "--to", named).returncode == 0
    printed = vtd("conform", "--export", "Q05", "--qemu", build.path)
    as_json = json.loads(vtd("conform", "--export", "Q05", "--qemu", build.path, "--json").stdout)
    assert as_json["file"] is None
    assert file.read_text() == named.read_text() == printed.stdout.decode() == as_json["text"]
    assert sorted(tmp_path.iterdir()) == sorted([file, named])


@pytest.mark.parametrize(("arguments", "message"), [
    (["Q99"], "no scenario and no quirk 'Q99'; vtd conform -v and vtd quirks list them"),
    (["Q05", "--to", "/no/such/place/file.py"], "--to /no/such/place/file.py: no such directory: /no/such/place"),
])  # fmt: skip
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = vtd("conform", "--export", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", f"vtd: {message}\n".encode())
