"""`vtd reach`: what it prints, how it ends, its page, and what it says to bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from iommu.cli.reaching.found import Wanted, parse_range, reach_of
from iommu.cli.reaching.page import as_html
from iommu.errors import MisuseError
from iommu.snapshot import Snapshot
from iommu.snapshot.kernel import kernel_text
from tests.command import vtd
from tests.fuzz.readers import vmlinux
from tests.tags import Tags
from tools.browser import Browser, find_browser

FIXTURES = Path(__file__).parents[2] / "fixtures" / "snapshots"
CARELESS, RUNNING, MAP = FIXTURES / "careless.vtd", FIXTURES / "running.zip", FIXTURES / "System.map"


def said(*arguments: str | Path) -> tuple[int, str]:
    done = vtd("reach", *arguments)
    assert done.stderr == b"", done.stderr
    return done.returncode, done.stdout.decode()


def test_for_programs() -> None:
    status, text = said(CARELESS, "--json", "--symbols", MAP, "--stale")
    (unit,) = json.loads(text)["units"]
    assert status == 0
    assert [space["requesters"][0]["source_id"] for space in unit["spaces"]] == ["00:04.0", "00:05.0", "00:06.0"]
    assert unit["spaces"][0]["ranges"] == [{"address": 0x10_0000, "size": 0x8000, "host": 0x30_0000, "rights": "rw"}]
    assert [each["kind"] for each in unit["findings"]] == ["tables", "registers", "kernel", "domains"]
    assert [page["address"] for page in unit["stale"]["pages"]] == [0x20_0000]


def test_one_device_alone() -> None:
    _, text = said(CARELESS, "--json", "--device", "00:06.0")
    (unit,) = json.loads(text)["units"]
    assert [space["requesters"][0]["source_id"] for space in unit["spaces"]] == ["00:06.0"]
    assert [each["kind"] for each in unit["findings"]] == ["tables", "registers"]


def test_who_reaches_an_address_that_nobody_reaches() -> None:
    _, text = said(CARELESS, "--host", "0x500000")
    assert "nobody reaches it" in text


def test_the_status_says_whether_it_is_proven() -> None:
    proven, text = said(CARELESS, "--device", "00:04.0", "--never", "0x1000000+0x1000", "--json")
    assert (proven, json.loads(text)["holds"], json.loads(text)["counterexample"]) == (0, True, None)
    broken, text = said(CARELESS, "--device", "00:05.0", "--never", "0x1000000+0x1000", "--json")
    found = json.loads(text)
    assert (broken, found["holds"], found["counterexample"]) == (1, False, "00:05.0 write 0x1000000")
    assert found["walk"]["host_address"] == 0x100_0000


def test_the_counterexample_is_a_command_that_shows_it() -> None:
    _, text = said(CARELESS, "--device", "00:05.0", "--never", "0x1000000")
    words = text.splitlines()[-1].split(" --request ")
    again = vtd(*words[0].split()[1:], "--request", words[1].strip('"'))
    assert b"host address 0x1000000" in again.stdout


def test_pass_through_is_said_once() -> None:
    _, text = said(RUNNING)
    assert text.count("reaches everything") == 1
    assert "00:07.0 reaches everything" in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--device", "nic"], "--device 'nic' is not a device"),
        (["--host", "0x2000-0x1000"], "--host '0x2000-0x1000' is not a range"),
        (["--host", "x"], "--host 'x' is not a number"),
        (["--host", "0-0x10000000000000000"], "is not a range of 64-bit addresses"),
        (["--never", "0x1000"], "--never takes one device"),
        (["--kernel-at", "0x1000"], "--kernel-at says where the kernel of --symbols is"),
        (["--symbols", "/not/there"], "/not/there: No such file"),
        (["--symbols", str(RUNNING)], "running.zip"),
        (["--html", "/not/there/page.html"], "no such directory"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], what: str) -> None:
    done = vtd("reach", CARELESS, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert what in done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x1000-0x1fff", range(0x1000, 0x2000)),
        ("0x1000+0x1000", range(0x1000, 0x2000)),
        ("4096", range(4096, 4097)),
        ("0-0xffffffffffffffff", range(1 << 64)),
    ],
)
def test_ranges(text: str, expected: range) -> None:
    assert parse_range(text, "--host") == expected


# The kernel's text.


def test_the_text_by_a_map() -> None:
    """x86-64 maps physical address 0 at 0xffffffff80000000."""
    assert kernel_text(MAP) == range(0x100_0000, 0x120_0000)


def test_the_text_where_kaslr_has_moved_it() -> None:
    assert kernel_text(MAP, 0x1_2340_0000) == range(0x1_2340_0000, 0x1_2360_0000)


@pytest.mark.parametrize("packed", [False, True])
def test_the_text_by_a_vmlinux(packed: bool, tmp_path: Path) -> None:
    data = vmlinux({"startup_64": 0, "_stext": 0xFFFF_FFFF_8100_0000, "_etext": 0xFFFF_FFFF_81AB_C000})
    (tmp_path / "vmlinux").write_bytes(gzip.compress(data) if packed else data)
    assert kernel_text(tmp_path / "vmlinux") == range(0x100_0000, 0x1AB_C000)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"c0ffee T main\n", "has no _stext"),
        (b"ffffffff81000000 T _stext\n", "has no _etext"),
        (b"0000000081000000 T _stext\n0000000081000000 T _etext\n", "is not an address of an x86-64 kernel"),
        (b"ffffffff81000000 T _stext\nffffffff81000000 T _etext\n", "not the ends of a kernel's text"),
        (vmlinux({"main": 5}), "has no _stext"),
        (vmlinux({"main": 5})[:100], "cannot be read|is not an ELF file"),
    ],
)
def test_what_is_neither(data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MisuseError, match=what):
        kernel_text(tmp_path / "file")


# The page.


def page_of(snapshot: Snapshot) -> bytes:
    wanted = Wanted(kernel=kernel_text(MAP))
    return as_html(reach_of(snapshot, wanted, lambda done, of: None), wanted)


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    tags = Tags.alone(page_of(Snapshot.open(CARELESS)))
    assert all("style" not in attributes for _, attributes in tags.found)


def test_the_name_of_a_snapshot_is_escaped() -> None:
    page = page_of(Snapshot(*Snapshot.open(CARELESS)._replace(name="</h1><script>alert(1)</script>\udcff")))
    assert b"<script>alert" not in page
    assert Tags(page).open == []


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    assert said(CARELESS, "--symbols", MAP, "--html", tmp_path / "page.html") == (0, "")
    assert (tmp_path / "page.html").read_bytes() == page_of(Snapshot.open(CARELESS))


@pytest.mark.skipif(
    find_browser() is None, reason="NO CHROMIUM: the page was not opened in a browser; apt-get install chromium"
)
def test_the_chart_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(page_of(Snapshot.open(CARELESS)))
    with Browser() as browser:
        browser.open((tmp_path / "page.html").as_uri(), width=1280, height=900)
        assert browser.errors == []
        # What matters is drawn in its colour, and no bar leaves the chart.
        assert browser.evaluate("document.querySelectorAll('svg rect.bad').length") >= 4
        inside = (
            "[...document.querySelectorAll('svg rect')].every(each => each.getBoundingClientRect().right"
            " <= document.querySelector('svg').getBoundingClientRect().right + 1)"
        )
        assert browser.evaluate(inside) is True
