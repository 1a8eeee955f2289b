"""Traces: what is read of each form, results that a later run continues, and `vtd replay-trace`."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iommu.batch.trace_replay import replay_trace
from iommu.batch.trace_results import Results, writer_to
from iommu.batch.trace_rows import Rows, rows_of
from iommu.batch.trace_touched import Touched
from iommu.batch.translator import BatchTranslator
from iommu.engine.request import SourceId
from iommu.errors import InputError, MisuseError, TraceError
from iommu.snapshot import Snapshot
from tests.command import vtd
from tests.tags import Tags

FIXTURES = Path(__file__).parents[2] / "fixtures"
CARELESS, TRACES = FIXTURES / "snapshots" / "careless.vtd", FIXTURES / "traces"
NONE = 0xFFFF_FFFF

TRACE = """source_id,address,write
00:04.0,0x100010,1
00:05.0,0x100000,write
0x28,0x100000,read
00:06.0,0x7000,W
00:09.0,0,r
"""
"""By fixtures/snapshots/make.py, 00:04.0 has 0x100000 at 0x300000, 00:05.0 may read it at 0x307000."""
RESULTS = """source_id,address,write,pasid,host,reason
00:04.0,0x100010,write,,0x300010,
00:05.0,0x100000,write,,,LGN.2
00:05.0,0x100000,read,,0x307000,
00:06.0,0x7000,write,,0xfed90000,
00:09.0,0x0,read,,,LCT.2
"""
LOG = """char device redirected to /dev/pts/1 (label serial0)
1234@1700000000.123456:vtd_iotlb_page_hit IOTLB page hit sid 0x20 iova 0x100000 slpte 0x300003 domain 0x1
1234@1700000000.123457:vtd_dmar_translate dev 00:04.00 iova 0x100000 -> gpa 0x300000 mask 0xfff
vtd_dmar_fault sid 0x28 fault 5 addr 0x100000 write 1
vtd_inv_desc_wait_sw wait status write addr 0x1 data 0x1
"""


def put(folder: Path, text: str, name: str = "trace.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def read(path: Path, **more: int) -> list[tuple[int, int, bool, int]]:
    rows: list[tuple[int, int, bool, int]] = []
    for each in rows_of(path, **more):
        assert each.first == len(rows) + more.get("skip", 0)
        columns = (each.source_ids, each.addresses, each.writes, each.pasids)
        rows += list(zip(*(column.tolist() for column in columns), strict=True))
    return rows


# Reading.


def test_csv(tmp_path: Path) -> None:
    assert read(put(tmp_path, TRACE)) == [
        (0x20, 0x10_0010, True, NONE),
        (0x28, 0x10_0000, True, NONE),
        (0x28, 0x10_0000, False, NONE),
        (0x30, 0x7000, True, NONE),
        (0x48, 0, False, NONE),
    ]


def test_columns_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    text = "time,PASID,write,address,source_id\n1,0x5,0,18446744073709551615,0000:ff:1f.7\n\n2,,true,0,0\n"
    assert read(put(tmp_path, text)) == [(0xFFFF, (1 << 64) - 1, False, 5), (0, 0, True, NONE)]


def test_the_log_of_a_qemu(tmp_path: Path) -> None:
    assert read(put(tmp_path, LOG, "log")) == [(0x20, 0x10_0000, False, NONE), (0x28, 0x10_0000, True, NONE)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("skip", [0, 1, 4, 5, 9])
def test_chunks_and_where_they_begin(chunk: int, skip: int, tmp_path: Path) -> None:
    path = put(tmp_path, TRACE)
    assert read(path, skip=skip, chunk=chunk) == read(path)[skip:]


def test_long_files_are_read_in_blocks(tmp_path: Path) -> None:
    lines = [f"0x20,{number:#x},0" for number in range(400_000)]
    found = read(put(tmp_path, "\n".join(["source_id,address,write", *lines])))
    assert [row[1] for row in found] == list(range(400_000))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("00:04.0,zz,1", "address 'zz' is not a number"),
        ("00:04.0,0x10000000000000000,1", "is not a number of 64 bits"),
        ("00:04.0,-1,1", "is not a number of 64 bits"),
        ("00:20.0,0,1", "source_id '00:20.0' is not a number"),
        ("0x10000,0,1", "is not a number of 16 bits"),
        ("00:04.0,0,maybe", "write 'maybe' is none of"),
        ("00:04.0,0", "2 fields, and the header has 3"),
        ("00:04.0,0,\x1b[2J", "write"),
    ],
)
def test_a_row_that_makes_no_sense(line: str, what: str, tmp_path: Path) -> None:
    found: list[Rows] = []
    with pytest.raises(TraceError, match=r"trace.csv: row 2: ") as caught:
        found.extend(rows_of(put(tmp_path, f"source_id,address,write\n1,1,1\n2,2,0\n{line}\n3,3,1\n")))
    assert what in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.row == 2
    assert [each.addresses.tolist() for each in found] == [[1, 2]]


@pytest.mark.parametrize("text", ["hello\nworld\n", "source_id,write\n", "a,b\n1,2\n"])
def test_what_is_not_a_trace(text: str, tmp_path: Path) -> None:
    with pytest.raises(MisuseError):
        list(rows_of(put(tmp_path, text)))


def test_an_event_that_is_cut(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"row 1: .* is not an event as QEMU prints it"):
        list(rows_of(put(tmp_path, LOG.replace("write 1", "wri"), "log")))


def test_a_line_without_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a line of more than"):
        list(rows_of(put(tmp_path, "source_id,address,write\n" + "1" * (5 << 20))))


# Parquet.

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def table(path: Path, **columns: object) -> Path:
    parquet.write_table(arrow.table(columns), path, row_group_size=2)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = table(
        tmp_path / "trace.parquet",
        source_id=np.array([0x20, 0x28, 0x30], np.uint16),
        address=np.array([0, (1 << 64) - 1, 5], np.uint64),
        write=[True, False, True],
        pasid=arrow.array([None, 5, None], arrow.uint32()),
        more=["a", "b", "c"],
    )
    assert read(path) == [(0x20, 0, True, NONE), (0x28, (1 << 64) - 1, False, 5), (0x30, 5, True, NONE)]


def test_parquet_in_words(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", source_id=["00:04.0", "32"], address=[1, 2], write=["read", "w"])
    assert read(path) == [(0x20, 1, False, NONE), (0x20, 2, True, NONE)]


def test_a_row_of_parquet_that_makes_no_sense(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", source_id=[1, 1, 1], address=[1, 2, -3], write=[True, True, True])
    found: list[Rows] = []
    with pytest.raises(TraceError, match="row 2: address"):
        found.extend(rows_of(path))
    assert sum(map(len, found)) == 2


def test_damaged_parquet(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", source_id=[1], address=[1], write=[True])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"t.parquet: "):
        list(rows_of(path))


# Results.


def results(first: int, count: int) -> Results:
    numbers = np.arange(first, first + count)
    none = np.full(count, NONE, np.uint32)
    rows = Rows(first, numbers.astype(np.uint16), numbers.astype(np.uint64), numbers % 2 == 0, none, 1.0)
    return Results(rows, numbers.astype(np.uint64), np.zeros(count, np.uint8))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_results_are_continued(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with writer_to(path, resume=True) as writer:
        writer.write(results(0, 3))
    with writer_to(path, resume=True) as writer:
        assert writer.written == 3
        writer.write(results(3, 2))
    with writer_to(path, resume=True) as writer:
        assert writer.written == 5
    assert read(path) == [(n, n, n % 2 == 0, NONE) for n in range(5)]
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_was_written_before_an_error_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt), writer_to(path, resume=False) as writer:
        writer.write(results(0, 3))
        raise KeyboardInterrupt
    assert len(read(path)) == 3


def test_a_row_that_was_cut_is_written_again(tmp_path: Path) -> None:
    path = put(tmp_path, RESULTS[:-10], "out.csv")
    with writer_to(path, resume=True) as writer:
        assert writer.written == 4
    assert path.read_text() == RESULTS[: RESULTS.index("00:09.0")]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_other_files_are_not_continued(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "out.csv":
        path.write_text("my letters\n")
    else:
        table(path, letters=["a"])
    before = path.read_bytes()
    with pytest.raises(MisuseError, match="has no results of a trace"), writer_to(path, resume=True):
        pass
    assert path.read_bytes() == before


# The command.


def test_a_trace_through_the_tables(tmp_path: Path) -> None:
    done = vtd(
        "replay-trace", put(tmp_path, TRACE), "--snapshot", CARELESS, "--output", tmp_path / "out.csv", "--json"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out.csv").read_text() == RESULTS
    assert json.loads(done.stdout) == {
        "rows": 5,
        "before": 0,
        "translated": 3,
        "dropped": 0,
        "faults": {"LCT.2": 1, "LGN.2": 1},
    }


def test_the_log_of_a_guest_agrees_with_its_qemu() -> None:
    """Where the tables still map an address, it leads where QEMU says; where QEMU has faulted, so do they."""
    unit = Snapshot.open(TRACES / "linux.vtd").units[0].unit()
    said = re.findall(
        rb"-> gpa (0x\w+) mask|fault (\d+) addr", gzip.decompress((TRACES / "linux.log.gz").read_bytes())
    )
    (rows,) = rows_of(TRACES / "linux.log.gz")
    hosts, reasons = BatchTranslator(unit).translate(rows.source_ids, rows.addresses, rows.writes, rows.pasids)
    assert len(said) == len(hosts) == 114
    reached = 0
    for (gpa, fault), host, reason, address in zip(
        said, hosts.tolist(), reasons.tolist(), rows.addresses.tolist(), strict=True
    ):
        if fault:
            assert reason == int(fault)
        elif not reason:
            reached += 1
            assert host == int(gpa, 16) | address & 0xFFF
    assert reached == 77


def test_who_touched_what(tmp_path: Path) -> None:
    done = vtd("replay-trace", put(tmp_path, TRACE), "--snapshot", CARELESS, "--html", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, b"")
    page = (tmp_path / "page.html").read_bytes()
    tags = Tags(page)
    assert tags.open == []
    assert all("src" not in attributes and "style" not in attributes for _, attributes in tags.found)
    assert b"00:04.0: 4 KiB written; 1 request" in page
    assert b"00:09.0: no memory reached" in page


def test_what_is_touched_is_bounded() -> None:
    found = Touched()
    for start in range(0, 40_000, 10_000):
        given = results(0, 10_000)
        hosts = np.arange(start, start + 10_000, dtype=np.uint64) << np.uint64(14)
        rows = replace(given.rows, source_ids=np.full(10_000, 0x20, np.uint16), writes=np.ones(10_000, np.bool_))
        found.add(Results(rows, hosts, given.reasons))
    (hosts_of,) = found.writes.values()
    assert len(hosts_of.firsts) <= 1 << 14
    assert (hosts_of.ranges()[0].start, hosts_of.ranges()[-1].stop >= 40_000 << 14) == (0, True)
    assert found.requests[SourceId.of(0x20)] == 40_000


def test_a_wrong_row_is_corrected_and_the_run_resumed(tmp_path: Path) -> None:
    bad = put(tmp_path, TRACE.replace("0x7000", "here"))
    asked = "replay-trace", bad, "--snapshot", CARELESS, "--output", tmp_path / "out.csv"
    done = vtd(*asked)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert b"row 3: address 'here' is not a number; 3 rows are in" in done.stderr
    assert (tmp_path / "out.csv").read_text() == RESULTS[: RESULTS.index("00:06.0")]
    put(tmp_path, TRACE)
    assert b"2 rows, behind 3 of an earlier run" in vtd(*asked, "--resume").stdout
    assert (tmp_path / "out.csv").read_text() == RESULTS


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--resume"], b"--resume continues the file of --output"),
        (["--output", "/not/there/out.csv"], b"no such directory"),
        (["--dask", "nowhere://"], b"--dask nowhere://"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], what: bytes, tmp_path: Path) -> None:
    done = vtd("replay-trace", put(tmp_path, TRACE), "--snapshot", CARELESS, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert what in done.stderr


def test_the_trace_is_not_written_over(tmp_path: Path) -> None:
    path = put(tmp_path, TRACE)
    assert vtd("replay-trace", path, "--snapshot", CARELESS, "--output", path).returncode == 2
    assert path.read_text() == TRACE


def test_no_more_than_a_few_chunks_are_held(tmp_path: Path) -> None:
    """The rows that were read and not yet written are never many, however long the trace is."""
    path = put(tmp_path, "source_id,address,write\n" + "0x20,0x100000,0\n" * 300_000)
    unit = Snapshot.open(CARELESS).units[0].unit()
    ahead: list[float] = []

    class Counting:
        written = 0

        def write(self, results: Results) -> None:
            assert len(results.rows) <= 1 << 16
            self.written += len(results.rows)

    totals = replay_trace(path, Counting(), lambda _: unit, progress=ahead.append)
    assert (totals.rows, totals.translated) == (300_000, 300_000)
    assert ahead[-1] == 1.0
    assert len(ahead) == 5
