"""The page of `vtd inspect --html`: whole, self-contained, escaped; opened in a headless Chromium at two widths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iommu import Capabilities, FlatMemory, RemappingUnit
from iommu.cli.inspection.page import as_html
from iommu.registers import GCMD, RTADDR
from iommu.snapshot import Snapshot, UnitSnapshot
from iommu.snapshot.inspect import inspect
from iommu.snapshot.inspect.picture import picture
from iommu.snapshot.saving import registers_of
from iommu.structures import ContextEntry, PageAllocator, RootEntry, SecondStageMapper
from tests.command import vtd
from tests.tags import Tags
from tools.browser import Browser, find_browser

RUNNING = Path(__file__).parent.parent.parent / "fixtures" / "snapshots" / "running.zip"


def page_of(snapshot: Snapshot) -> bytes:
    return as_html(inspect(snapshot), [picture(unit) for unit in snapshot.units])


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    tags = Tags.alone(page_of(Snapshot.open(RUNNING)))
    assert all("style" not in attributes for _, attributes in tags.found)


def test_the_name_of_a_snapshot_is_escaped() -> None:
    hostile = Snapshot(*Snapshot.open(RUNNING)._replace(name="</script><script>alert(1)</script>\udcff"))
    page = page_of(hostile)
    assert b"<script>alert" not in page
    assert Tags(page).open == []


def test_the_command(tmp_path: Path) -> None:
    done = vtd("inspect", RUNNING, "--html", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "page.html").read_bytes() == page_of(Snapshot.open(RUNNING))


def test_a_folder_that_is_not_there_is_one_line() -> None:
    done = vtd("inspect", RUNNING, "--html", "/not/there/page.html")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"/not/there" in done.stderr


# The data of the picture.


def made(*, size: int = 1 << 20) -> tuple[UnitSnapshot, SecondStageMapper]:
    """00:04.0 has 16 pages of 4 KiB in a row at 0x10000, one read-only page behind them, and one of 2 MiB."""
    memory = FlatMemory(size)
    pages = SecondStageMapper(memory, PageAllocator(0x3000, size))
    pages.map(0x1_0000, 0x2_0000, 0x1_0000)
    pages.map(0x2_0000, 0x3_0000, 0x1000, write=False)
    pages.map(0x20_0000, 0x40_0000, 0x20_0000)
    memory.write(0x1000, RootEntry.make(P=1, CTP=0x2000).to_bytes(16, "little"))
    entry = ContextEntry.make(P=1, AW=2, DID=1, SSPTPTR=pages.root)
    memory.write(0x2000 + 16 * 0x20, entry.to_bytes(16, "little"))
    unit = RemappingUnit(memory, Capabilities())
    unit.mmio_write(RTADDR.offset, 0x1000, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    return UnitSnapshot("made here", registers_of(unit), memory, 48, 0xFED9_0000), pages


def test_pages_in_a_row_are_one_row() -> None:
    snapshot, pages = made()
    drawn = picture(snapshot)
    tables = {(table["kind"], table["level"]): table for table in drawn["tables"]}
    first = pages.lookup(0x1_0000)
    last = pages.lookup(0x2_0000)
    large = pages.lookup(0x20_0000)
    assert first and last and large
    assert [row[:4] for row in tables["paging", 1]["rows"]] == [
        [16, 16, hex(first.where), hex(0x2_0003)],
        [32, 1, hex(last.where), hex(0x3_0001)],
    ]
    assert [row[:2] for row in tables["paging", 2]["rows"]] == [[0, 1], [1, 1]]
    assert [tables[each]["rows"][0][:3] for each in (("root", 0), ("context", 0))] == [
        [0, 1, "0x1000"],
        [0x20, 1, "0x2200"],
    ]
    assert drawn["roots"] == [0]
    assert not drawn["cut_short"]


def test_tables_beyond_the_limit_are_left_out() -> None:
    snapshot, _ = made()
    drawn = picture(snapshot, most_rows=3)
    assert drawn["cut_short"]
    assert [(table["kind"], table["level"]) for table in drawn["tables"]] == [
        ("root", 0),
        ("context", 0),
        ("paging", 4),
    ]
    assert drawn["tables"][2]["rows"][0][5] == [None]


def test_a_table_that_points_to_itself_is_drawn_once_a_level() -> None:
    snapshot, pages = made()
    for number in range(512):
        snapshot.memory.write(pages.root + 8 * number, (pages.root | 3).to_bytes(8, "little"))
    drawn = picture(snapshot)
    assert [table["level"] for table in drawn["tables"] if table["kind"] == "paging"] == [4, 3, 2, 1]


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("NO CHROMIUM: the page was not opened in a browser; apt-get install chromium")
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("page") / "page.html"
    page.write_bytes(page_of(Snapshot.open(RUNNING)))
    return page.as_uri()


TITLES = "[...document.querySelectorAll('#path h3')].map((each) => each.textContent)"
CHOSEN = "[...document.querySelectorAll('#path [aria-current] b')].map((each) => each.textContent)"


def press(browser: Browser, text: str) -> None:
    """Press the last button on the page with this text, or whose first line it is."""
    browser.evaluate(
        "[...document.querySelectorAll('button')].filter((each) => "
        f"(each.querySelector('b') ?? each).textContent === {json.dumps(text)}).at(-1).click()"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_opens_without_errors_and_fits(browser: Browser, url: str, width: int, dark: bool) -> None:
    browser.open(f"{url}#0/0.0/0.0/0.0/0.0/0.0/0.0/0.0/0.0", width=width, height=900, dark=dark)
    assert browser.errors == []
    assert len(browser.evaluate(TITLES)) == 8
    browser.evaluate("[...document.querySelectorAll('details')].forEach((each) => { each.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_the_tables_open_level_by_level(browser: Browser, url: str) -> None:
    browser.open(url, width=1280, height=900)
    steps = (
        ("bus 00, devices 00 to 0f", "Context table"),
        ("00:04.0", "PASID directory"),
        ("PASIDs 0 to 3f", "PASID table"),
        ("PASID 5", "First-stage, level 4"),
        ("0x7f0000000000", "First-stage, level 3"),
        ("0x7f0000000000", "First-stage, level 2"),
        ("0x7f0000000000", "First-stage, level 1"),
    )
    for number, (entry, title) in enumerate(steps, 1):
        press(browser, entry)
        assert [each.lower() for each in browser.evaluate(TITLES)][number:] == [title.lower()]
    press(browser, "0x7f0000000000")
    shown = browser.evaluate("[...document.querySelectorAll('.entry')].at(-1).textContent")
    assert "FirstStage4KPage" in shown
    assert "0x28000" in shown
    address = browser.evaluate("location.hash")
    browser.open(url + address, width=1280, height=900)
    assert browser.evaluate(CHOSEN) == [*(entry for entry, _ in steps), "0x7f0000000000"]
    assert browser.errors == []


def test_a_device_and_a_refused_entry_are_opened_at_once(browser: Browser, url: str) -> None:
    browser.open(url, width=1280, height=900)
    browser.evaluate("document.querySelector('.jump.wrong').click()")
    assert browser.evaluate(CHOSEN) == ["bus 00, devices 00 to 0f", "00:06.0", "PASIDs 0 to 3f", "PASID 0"]
    wrong = browser.evaluate("[...document.querySelectorAll('.entry')].at(-1).querySelectorAll('i.wrong').length")
    assert wrong == 1
    assert "Hardware refuses it: reserved bits 0x400 (spec 9.6)" in browser.evaluate("document.body.textContent")
    press(browser, "00:05.0")
    assert browser.evaluate(CHOSEN)[1] == "00:05.0"
    assert browser.errors == []


def test_the_interrupt_table(browser: Browser, url: str) -> None:
    browser.open(url, width=1280, height=900)
    press(browser, "Interrupt table")
    press(browser, "index 0x5")
    fields: Any = browser.evaluate("document.querySelector('.entry').textContent")
    assert re.search(r"PostedInterruptEntry at 0x\w+, spec 9\.10", fields)
