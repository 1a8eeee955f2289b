"""Everything that reads what a user names, by the function that programs call; commands.py has the commands."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from iommu import Access, DmaRequest, FlatMemory, RemappingUnit
from iommu.batch.trace_replay import replay_trace
from iommu.batch.trace_results import writer_to
from iommu.batch.trace_rows import rows_of as trace_rows_of
from iommu.dmar import Dmar
from iommu.dmar.inputs import read_pci, read_tables
from iommu.dmar.pci import PciTree
from iommu.dmar.survey import rows_of
from iommu.dmar.topology import place as placements
from iommu.explain import explain
from iommu.files.documents import read_json
from iommu.snapshot import Snapshot, save
from iommu.snapshot.core import Given
from iommu.snapshot.folder import FORMAT
from iommu.snapshot.inspect import inspect
from iommu.snapshot.kernel import kernel_text
from iommu.snapshot.request import parse_request
from qemu.vtd import answers
from qemu.vtd.answers import understood
from qemu.vtd.fuzz import checkpoint
from qemu.vtd.fuzz.case import Found, read_found
from qemu.vtd.fuzz.generate import MODES, make
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lanes import Result
from qemu.vtd.fuzz.stream import Stream
from qemu.vtd.live.layout import layout_of
from qemu.vtd.vm import plan, words
from qemu.vtd.vm.functions import functions, numbered
from tests.dmar import hand
from tests.dmar.test_dmar_format import DAMAGED, EVERYTHING
from tests.dmar.test_dmar_mutated import check
from tests.fuzz import mutations
from tests.fuzz.way import Way

ROOT = Path(__file__).resolve().parents[2]
_FIXTURES = ROOT / "fixtures"
MADE_UP = sorted((_FIXTURES / "dmar" / "made-up").iterdir())


@cache
def tables() -> list[bytes]:
    """Tables made by hand, whole and damaged."""
    return [EVERYTHING, *(case[0] for case in DAMAGED.values())]


def hexdump(data: bytes) -> bytes:
    """As acpidump prints it."""
    lines = [f"DMAR @ 0x{0x78FE0000:016X}"]
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        lines.append(f"    {at:04X}: {' '.join(f'{byte:02X}' for byte in part)}")
    return ("\n".join(lines) + "\n\n").encode()


def image(table: bytes) -> bytes:
    """64 KiB of memory with an RSDP, an XSDT and the table."""
    memory = bytearray(1 << 16)
    rsdp = bytearray(b"RSD PTR " + bytes(7) + b"\x02" + bytes(4) + struct.pack("<IQ", 36, 0x2000) + bytes(4))
    rsdp[8] = -sum(rsdp[:20]) & 0xFF
    memory[0x1000:0x1024] = rsdp
    memory[0x2000:0x202C] = b"XSDT" + struct.pack("<I", 44) + bytes(28) + struct.pack("<Q", 0x3000)
    memory[0x3000 : 0x3000 + len(table)] = table
    return bytes(memory)


def elf(memory: bytes, pieces: int = 4) -> bytes:
    """An ELF core of the memory, in several segments."""
    size = len(memory) // pieces
    offset = 64 + 56 * pieces
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, pieces, 0, 0, 0)
    )
    segments = b"".join(
        struct.pack("<IIQQQQQQ", 1, 7, offset + at, 0, at, size, size, 0) for at in range(0, size * pieces, size)
    )
    return header + segments + memory


def vmlinux(symbols: dict[str, int]) -> bytes:
    """An ELF file with nothing but these symbols."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    table = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", names.index(name.encode()), 0x12, 0, 1, value, 0) for name, value in symbols.items()
    )
    sections = b"\0.symtab\0.strtab\0"
    parts, offset, headers = [table, names, sections], 64, [bytes(64)]
    for (name, kind, link, size), part in zip(((1, 2, 2, 24), (9, 3, 0, 0), (9, 3, 0, 0)), parts, strict=True):
        headers.append(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, len(part), link, 1, 8, size))
        offset += len(part)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, offset, 0, 64, 56, 0, 64, 4, 3)
    return header + b"".join(parts) + b"".join(headers)


@cache
def kernels() -> list[bytes]:
    """A System.map, and a vmlinux."""
    ends = {"_stext": 0xFFFFFFFF81000000, "_etext": 0xFFFFFFFF81200000}
    return [(_FIXTURES / "snapshots" / "System.map").read_bytes(), vmlinux(ends)]


@cache
def traces() -> list[bytes]:
    """Traces as CSV, and as the log of a QEMU."""
    text = "source_id,address,write,pasid\n00:04.0,0x100010,1,\n0x28,1048576,read,0x5\n"
    log = (
        "1@2.3:vtd_dmar_translate dev 00:04.00 iova 0x100000 -> gpa 0x300000 mask 0xfff\n"
        "vtd_dmar_fault sid 0x28 fault 5 addr 0x100000 write 1\n"
    )
    return [text.encode(), log.encode()]


@cache
def trace_results() -> list[bytes]:
    """Results of an earlier run."""
    found = [b"source_id,address,write,pasid,host,reason\n00:04.0,0x1,write,,0x2,\n"]
    with TemporaryDirectory() as folder:
        (Path(folder) / "trace.csv").write_bytes(found[0])
        unit = RemappingUnit(FlatMemory(1 << 12))
        with writer_to(Path(folder) / "out.parquet", resume=False) as writer:
            replay_trace(Path(folder) / "trace.csv", writer, lambda _: unit)
        return [*found, (Path(folder) / "out.parquet").read_bytes()]


@cache
def parquets() -> list[bytes]:
    """Traces as Parquet."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    stream = io.BytesIO()
    columns = {"source_id": [32, 40], "address": [0x10_0000, 5], "write": [True, False], "pasid": [None, 3]}
    parquet.write_table(arrow.table(columns), stream)
    return [stream.getvalue()]


def _trace(data: bytes, place: Path) -> None:
    for _ in trace_rows_of(place):
        pass


def _results(data: bytes, place: Path) -> None:
    results = place.with_suffix(".parquet" if data.startswith(b"PAR1") else ".csv")
    results.write_bytes(data)
    with writer_to(results, resume=True):
        pass


def _kernel(data: bytes, place: Path) -> None:
    kernel_text(place)


def _find(data: bytes, place: Path) -> None:
    for source in read_tables(place):
        Dmar.parse(source.data, strict=False)
    rows_of([place])


def _from_dict(data: bytes, place: Path) -> None:
    value = read_json(place)
    table = Dmar.from_dict(value)
    Dmar.parse(table.build(), strict=False)
    table.seal()
    Dmar.parse(table.build(), strict=False)


@cache
def documents() -> list[bytes]:
    """Tables as JSON."""
    return [json.dumps(Dmar.parse(data, strict=False).to_dict()).encode() for data in tables()]


@cache
def pci_trees() -> list[bytes]:
    """PCI trees as JSON: our own form, then QEMU's answers to query-pci."""
    answers = [path.read_bytes() for path in sorted((_FIXTURES / "dmar").glob("*.pci.json"))]
    return [json.dumps(PciTree.from_plain(json.loads(each)).to_plain()).encode() for each in answers] + answers


def _topology(data: bytes, place: Path) -> None:
    placements(Dmar.parse(EVERYTHING), read_pci(place))


def _snapshot(given: Given | None = None) -> Callable[[bytes, Path], None]:
    def read(data: bytes, place: Path) -> None:
        snapshot = Snapshot.open(place) if given is None else Snapshot.open(place, given)
        inspect(snapshot)
        for unit in snapshot.units:
            unit.unit()
        if snapshot.table is not None:
            snapshot.system()

    return read


@cache
def units() -> list[RemappingUnit]:
    """Units with tables, faults and, once they have translated, things cached."""
    found = []
    for name in sorted((_FIXTURES / "snapshots").glob("*.zip")):
        snapshot = Snapshot.open(name)
        unit = snapshot.units[0].unit()
        for device in inspect(snapshot).units[0].devices:
            unit.translate(DmaRequest(device.source_id, 0x5000, Access.READ))
        found.append(unit)
    return found


@cache
def one_files() -> list[bytes]:
    """Snapshots of one file: without a state, and with one."""
    found = [path.read_bytes() for path in sorted((_FIXTURES / "snapshots").glob("*.zip"))]
    with TemporaryDirectory() as folder:
        place = Path(folder) / "seed.zip"
        memory = FlatMemory(1 << 18)
        save(RemappingUnit.restore(units()[0].save(), memory), place)
        found.append(place.read_bytes())
    return found


@cache
def folders() -> list[bytes]:
    """Snapshots that are a zip of a folder."""
    found = []
    for name in sorted((_FIXTURES / "snapshots").glob("*.zip")):
        unit = Snapshot.open(name).units[0]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("unit.json", json.dumps({"format": FORMAT, "host_address_width": 48}))
            archive.writestr("registers.bin", unit.registers)
            archive.writestr("memory.bin", bytes(unit.memory.read(0, 1 << 16)))
        found.append(packed.getvalue())
    return found


def cores() -> list[bytes]:
    """An ELF core of a machine with one unit."""
    return [elf(image(hand.table(hand.drhd(0xFED9_0000))))]


def states() -> list[bytes]:
    """Saved states of units."""
    return [unit.save() for unit in units()]


def _restore(data: bytes, place: Path) -> None:
    unit = RemappingUnit.restore(data, FlatMemory(1 << 18))
    assert RemappingUnit.restore(unit.save(), FlatMemory(1 << 18)).save() == unit.save()


LOG = b"\n".join(
    (
        b"[    0.361511] DMAR: DRHD: handling fault status reg 3",
        b"[    0.361530] DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x5000 [fault reason 0x05]",
        b"[   12.5] DMAR:[DMA Read] Request device [01:00.0] fault addr fffff000",
        b"DMAR:[fault reason 06] PTE Read access is not set",
        b"DMAR: [INTR-REMAP] Request device [f0:1f.7] fault index 0x25 [fault reason 0x22] Present field in the IRTE",
        b"DMAR: [DMA Read PASID 0x5] Request device [00:02.0] fault addr 0x7f0000 [fault reason 0x71] SM: Present",
        b"(XEN) [VT-D]DMAR:[DMA Write] Request device [0000:00:1f.2] fault addr 7ff000",
        b"(XEN) [VT-D]DMAR: reason 05 - PTE Write access is not set",
        b"12 callbacks suppressed",
    )
)
WORDS = [
    b"Q05",
    b"0x05",
    b"LGN.2",
    b"5",
    b"0000000000005000 8000000500000020",
    b"80000005000000200000000000005000",
    b"22h",
]
REQUESTS = [b"00:04.0 write 0x5000", b"00:04.0 read 0x5000 pasid 5 length 64 privileged", b"01:00.1 0 translated"]


def _explain(data: bytes, place: Path) -> None:
    explain(data.decode("utf-8", "replace"))


def _request(data: bytes, place: Path) -> None:
    parse_request(data.decode("utf-8", "replace"))


def _packed_seeds() -> Sequence[bytes]:
    return [tables()[0], hexdump(tables()[0]), gzip.compress(b"\n" * 100_000), gzip.compress(image(tables()[0]))]


@cache
def sysfs_folders() -> list[bytes]:
    """Zips of sysfs folders of a machine: a bridge, and a device below it."""
    bridge = struct.pack("<HH4xII", 0x8086, 0x3420, 0x0604_0000, 0x0001_0000) + bytes(8) + b"\0\1\1" + bytes(229)
    device = struct.pack("<HH4xII", 0x8086, 0x10D3, 0x0200_0000, 0) + bytes(240)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, config in (("0000:00:1c.0", bridge), ("0000:01:00.0", device)):
            archive.writestr(f"bus/pci/devices/{name}/config", config)
            archive.writestr(f"bus/pci/devices/{name}/class", b"0x020000\n")
    return [packed.getvalue()]


def _qemu_options(data: bytes, place: Path) -> None:
    text = data.decode("utf-8", "replace")
    parsed = words.parse(text.split("\n"))
    assert parsed.assigned is not None and parsed.has_split_irqchip in (True, False)
    plan.unit_properties(text)
    if not text.startswith("-"):
        plan.size(text)


_READERS: dict[str, Callable[[Any], object]] = {
    "query-version": answers.version,
    "device-list-properties": answers.names,
    "query-machines": answers.aliases,
    "query-status": answers.running,
    "query-migrate": answers.progress,
    "query-pci": lambda answer: numbered(answer) and functions(answer),
    "info mtree -f": lambda answer: layout_of(answers.text(answer)),
}
"""What reads the answers to QMP commands; the last is one of the human monitor."""

LAYOUT = """FlatView #1
 AS "memory", root: system
 Root memory region: system
  0000000000000000-000000001fffffff (prio 0, ram): pc.ram KVM
  00000000fed90000-00000000fed90fff (prio 0, i/o): intel_iommu
"""


@cache
def qmp_answers() -> list[bytes]:
    """Commands with answers to them, as QEMU gives them."""
    given: list[tuple[str, Any]] = [
        ("query-version", {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}),
        ("device-list-properties", [{"name": "aw-bits", "type": "uint8"}, {"name": "caching-mode", "type": "bool"}]),
        (
            "query-machines",
            [{"name": "pc-q35-10.0", "alias": "q35"}, {"name": "none", "cpu-max": 1}],
        ),
        ("query-status", {"running": True, "status": "running"}),
        ("query-migrate", {"status": "failed", "error-desc": "no room"}),
        ("info mtree -f", LAYOUT),
    ]
    given += [("query-pci", json.loads(each)) for each in pci_trees() if b"class_info" in each]
    return [json.dumps({"command": command, "return": answer}).encode() for command, answer in given]


def _answer(data: bytes, place: Path) -> None:
    told = read_json(place)
    if isinstance(told, dict) and str(told.get("command")) in _READERS and "return" in told:
        understood(told["command"], told["return"], _READERS[told["command"]])


OPTIONS = [
    b"-device\nintel-iommu,aw-bits=48,intremap=on\n-smp\n4,maxcpus=8\n-M\nq35,kernel-irqchip=split",
    b"512M",
    b"2G",
]
OPTIONS += [
    b"-device\n[1]",
    b"-device\n5",
    b"512M",
    b"2G",
    b'-device\n{"driver": "vfio-pci", "host": "0000:01:00.0", "addr": 3}\n-accel\nkvm',
]


def _sysfs(data: bytes, place: Path) -> None:
    """The input is a zip of the folder, so that one file holds it."""
    folder = place.with_suffix(".folder")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
    try:
        read_pci(folder)
    finally:
        shutil.rmtree(folder)


@cache
def cases() -> list[bytes]:
    """Cases of every mode, as vtd fuzz writes them."""
    found = []
    for mode, (setups, _) in MODES.items():
        case, _ = make(1, mode, 1, setups[0], {})
        steps = tuple((f"line {number}",) for number in range(len(case.actions) + 1))
        found.append(json.dumps(Found(case, "7.2.22", steps, steps[:-1], f"seed 1, {mode}, case 1").plain()).encode())
    return found


@cache
def checkpoints() -> list[bytes]:
    """A campaign of two streams, one of which has found something."""
    found = Found.parse(json.loads(cases()[0]), "case")
    result = Result(64, 1, freedoms=Counter({"a choice": 2}), reached={"0x05 at no table": ["address: edge"]})
    result.differences[3] = Likeness("dma", "no table", "blocked", ""), found
    streams = [Stream("/usr/bin/qemu", "7.2.22", mode, ("WIDE",), 1000, 64, 1) for mode in ("legacy", "queue")]
    streams[0].take(0, result)
    with TemporaryDirectory() as folder:
        checkpoint.write(Path(folder) / "c", streams)
        return [(Path(folder) / "c").read_bytes()]


def _loads(data: bytes, place: Path) -> Any:
    return read_json(place)


_TABLES = ("iommu.dmar.inputs", "iommu.cli.dmar")
_SNAPSHOTS = ("iommu.snapshot.onefile", "iommu.snapshot.snapshot", "iommu.snapshot.settings", "iommu.snapshot.memory")

WAYS: tuple[Way, ...] = (
    Way("tables", tables, mutations.table, lambda data, place: check(data), ("iommu.dmar.table",)),
    Way("texts", lambda: [hexdump(each) for each in tables()], mutations.text, _find, _TABLES),
    Way("images", lambda: [image(tables()[0]), elf(image(tables()[0]))], mutations.binary, _find),
    Way("archives", _packed_seeds, mutations.packed, _find),
    Way("table documents", documents, mutations.document, _from_dict, ("iommu.dmar.plain",)),
    Way("json", lambda: [*documents(), *pci_trees()], mutations.text, _loads),
    Way("pci trees", pci_trees, mutations.document, _topology, ("iommu.dmar.pci",)),
    Way("sysfs folders", sysfs_folders, mutations.folder, _sysfs),
    Way("snapshots", one_files, mutations.archive, _snapshot(), _SNAPSHOTS),
    Way("snapshot folders", folders, mutations.archive, _snapshot(), ("iommu.snapshot.folder",)),
    Way("cores", cores, mutations.binary, _snapshot(Given(root_table="0x1000")), ("iommu.snapshot.core",)),
    Way("states", states, mutations.state, _restore),
    Way("logs", lambda: [LOG], mutations.text, _explain),
    Way("words", lambda: WORDS, mutations.text, _explain),
    Way("qmp answers", qmp_answers, mutations.document, _answer),
    Way("traces", traces, mutations.text, _trace, ("iommu.batch.trace_rows", "iommu.batch.trace_replay")),
    Way("trace results", trace_results, mutations.binary, _results, ("iommu.batch.trace_results",)),
    Way("parquets", parquets, mutations.binary, _trace),
    Way("kernels", kernels, mutations.binary, _kernel, ("iommu.snapshot.kernel",)),
    Way("requests", lambda: REQUESTS, mutations.text, _request),
    Way(
        "cases",
        cases,
        mutations.document,
        lambda data, place: read_found(place),
        ("qemu.vtd.fuzz.case", "qemu.vtd.fuzz.actions"),
    ),
    Way(
        "checkpoints",
        checkpoints,
        mutations.document,
        lambda data, place: checkpoint.read(place),
        ("qemu.vtd.fuzz.checkpoint",),
    ),
    Way("qemu options", lambda: OPTIONS, mutations.text, _qemu_options, ("qemu.vtd.vm.words", "qemu.vtd.vm.plan")),
)
