"""Campaigns: a seeded bug is found, shrunk, grouped and replayed; whatever interrupts one, its end is the same."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from iommu import RemappingUnit
from iommu.errors import InputError, MisuseError
from qemu.vtd.errors import QemuDied
from qemu.vtd.fuzz import campaign as campaigns
from qemu.vtd.fuzz import checkpoint, lawful, report
from qemu.vtd.fuzz.campaign import Campaign, streams
from qemu.vtd.fuzz.case import read_found
from qemu.vtd.fuzz.lanes import SlowLane
from qemu.vtd.fuzz.quick import QuickPlatform
from qemu.vtd.fuzz.stream import Stream
from qemu.vtd.probe import Build
from qemu.vtd.quirks import profile, quirks_of, unit_with
from tests.command import vtd
from tests.qemu_vtd.remains import nothing_remains

CFIS = "Q41"
"""A quirk of every version: GSTS.CFIS stays 0. Without it, the model expects the bit that QEMU does not show."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "BATCH", 8)


def without(quirk: str, build: Build) -> type[RemappingUnit]:
    return unit_with([each for each in quirks_of(build.version) if each.id != quirk])


def begun(build: Build, mode: str = "registers", cases: int = 160) -> list[Stream]:
    return streams([build.path], [mode], cases, 1, pytest.fail)


def run(found: list[Stream], folder: Path, jobs: int = 1, unit: type[RemappingUnit] | None = None) -> dict[str, Any]:
    with nothing_remains():
        Campaign(found, folder, jobs, unit=unit).run()
    return end_of(folder)


def end_of(folder: Path) -> dict[str, Any]:
    """What a campaign has come to. What QEMU traced has addresses of its own in it."""
    document: dict[str, Any] = json.loads((folder / checkpoint.NAME).read_bytes())
    for stream in document["streams"]:
        for group in stream["groups"]:
            for found in (group["first"], group["smallest"]):
                found["trace"] = None
    return document


def test_a_seeded_bug_is_found_shrunk_grouped_and_replayed(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = begun(build)
    run(found, tmp_path, unit=without(CFIS, build))
    ((like, group),) = found[0].groups.items()
    assert (like.kind, like.where, like.seen) == ("peek", "GSTS", "register 0x1c 0x0")
    assert group.steady
    assert group.smallest is not None
    assert len(group.smallest.case.actions) == 2
    assert any("vtd_reg_write" in line for line in group.smallest.trace)

    report.save(tmp_path, found)
    (file,) = tmp_path.glob("qemu-*.json")
    assert read_found(file) == group.smallest
    assert vtd("replay", file, "--qemu", build.path).returncode == 0
    monkeypatch.setattr(lawful, "profile", lambda version: without(CFIS, build))
    again = vtd("replay", file, "--qemu", build.path)
    assert again.returncode == 1
    assert "expected  register 0x1c 0x800000" in again.stdout.decode()
    document = json.loads(vtd("replay", "--json", file, "--qemu", build.path).stdout)
    assert document["differs_at"] == 1


def test_the_model_with_all_quirks_finds_nothing(build: Build, tmp_path: Path) -> None:
    found = begun(build)
    run(found, tmp_path, unit=profile(build.version))
    assert found[0].groups == {}
    assert found[0].done + found[0].left_out == 160


def test_more_processes_find_the_same(build: Build, tmp_path: Path) -> None:
    ends = []
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        ends.append(run(begun(build), folder, jobs, without(CFIS, build)))
    assert ends[0] == ends[1]


def test_an_interrupted_campaign_ends_as_one_that_was_not(build: Build, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    unit = without(CFIS, build)
    expected = run(begun(build), whole, unit=unit)

    def interrupt(running: object) -> None:
        if under_way[0].merged >= stop:
            raise KeyboardInterrupt

    under_way = begun(build)
    for stop in (3, 9, 14):
        with nothing_remains(), pytest.raises(KeyboardInterrupt):
            Campaign(under_way, cut, 2, interrupt, unit).run()
        under_way = checkpoint.read(cut / checkpoint.NAME)
        assert stop <= under_way[0].merged < under_way[0].batches
    assert run(under_way, cut, unit=unit) == expected


def test_a_qemu_that_is_killed_is_replaced(build: Build, tmp_path: Path) -> None:
    """Its case is run again, and nothing is found."""
    killed: list[int] = []

    def kill(running: object) -> None:
        for pid in [] if killed else qemus():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    found = begun(build, cases=80)
    Campaign(found, tmp_path, 1, kill).run()
    assert killed
    assert found[0].groups == {}
    assert found[0].finished


@pytest.mark.parametrize(("deaths", "fails"), [(1, False), (2, True)])
def test_a_qemu_that_is_killed_while_it_starts(
    build: Build, monkeypatch: pytest.MonkeyPatch, deaths: int, fails: bool
) -> None:
    """It is started once more; one that ends again cannot be used."""
    start, left = QuickPlatform.__enter__, [QemuDied(-signal.SIGKILL)] * deaths

    def enter(platform: QuickPlatform) -> QuickPlatform:
        if left:
            raise left.pop()
        start(platform)
        return platform

    monkeypatch.setattr(QuickPlatform, "__enter__", enter)
    lane = SlowLane(build.path)
    with nothing_remains(), closing(lane):
        if fails:
            with pytest.raises(QemuDied):
                lane.terms("WIDE")
        else:
            assert lane.terms("WIDE").version == build.version


def qemus() -> list[int]:
    """The QEMUs below this process."""
    rows = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    parent = {int(row.split()[0]): int(row.split()[1]) for row in rows.splitlines()}
    found = []
    for row in rows.splitlines():
        pid, _, name = row.split(maxsplit=2)
        above = int(pid)
        while above in parent and above != os.getpid():
            above = parent[above]
        if name.startswith("qemu-system") and above == os.getpid():
            found.append(int(pid))
    return found


def test_a_killed_campaign_goes_on(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of vtd itself: what is in the checkpoint is not run again, and the end is the same."""
    monkeypatch.undo()  # the process that is killed has batches of the usual size
    words = ["fuzz", "--cases", "960", "--seed", "3", "--mode", "interrupts", "--qemu", build.path, "--jobs", "1"]
    assert vtd(*words, "--to", tmp_path / "whole").returncode == 0
    place = tmp_path / "cut" / checkpoint.NAME
    with nothing_remains():
        process = subprocess.Popen([Path(sys.executable).parent / "vtd", *words, "--to", place.parent])
        while not place.exists() or checkpoint.read(place)[0].merged == 0:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert 0 < checkpoint.read(place)[0].merged < 15
    assert vtd("fuzz", "--resume", place.parent, "--qemu", build.path).returncode == 0
    assert end_of(place.parent) == end_of(tmp_path / "whole")


def test_a_full_disk_keeps_the_checkpoint_before(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaigns, "_CHECKPOINT_SECONDS", 0.0)
    writes = 0

    def sync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", sync)
    found = begun(build)
    with nothing_remains(), pytest.raises(OSError, match="No space left") as error:
        Campaign(found, tmp_path, 1).run()
    assert error.value.filename == str(tmp_path / checkpoint.NAME)
    monkeypatch.undo()
    kept = checkpoint.read(tmp_path / checkpoint.NAME)
    assert not kept[0].finished
    assert [each.name for each in tmp_path.iterdir()] == [checkpoint.NAME]


# The command.


def test_a_folder_with_a_campaign_is_not_overwritten(build: Build, tmp_path: Path) -> None:
    words = ["fuzz", "--cases", "8", "--mode", "registers", "--qemu", build.path, "--to", str(tmp_path)]
    assert vtd(*words).returncode == 0
    again = vtd(*words)
    assert again.returncode == 2
    assert b"holds a campaign: go on with --resume" in again.stderr
    document = json.loads(vtd("fuzz", "--resume", tmp_path, "--qemu", build.path, "--json").stdout)
    assert document["streams"][0]["cases"] == 8


def test_a_checkpoint_cannot_name_a_program_to_run(build: Build, tmp_path: Path) -> None:
    assert vtd("fuzz", "--cases", "8", "--mode", "queue", "--qemu", build.path, "--to", tmp_path).returncode == 0
    place = tmp_path / checkpoint.NAME
    touched = tmp_path / "touched"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {touched}\n")
    program.chmod(0o700)
    place.write_text(place.read_text().replace(build.path, str(program)))
    ran = vtd("fuzz", "--resume", tmp_path)
    assert ran.returncode == 2
    assert b"which vtd qemu list does not: name it with --qemu too" in ran.stderr
    assert not touched.exists()


BAD = {
    "cut short": (lambda text: text[:200], "not valid JSON"),
    "another format": (
        lambda text: text.replace("campaign 1", "campaign 9"),
        ".format: 'vtdlab fuzz campaign 9' is not",
    ),
    "no such mode": (lambda text: text.replace('"queue"', '"quiz"'), "streams[0].mode: 'quiz' is not one of legacy"),
    "more than there is": (lambda text: text.replace('"merged": 1', '"merged": 9'), "streams[0].merged: 9 batches"),
    "no number": (lambda text: text.replace('"seed": 1', '"seed": -1'), "streams[0].seed: -1 is not from"),
    "a batch that is none": (
        lambda text: text.replace('"16": ', '"17": '),
        "planned: '17' is not one of the batches",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_checkpoint_is_one_line(build: Build, tmp_path: Path, change: Any, message: str) -> None:
    found = streams([build.path], ["queue"], 8, 1, pytest.fail)
    Campaign(found, tmp_path, 1).run()
    place = tmp_path / checkpoint.NAME
    place.write_text(change(place.read_text()))
    with pytest.raises((InputError, MisuseError)) as error:
        checkpoint.read(place)
    assert str(error.value).startswith(str(place))
    assert message in str(error.value)
    ran = vtd("fuzz", "--resume", tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr.decode()) == (2, b"", f"vtd: {error.value}\n")
