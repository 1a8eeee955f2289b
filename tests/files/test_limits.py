"""Limits: what an input may cost, and how a limit is raised."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iommu.dmar.inputs import read_table, read_tables
from iommu.errors import InputError, MisuseError
from iommu.files import reading, unpacking
from iommu.files.documents import parse_json
from iommu.files.limits import VARIABLE, Limits, limits
from iommu.files.mapped import Mapped
from tests import command
from tests.dmar.hand import drhd, table

DMAR = table(drhd(0xFED91000, flags=1))


def test_limits_are_raised_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits()
    monkeypatch.setenv(VARIABLE, "read=8G,wait=2,ratio=1k")
    assert (limits().read, limits().wait, limits().ratio) == (8 << 30, 2, 1024)
    assert limits().unpacked == Limits().unpacked


@pytest.mark.parametrize("text", ["wat=2", "wait", "wait=", "wait=-1", "wait=2X", "read=1e9", "wait=" + "9" * 5000])
def test_limits_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(MisuseError, match=f"{VARIABLE}: '.*' is not a limit such as unpacked=4G: file, read"):
        limits()


def test_gzip_within_gzip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = DMAR
    for _ in range(1200):
        data = gzip.compress(data, 1)
    (tmp_path / "deep").write_bytes(data)
    with pytest.raises(InputError, match=r"more than 4 layers; to allow it: VTDLAB_LIMITS=nesting=8$"):
        read_table(tmp_path / "deep")
    monkeypatch.setenv(VARIABLE, "nesting=1200,ratio=100000")
    assert read_table(tmp_path / "deep") == DMAR


def test_what_unpacks_to_many_times_its_size_is_refused_before_it_is_scanned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "newlines.gz"
    path.write_bytes(gzip.compress(b"\n" * (40 << 20)))
    with pytest.raises(InputError, match=r"unpacks to more than 200 times its size; to allow it: .*ratio=400$"):
        read_tables(path)
    monkeypatch.setenv(VARIABLE, "unpacked=1M")
    with pytest.raises(InputError, match=r"unpacks to more than 1 MiB; to allow it: .*unpacked=2M$"):
        read_tables(path)


def test_a_large_image_that_is_unpacked_takes_no_room_for_its_zeroes(tmp_path: Path) -> None:
    noise = os.urandom(1 << 20)
    found = unpacking.unpacked(gzip.compress(bytes(30 << 20) + noise + bytes(30 << 20)), "image.gz")
    assert isinstance(found, Mapped) and len(found) == 61 << 20
    assert sum(map(len, found.data)) == 1 << 20
    assert (found.find(noise), found.find(noise[:9], (30 << 20) + 1)) == (30 << 20, -1)


def test_a_sparse_file_is_searched_where_it_has_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"not a zero")
        file.seek(1 << 40)
        file.write(b"RSD PTR ")
        file.truncate(1 << 41)
    found = reading.contents(path)
    assert isinstance(found, Mapped)
    assert (found.find(b"RSD PTR "), found.find(b"absent")) == (1 << 40, -1)  # 2 TiB: hours without the holes
    done = command.vtd("dmar", "show", path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not a DMAR: it begins with b'not '" in done.stderr


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "."])
def test_devices_and_folders_are_not_read(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} is a (device|folder): a file or a pipe is needed"):
        reading.contents(Path(name))


def test_a_device_as_standard_input_ends_at_the_limit() -> None:
    words = [sys.executable, "-m", "iommu.cli.main", "dmar", "show", "-"]
    with Path("/dev/zero").open("rb") as zeroes:
        done = subprocess.run(
            words, stdin=zeroes, env={**os.environ, VARIABLE: "read=1M"}, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "vtd: standard input: there are more than 1 MiB; to allow it: VTDLAB_LIMITS=read=2M\n"


@pytest.mark.parametrize("words", [["dmar", "show"], ["dmar", "build", "-o", "/dev/null"], ["explain"]])
def test_a_pipe_that_nobody_writes_to(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "wait=2")
    os.mkfifo(tmp_path / "pipe")
    done = command.vtd(*words, tmp_path / "pipe")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        f"vtd: waiting for input on {tmp_path}/pipe",
        f"vtd: {tmp_path}/pipe: nothing came for 2 seconds; to wait longer: VTDLAB_LIMITS=wait=20",
    ]


def test_a_pipe_is_read_to_its_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(DMAR))
    writer.start()
    assert read_table(tmp_path / "pipe") == DMAR
    writer.join()
    assert capfd.readouterr().err == ""


def test_json_of_every_size_and_shape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b'{"header": {}, "structures": []' + b" " * (17 << 20) + b"}")
    done = command.vtd("dmar", "build", path, "-o", tmp_path / "table")
    assert (done.returncode, done.stderr) == (0, b"")
    with pytest.raises(InputError, match="x: not valid JSON: values are nested too deeply"):
        parse_json(b"[" * 100_000, "x")
    with pytest.raises(InputError, match=r"x: JSON with more than 4194304 values; to allow it: .*values=8M"):
        parse_json(b"[" + b"[]," * (5 << 20) + b"0]", "x")
    monkeypatch.setenv(VARIABLE, "text=1K")
    with pytest.raises(InputError, match=r"x: JSON of more than 1 KiB; to allow it: .*text=2K"):
        parse_json(bytes(1025), "x")


def test_a_file_of_a_table_is_as_large_as_a_table_can_be(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(DMAR + bytes(1 << 20))
    with pytest.raises(InputError, match=r"large: a DMAR of more than 1 MiB; to allow it: .*table=2M"):
        read_table(tmp_path / "large")


def test_a_file_of_too_many_tables(tmp_path: Path) -> None:
    (tmp_path / "many").write_bytes(b"".join(DMAR[:40] + struct.pack("<Q", n) + DMAR[48:] for n in range(1001)))
    with pytest.raises(InputError, match="many: there are more than 1000 DMARs"):
        read_tables(tmp_path / "many")
