"""The one-file form: what is put in comes out, and nothing else is taken for it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iommu import DmaRequest, FlatMemory, RemappingUnit, SourceId, System, VtdError
from iommu.dmar import Dmar
from iommu.snapshot import Snapshot, onefile, save
from iommu.snapshot.memory import PiecewiseMemory
from tests import command
from tests.dmar import hand
from tests.engine.living import busy
from tests.engine.world import NIC, READ, mapped

PAGE = 4096


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A snapshot of a unit with caches, faults and a queue."""
    save(busy().unit, tmp_path / "taken.vtd")
    return tmp_path / "taken.vtd"


def members(place: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(place) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(place: Path, **changes: bytes | None) -> Path:
    """The snapshot with some members changed, or left out; their names with _ for / and ."""
    kept = members(place)
    for name in list(kept):
        short = name.replace("/", "_").replace(".", "_")
        if short in changes:
            data = changes[short]
            kept.pop(name) if data is None else kept.update({name: data})
    changed = place.with_name("changed.vtd")
    with zipfile.ZipFile(changed, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    return changed


def described(place: Path, **changes: object) -> Path:
    """The snapshot with settings changed."""
    text = json.loads(members(place)["snapshot.json"]) | changes
    return rewritten(place, snapshot_json=json.dumps(text).encode())


def test_the_file_is_private_and_holds_no_page_of_zeroes(tmp_path: Path) -> None:
    memory = FlatMemory(1 << 30)
    for address in (0x5000, 0x3FFF_F000):
        memory.write(address, os.urandom(PAGE))
    save(RemappingUnit(memory), tmp_path / "sparse.vtd")
    status = (tmp_path / "sparse.vtd").stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size < 4 * PAGE + 8192  # two pages, the registers and the unit's state
    found = Snapshot.open(tmp_path / "sparse.vtd").memory
    for address in (0, 0x5000, 0x2000_0000, 0x3FFF_F000):
        assert found.read(address, PAGE) == memory.read(address, PAGE)


def test_other_programs_can_read_it_as_described(taken: Path) -> None:
    """With nothing but zipfile, struct and Zstandard, as docs/snapshots.md says."""
    unit, parts = busy().unit, members(taken)
    runs = struct.iter_unpack("<QQ", parts["memory/runs.bin"])
    numbers = [first + n for first, count in runs for n in range(count)]
    sizes = [size for (size,) in struct.iter_unpack("<I", parts["memory/frames.bin"])]
    pages, at = b"", 0
    for size in sizes:
        pages += zstandard.ZstdDecompressor().decompress(parts["memory/pages.zst"][at : at + size])
        at += size
    found = {number * PAGE: pages[n * PAGE : (n + 1) * PAGE] for n, number in enumerate(numbers)}
    assert all(unit.memory.read(address, PAGE) == page for address, page in found.items())
    (last,) = {int(stop, 16) for _, stop in json.loads(parts["snapshot.json"])["memory"]}
    rest = set(range(0, last, PAGE)) - found.keys()
    assert rest and all(not any(unit.memory.read(address, PAGE)) for address in rest)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 4095), st.binary(min_size=1, max_size=9000)),
        min_size=1,
        max_size=6,
    )
)
def test_any_pieces_of_memory(tmp_path: Path, wanted: list[tuple[int, int, bytes]]) -> None:
    pieces, end = [], -1
    for page, offset, data in sorted(wanted):
        start = page * PAGE + offset
        if start > end:
            pieces.append((start, bytearray(data)))
            end = start + len(data)
    save(RemappingUnit(PiecewiseMemory(pieces)), tmp_path / "pieces.vtd")
    found = Snapshot.open(tmp_path / "pieces.vtd").memory
    for start, piece in pieces:
        assert found.read(start, len(piece)) == piece
        with pytest.raises(VtdError, match="no memory"):
            found.read(start + len(piece), 1)


def test_copies_do_not_need_the_file(taken: Path) -> None:
    before = Snapshot.open(taken)
    before.memory.write(0x9000, b"changed")
    copies = copy.deepcopy(before.memory), pickle.loads(pickle.dumps(before.memory))
    taken.unlink()
    for each in copies:
        assert each.read(0, 0x20000) == before.memory.read(0, 0x20000)
        each.write(0x9000, b"another")
        assert before.memory.read(0x9000, 7) == b"changed"


def test_written_pages_are_saved_again(taken: Path) -> None:
    (unit,) = Snapshot.open(taken).units
    where = unit.memory.read(0, 1 << 16).find(bytes(PAGE)) & -PAGE
    unit.memory.write(where, b"new")
    again = unit.unit()
    save(again, taken.with_name("again.vtd"))
    found = Snapshot.open(taken.with_name("again.vtd"))
    assert found.memory.read(where, 3) == b"new"
    assert found.units[0].state == unit.state


def test_a_system_is_saved_with_its_table(tmp_path: Path) -> None:
    living = mapped()
    table = Dmar.parse(hand.table(hand.drhd(0xFED9_1000, hand.scope(1, 0, (2, 0))), hand.drhd(0xFED9_0000, flags=1)))
    other = RemappingUnit(living.memory, living.capabilities)
    save(System(table, {0xFED9_0000: living.unit, 0xFED9_1000: other}), tmp_path / "two.vtd")
    found = Snapshot.open(tmp_path / "two.vtd")
    assert [unit.register_base for unit in found.units] == [0xFED9_1000, 0xFED9_0000]
    assert found.table is not None and found.table.build() == table.build()
    system, request = found.system(), DmaRequest(NIC, 0x5010, READ)
    assert system.translate(request).host_address == 0x9010
    assert system.translate(DmaRequest(SourceId(0, 2, 0), 0x5010, READ)).host_address == 0x5010  # its unit is off
    assert found.unit_for(NIC).register_base == 0xFED9_0000
    assert found.unit_for(SourceId(0, 2, 0)).register_base == 0xFED9_1000


def test_without_a_table_nobody_knows_which_unit(tmp_path: Path) -> None:
    place = tmp_path / "one.vtd"
    save(mapped().unit, place)
    one = Snapshot.open(place)
    assert one.table is None and one.unit_for(NIC) is one.units[0]
    with pytest.raises(VtdError, match="has no DMAR"):
        one.system()
    with pytest.raises(VtdError, match="has no DMAR, which would say which of its units"):
        one._replace(units=one.units * 2).unit_for(NIC)


# Nothing is left of what failed.


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    class Broken(FlatMemory):
        def read(self, address: int, length: int) -> bytes:
            raise KeyboardInterrupt

    (tmp_path / "taken.vtd").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        save(RemappingUnit(Broken(1 << 20)), tmp_path / "taken.vtd")
    assert [each.name for each in tmp_path.iterdir()] == ["taken.vtd"]
    assert (tmp_path / "taken.vtd").read_bytes() == b"old"
    with pytest.raises(VtdError, match="is not a file"):
        save(mapped().unit, Path("/dev/null"))
    with pytest.raises(IsADirectoryError):
        save(mapped().unit, tmp_path)
    with pytest.raises(OSError, match=r"No such file or directory: .*taken\.vtd'"):
        save(mapped().unit, tmp_path / "nowhere" / "taken.vtd")


# Bad input.


def frame(size: int) -> bytes:
    return zstandard.ZstdCompressor().compress(b"x" * size)


def run(*pairs: int) -> bytes:
    return struct.pack(f"<{len(pairs)}Q", *pairs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: described(it, format="vtdlab-snapshot-9"), "the format is not vtdlab-snapshot-2 but"),
        (lambda it: rewritten(it, snapshot_json=b"[1]"), "the format is not"),
        (lambda it: rewritten(it, snapshot_json=b"[" * 100_000), "snapshot.json: not valid JSON"),
        (lambda it: described(it, units=[]), "not a list of 1 to 256 units"),
        (lambda it: described(it, units=[{}]), "is not a 64-bit number"),
        (lambda it: described(it, memory=[["0x1000", "0x1000"]]), "empty or not in order"),
        (lambda it: described(it, memory=[[0, 1 << 65]]), "is not a 64-bit number"),
        (lambda it: described(it, memory=7), "not a list of ranges"),
        (lambda it: described(it, unknown=[7]), "is not a text"),
        (lambda it: rewritten(it, units_0_registers_bin=None), "has no units/0/registers.bin"),
        (lambda it: rewritten(it, units_0_registers_bin=b"short"), "too few for a register window"),
        (lambda it: rewritten(it, memory_runs_bin=b"short"), "not a multiple of 16 bytes"),
        (lambda it: rewritten(it, memory_runs_bin=run(2, 1, 1, 1)), "the pages are not in order"),
        (lambda it: rewritten(it, memory_runs_bin=run(1, 1 << 60)), "the pages are not in order"),
        (lambda it: rewritten(it, memory_runs_bin=run(1, 1 << 40)), "1099511627776 pages need another number"),
        (lambda it: rewritten(it, memory_frames_bin=struct.pack("<I", 1 << 30)), "there are .* bytes of frames"),
        (lambda it: rewritten(it, memory_pages_zst=None), "has no memory/pages.zst"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_at_once(
    change: Callable[[Path], Path], said: str, taken: Path
) -> None:
    with pytest.raises(VtdError, match=said) as caught:
        Snapshot.open(change(taken))
    assert "\n" not in str(caught.value)


def test_a_frame_that_unpacks_to_more_than_it_should_is_not_unpacked(taken: Path) -> None:
    """Two bytes of runs, 100 KB of frame, 3 GiB of memory: refused by the size in its header."""
    huge = zstandard.ZstdCompressor().compressobj(size=3 << 30)
    packed = b"".join(huge.compress(bytes(1 << 20)) for _ in range(3 << 10)) + huge.flush()
    changes = {"memory_runs_bin": run(1, 1), "memory_frames_bin": struct.pack("<I", len(packed))}
    place = rewritten(taken, memory_pages_zst=packed, **changes)
    found = Snapshot.open(place)
    with pytest.raises(VtdError, match="it has to unpack to 4096 bytes"):
        found.memory.read(PAGE, 8)
    done = command.vtd("walk", place, "--request", "00:04.0 read 0x5000")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_zip_of_a_folder_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "huge.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("unit.json", b"{}")
        with archive.open("memory.bin", "w") as member:
            for _ in range(1025):
                member.write(bytes(1 << 20))
    with pytest.raises(VtdError, match="unpacks to more than 1 GiB; to allow it: VTDLAB_LIMITS=unpacked=2G"):
        Snapshot.open(tmp_path / "huge.zip")


def test_members_that_zip_has_compressed_are_refused(taken: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deflated.vtd", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members(taken).items():
            archive.writestr(name, data)
    with pytest.raises(VtdError, match="is not stored as it should be"):
        Snapshot.open(tmp_path / "deflated.vtd")


def test_a_file_cut_short_anywhere_is_refused(taken: Path) -> None:
    whole = taken.read_bytes()
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        taken.write_bytes(whole[:size])
        with pytest.raises(VtdError, match=r"is not a snapshot|is not a zip archive|damaged"):
            Snapshot.open(taken)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_file_is_refused_or_read(taken: Path, data: st.DataObject) -> None:
    """Whatever the bytes: a unit, or one line. Memory that comes from a frame is as it was, or refused."""
    original = taken.with_name("original")
    if not original.exists():
        original.write_bytes(taken.read_bytes())
    whole = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    taken.write_bytes(whole)
    try:
        found = Snapshot.open(taken)
        for unit in found.units:
            unit.unit().translate(DmaRequest(NIC, 0x5000, READ))
            unit.faults()
    except VtdError as error:
        assert "\n" not in str(error)


def test_the_names_of_the_members_are_those_of_the_documentation() -> None:
    text = Path(onefile.__file__).parents[2].joinpath("docs/snapshots.md").read_text()
    for name in (onefile.SETTINGS, onefile.DMAR, onefile.RUNS, onefile.FRAMES, onefile.PAGES, onefile.FORMAT):
        assert name in text
