"""Snapshots that are damaged, or larger than they look: one line, soon, and little memory."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommu.errors import InputError, VtdError
from iommu.files.limits import VARIABLE
from iommu.snapshot import Snapshot, save
from iommu.snapshot.memory import PiecewiseMemory, used_of
from tests.engine.world import mapped
from tests.snapshot.test_snapshot import folder

MIB = 1 << 20


def packed(place: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return place


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A snapshot's files by name."""
    place = folder(mapped().unit, tmp_path / "taken")
    return {name: (place / name).read_bytes() for name in ("unit.json", "registers.bin", "memory.bin")}


def test_damaged_deflate_data(files: dict[str, bytes], tmp_path: Path) -> None:
    files["memory.bin"] = random.Random(1).randbytes(MIB)
    place = packed(tmp_path / "taken.zip", files)
    whole = bytearray(place.read_bytes())
    start = whole.find(b"memory.bin") + 10
    for seed in range(50):
        at = start + random.Random(seed).randrange(MIB // 2)
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"taken.zip, memory.bin is damaged: "):
            Snapshot.open(place)


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_LZMA, "lzma"), (zipfile.ZIP_BZIP2, "bzip2")])
def test_other_methods_are_refused_before_their_data_is_read(
    method: int, name: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"taken.zip, unit.json: compressed by {name}: only deflate is read"):
        Snapshot.open(packed(tmp_path / "taken.zip", files, method))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_settings_that_are_nested_too_deeply(form: str, files: dict[str, bytes], tmp_path: Path) -> None:
    files["unit.json"] = b"[" * 100_000
    (tmp_path / "taken" / "unit.json").write_bytes(files["unit.json"])
    place = tmp_path / "taken" if form == "folder" else packed(tmp_path / "taken.zip", files)
    with pytest.raises(InputError, match=r"unit.json: not valid JSON: values are nested too deeply"):
        Snapshot.open(place)


@pytest.mark.parametrize("name", ["unit.json", "registers.bin", "memory.bin"])
def test_a_small_archive_of_much(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for other in files.keys() - {name}:
            archive.writestr(other, files[other])
        with archive.open(name, "w") as member:
            for _ in range(200):
                member.write(b" " * MIB)
    with pytest.raises(InputError, match=rf"bomb.zip, {name}: it unpacks to more than 200 times its size; to allow"):
        Snapshot.open(tmp_path / "bomb.zip")


def test_memory_that_unpacks_to_much_is_allowed_when_the_user_says_so(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files["memory.bin"] += bytes(100 * MIB) + b"\x01" * 4096
    monkeypatch.setenv(VARIABLE, "ratio=2K")
    taken = Snapshot.open(packed(tmp_path / "taken.zip", files))
    assert taken.memory.read(100 * MIB + 1, 4) == bytes(4)
    assert sum(map(len, used_of(taken.memory))) < 4 * MIB


def test_holes_of_a_file_are_not_searched(files: dict[str, bytes], tmp_path: Path) -> None:
    with (tmp_path / "taken" / "memory.bin").open("r+b") as file:
        file.truncate(3 << 40)
    taken = Snapshot.open(tmp_path / "taken")
    assert taken.table is None  # there is no DMAR in 3 TiB
    taken.memory.write(2 << 40, b"written")
    assert taken.memory.read(2 << 40, 7) == b"written"
    assert isinstance(taken.memory, PiecewiseMemory)
    assert [range(3 << 40)] == list(taken.memory.used())


def test_an_archive_of_a_million_members(tmp_path: Path) -> None:
    place = packed(tmp_path / "many.zip", {f"{'x' * 200}{n}": b"" for n in range(5000)})
    with pytest.raises(InputError, match="its list of members takes more than 1048576 bytes"):
        Snapshot.open(place)


def mutated(whole: bytes, count: int) -> Iterator[bytes]:
    """Copies with a few bytes changed, most of them where an archive has its structure."""
    edges = [at for at in range(len(whole)) if whole[at : at + 2] == b"PK"]
    for seed in range(count):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = min(chance.choice(edges) + chance.randrange(60), len(data) - 1)
            data[at if chance.random() < 0.8 else chance.randrange(len(data))] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF)
            )
        yield bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


@pytest.mark.parametrize("form", ["one file", "zip"])
def test_mutated_archives_raise_only_our_errors(form: str, files: dict[str, bytes], tmp_path: Path) -> None:
    place = tmp_path / "taken.vtd"
    if form == "zip":
        packed(place, files)
    else:
        save(mapped().unit, place)
    for data in mutated(place.read_bytes(), int(os.environ.get("MUTATIONS", "300"))):
        place.write_bytes(data)
        try:
            taken = Snapshot.open(place)
            for unit in taken.units:
                unit.unit()
            assert taken.table is None
        except VtdError as error:
            assert "\n" not in str(error)
