"""snapshot: every form is saved and loaded again; anything else gives one clear error."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from iommu import (
    Access,
    Capabilities,
    DmaRequest,
    FlatMemory,
    MisuseError,
    Policy,
    ProcessorCache,
    RemappingUnit,
    SourceId,
    StateError,
    VtdError,
)
from iommu.engine.request import AddressType
from iommu.explain import from_record
from iommu.registers import CAP, ECAP, FSTS, IQT, PMEN, RTADDR
from iommu.snapshot import Snapshot, UnitSnapshot, save
from iommu.snapshot.memory import PiecewiseMemory, ranges_of
from iommu.snapshot.request import parse_request, request_of, show_request
from iommu.snapshot.saving import registers_of
from tests import command
from tests.engine.living import PAGES, busy
from tests.engine.world import NIC, READ, RW, WRITE, R, World, mapped


def only(place: Path) -> UnitSnapshot:
    """The one unit of a snapshot."""
    (unit,) = Snapshot.open(place).units
    return unit


def folder(unit: RemappingUnit, place: Path) -> Path:
    """The snapshot of a unit as a folder, as people make one by hand."""
    place.mkdir(exist_ok=True)
    width = unit.capabilities.host_address_width
    (place / "unit.json").write_bytes(settings(host_address_width=width, register_base="0xfed90000"))
    (place / "registers.bin").write_bytes(registers_of(unit))
    (place / "memory.bin").write_bytes(unit.memory.read(0, ranges_of(unit.memory)[-1].stop))
    (place / "state.bin").write_bytes(unit.save())
    return place


def world_with_faults() -> World:
    """NIC has 0x5000 -> 0x9000 read-only, and has tried to write there."""
    world = mapped(entry=0x9000 | R, fault_records=4, host_address_width=46)
    assert world.fault(0x5008) == 0x05
    return world


def elf(pieces: list[tuple[int, bytes]]) -> bytes:
    """An ELF core for x86-64, with a PT_LOAD for each (physical address, contents)."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        4,
        62,
        1,
        0,
        64,
        0,
        0,
        64,
        56,
        len(pieces),
        0,
        0,
        0,
    )
    offset, headers, contents = 64 + 56 * len(pieces), b"", b""
    for address, data in pieces:
        headers += struct.pack("<IIQQQQQQ", 1, 0, offset + len(contents), 0, address, len(data), len(data), 0)
        contents += data
    return header + headers + contents


@pytest.fixture(params=["one file", "directory", "zip", "elf", "elf in zip"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same snapshot in each of its forms."""
    world, kind = world_with_faults(), request.param
    if kind == "one file":
        save(world.unit, tmp_path / "taken.vtd")
        return tmp_path / "taken.vtd"
    place = folder(world.unit, tmp_path / "taken")
    if kind.startswith("elf"):
        whole = (place / "memory.bin").read_bytes()
        # Like those of QEMU: a segment for each piece of memory, not in order.
        (place / "memory.elf").write_bytes(elf([(0xC0000, whole[0xC0000:]), (0, whole[:0xC0000])]))
        (place / "memory.bin").unlink()
    if kind.endswith("zip"):
        with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in place.iterdir():
                archive.write(file, f"taken/{file.name}")
        return tmp_path / "packed.zip"
    return place


def test_loaded_unit_is_in_the_saved_state(snapshot: Path) -> None:
    original = world_with_faults()
    taken = only(snapshot)
    assert taken.capabilities() == original.capabilities
    unit = taken.unit()
    assert unit.translate(DmaRequest(NIC, 0x5010, READ)).host_address == 0x9010
    assert unit.translate(DmaRequest(NIC, 0x5010, WRITE)).fault == 0x05
    assert unit.translate(DmaRequest(SourceId(0, 5, 0), 0x5010, WRITE)).fault == 0x02
    for offset in (CAP.offset, ECAP.offset, 0x20):
        assert unit.mmio_read(offset, 8) == original.read(offset, 8)
    assert unit.mmio_read(0x1C, 4) == original.read(0x1C, 4)


def test_recorded_faults(snapshot: Path) -> None:
    (fault,) = Snapshot.open(snapshot).faults()
    assert (fault.code, fault.source_id, fault.address, fault.kind) == (0x05, NIC, 0x5000, "write")
    assert request_of(fault) == DmaRequest(NIC, 0x5000, WRITE)


def test_writes_to_loaded_memory_do_not_change_the_files(snapshot: Path) -> None:
    files = [snapshot] if snapshot.is_file() else sorted(snapshot.iterdir())
    before = [file.read_bytes() for file in files]
    taken = Snapshot.open(snapshot)
    taken.memory.write(0x9000, b"marked")
    assert taken.memory.read(0x9000, 6) == b"marked"
    assert [file.read_bytes() for file in files] == before


def test_unit_with_translation_off(tmp_path: Path) -> None:
    world = World()
    save(world.unit, tmp_path / "off")
    assert only(tmp_path / "off").unit().translate(DmaRequest(NIC, 0x5000, WRITE)).host_address == 0x5000


def test_settings_are_restored(tmp_path: Path) -> None:
    world = mapped(protected_low=True, address_width=39, levels=(3, 4))
    world.write(PMEN.offset, 1 << 31)
    save(world.unit, tmp_path / "kept")
    unit = only(tmp_path / "kept").unit()
    assert unit.capabilities == world.capabilities
    assert unit.mmio_read(PMEN.offset, 4) == world.read(PMEN.offset)
    assert unit.translate(DmaRequest(NIC, 0x5000, READ)) == world.dma(0x5000, READ)


def test_the_whole_state_is_kept(tmp_path: Path) -> None:
    """A snapshot of the model also has what the registers do not show: the queue, faults, caches, latches."""
    for write in (folder, save):
        living, place = busy(audit=True), tmp_path / write.__name__
        living.world.write(RTADDR.offset, 0x7000, 8)  # not latched
        write(living.unit, place)
        unit = only(place).unit()
        assert unit.save() == living.unit.save()
        assert unit.mmio_read(FSTS.offset, 4) == living.world.read(FSTS.offset) != 0
        assert unit.mmio_read(IQT.offset, 8) == living.world.read(IQT.offset, 8) != 0
        living.world.put(living.entries[3], 0)
        unit.memory.write(living.entries[3], bytes(8))
        request = DmaRequest(NIC, PAGES[0], WRITE)
        assert unit.translate(request).host_address == living.unit.translate(request).host_address is not None
        assert only(place).unit_without_caches().translate(request).host_address is not None
        with pytest.raises(StateError, match="differs from the policy given"):
            only(place).unit(Policy(cache_pasids=False))


def test_a_unit_of_another_class_is_saved_without_its_state(tmp_path: Path) -> None:
    class Own(RemappingUnit):
        pass

    world = mapped()
    save(world.unit, tmp_path / "taken")
    assert only(tmp_path / "taken").state is not None
    save(Own(world.memory, world.capabilities), tmp_path / "taken")
    assert only(tmp_path / "taken").state is None


def test_memory_that_does_not_begin_at_0(tmp_path: Path) -> None:
    place = folder(mapped().unit, tmp_path / "high")
    (place / "unit.json").write_bytes(settings(memory_base="0x1000", host_address_width=48))
    (place / "memory.bin").write_bytes((place / "memory.bin").read_bytes()[0x1000:])
    assert only(place).unit().translate(DmaRequest(NIC, 0x5000, READ)).host_address == 0x9000


def test_memory_in_pieces() -> None:
    memory = PiecewiseMemory([(0x3000, bytearray(16)), (0x1000, bytearray(range(16)))])
    assert memory.read_u64(0x1008) == int.from_bytes(bytes(range(8, 16)), "little")
    memory.write(0x3008, b"12345678")
    assert memory.read(0x3000, 16) == bytes(8) + b"12345678"
    for address, length in [(0, 1), (0x1009, 8), (0x2000, 8), (0xFFF, 2)]:
        with pytest.raises(VtdError, match="no memory at"):
            memory.read(address, length)
    with pytest.raises(VtdError, match="overlap"):
        PiecewiseMemory([(0, bytearray(16)), (8, bytearray(8))])


# Broken snapshots.


def replace_file(place: Path, name: str, data: bytes | None) -> None:
    if data is None:
        (place / name).unlink()
    else:
        (place / name).write_bytes(data)


def settings(**changes: Any) -> bytes:
    plain = {"format": "vtdlab-snapshot-1", "host_address_width": 46}
    return json.dumps({key: value for key, value in (plain | changes).items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("unit.json", None, "no unit.json"),
        ("unit.json", b"", "no unit.json"),
        ("unit.json", b"{", "unit.json: not valid JSON"),
        ("unit.json", b"\xff", "unit.json: not valid JSON"),
        ("unit.json", b"[]", "format is not"),
        ("unit.json", settings(format="other"), "format is not"),
        ("unit.json", settings(host_address_width="wide"), "host_address_width"),
        ("unit.json", settings(host_address_width=True), "host_address_width"),
        ("unit.json", settings(memory_base=-1), "memory_base"),
        ("registers.bin", None, "no registers.bin"),
        ("registers.bin", b"short", "too few for a register window"),
        ("registers.bin", bytes(4096), "address_width"),
        ("memory.bin", None, "no memory.bin"),
        ("state.bin", b"short", "state of a unit|header has"),
        ("state.bin", RemappingUnit(FlatMemory(4096), Capabilities(fault_records=9)).save(), "capabilities given"),
        ("memory.elf", b"no elf", "not an ELF core"),
        ("memory.elf", elf([(0, bytes(64))])[:-1], "ends before it"),
        ("memory.elf", elf([(0, bytes(64))])[:70], "not an ELF core"),
        ("memory.elf", elf([(0, bytes(64)), (32, bytes(64))]), "overlap"),
    ],
)
def test_broken_snapshot(name: str, data: bytes | None, said: str, tmp_path: Path) -> None:
    place = folder(mapped().unit, tmp_path / "taken")
    replace_file(place, name, data)
    with pytest.raises(VtdError, match=said) as caught:
        only(place).unit()
    assert "\n" not in str(caught.value)


def test_paths_without_a_snapshot(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for place in (tmp_path / "text", tmp_path / "nowhere", tmp_path):
        with pytest.raises(VtdError):
            Snapshot.open(place)


def test_memory_that_cannot_be_saved(tmp_path: Path) -> None:
    unit = RemappingUnit(ProcessorCache(FlatMemory(4096)), Capabilities())
    with pytest.raises(MisuseError, match="a ProcessorCache does not say where it has memory: use a FlatMemory"):
        save(unit, tmp_path / "never")
    assert not list(tmp_path.iterdir())


def test_an_audited_unit_can_be_saved(tmp_path: Path) -> None:
    save(RemappingUnit(mapped().memory, audit=True), tmp_path / "audited")
    assert Snapshot.open(tmp_path / "audited").memory.read_u64(0x1000)


def test_memory_that_is_not_a_whole_number_of_pages(tmp_path: Path) -> None:
    memory = FlatMemory(bytearray(4096 + 8))
    memory.write(4096, b"the end.")
    save(RemappingUnit(memory), tmp_path / "odd")
    taken = Snapshot.open(tmp_path / "odd").memory
    assert taken.read(4090, 14) == bytes(6) + b"the end."
    with pytest.raises(VtdError, match="no memory at"):
        taken.read(4096, 9)


# Requests as text.


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("00:04.0 write 0x5000", DmaRequest(NIC, 0x5000, WRITE)),
        ("0000:00:04.0 READ 20480", DmaRequest(NIC, 0x5000, READ)),
        ("ff:1f.7 atomic 0x0 length 8", DmaRequest(SourceId(255, 31, 7), 0, Access.ATOMIC, 8)),
        (
            "00:04.0 read 0x5000 pasid 0x3 privileged execute",
            DmaRequest(NIC, 0x5000, READ, pasid=3, privileged=True, execute=True),
        ),
        (
            "00:04.0 read 0x5000 no-write translation-request",
            DmaRequest(NIC, 0x5000, READ, address_type=AddressType.TRANSLATION_REQUEST, no_write=True),
        ),
        ("00:04.0 read 0x5000 translated", DmaRequest(NIC, 0x5000, READ, address_type=AddressType.TRANSLATED)),
    ],
)
def test_request_as_text(text: str, request_: DmaRequest) -> None:
    assert parse_request(text) == request_
    assert parse_request(show_request(request_)) == request_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:04.0",
        "00:04.0 write",
        "00:04.0 scribble 0x5000",
        "00:04.0 write where",
        "00:20.0 write 0",
        "0:4.0 write 0",
        "00:04.8 write 0",
        "00:04.0 write 0x5000 gladly",
        "00:04.0 write 0x5000 pasid",
        "00:04.0 write 0x5000 pasid -1",
        "00:04.0 write 0x5fff length 2",
        "00:04.0 write 0x10000000000000000",
    ],
)
def test_text_that_is_not_a_request(text: str) -> None:
    with pytest.raises(MisuseError):
        parse_request(text)


def test_no_request_for_an_interrupt() -> None:
    assert request_of(from_record((1 << 63 | 0x26 << 32) << 64)) is None


# The commands.


def vtd(*arguments: str | Path) -> CompletedProcess[str]:
    done = command.vtd(*arguments)
    return CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_walk_prints_every_step(tmp_path: Path) -> None:
    world = world_with_faults()
    save(world.unit, tmp_path / "taken")
    done = vtd("walk", tmp_path / "taken", "--request", "00:04.0 read 0x5010", "--request", "00:04.0 write 0x5010")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("\n\n")
    for text in (first, second):
        for level in (4, 3, 2, 1):
            assert f"second-stage entry, level {level}" in text
    assert "-> host address 0x9010, page of 4 KiB, R\n" in first + "\n"
    assert "0x05 LGN.2: write without write permission (spec 9.8)" in second
    assert second.splitlines()[-1] == "  -> blocked, 0x05 LGN.2 write without write permission"


def test_walk_of_recorded_faults_and_as_json(tmp_path: Path) -> None:
    save(world_with_faults().unit, tmp_path / "taken")
    (found,) = json.loads(vtd("walk", tmp_path / "taken", "--json").stdout)
    assert (found["request"], found["fault"], found["condition"]) == ("00:04.0 write 0x5000", 0x05, "LGN.2")
    leaf = found["steps"][-1]
    assert (leaf["raw"], leaf["fields"]["ADDR"], leaf["fields"]["W"], leaf["fault"]) == ("0x9001", 0x9000, 0, 5)
    assert "ADDR" in vtd("walk", tmp_path / "taken", "--fields").stdout
    save(mapped().unit, tmp_path / "clean")
    assert vtd("walk", tmp_path / "clean").stdout == "no DMA fault is recorded; give a --request\n"


def test_explain_shows_what_failed_in_a_snapshot(tmp_path: Path) -> None:
    save(world_with_faults().unit, tmp_path / "taken")
    done = vtd("explain", "--snapshot", tmp_path / "taken")
    assert done.returncode == 0
    assert "0x0000000000009001  0x05 LGN.2: write without write permission" in done.stdout
    assert "which means: the tables still cause this fault" in done.stdout
    (found,) = json.loads(vtd("explain", "--snapshot", tmp_path / "taken", "--json").stdout)
    assert found["in_snapshot"]["steps"][-1]["fault"] == 0x05


@pytest.mark.parametrize(
    ("reason", "where", "said"),
    [
        ("0x06", "0x5000", "the tables allow this request"),
        ("0x06", "0x6000", "still cause this fault"),
        ("0x0c", "0x6000", "have changed"),
    ],
)
def test_explain_tells_stale_entries_from_current_ones(reason: str, where: str, said: str, tmp_path: Path) -> None:
    save(mapped(entry=0x9000 | RW).unit, tmp_path / "taken")
    line = f"DMAR: [DMA Read NO_PASID] Request device [00:04.0] fault addr {where} [fault reason {reason}] ..."
    assert said in vtd("explain", line, "--snapshot", tmp_path / "taken").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["walk"],
        ["walk", "nowhere"],
        ["walk", "nowhere", "--request", "x"],
        ["explain"],
        ["explain", "--snapshot", "no"],
    ],
)
def test_bad_input_is_status_2(arguments: list[str]) -> None:
    done = vtd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
