"""The HTML page: whole, self-contained, escaped; opened in a headless Chromium at two widths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.vtd.conformance.report.html.page import as_html
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.conformance.stimulus.events import record
from qemu.vtd.conformance.stimulus.words import steps_of
from qemu.vtd.quirks import QUIRKS
from tests.command import vtd
from tests.qemu_vtd.conformance.fixed_reports import IDS, report
from tests.tags import Tags
from tools.browser import Browser, find_browser

LONG = "scalable.reserved.pasid-entry.eighth"
PLAIN, QUIRKY = IDS[:2]
Q08 = next(quirk for quirk in QUIRKS if quirk.id == "Q08")
CATALOGUE = [each.id for each in catalogue()]
WITH_Q08 = [each for each in CATALOGUE if each in Q08.scenarios]
PART = [each for each in CATALOGUE if each in {*CATALOGUE[::10], *WITH_Q08, *IDS}]


def two() -> list[Report]:
    """A QEMU as its quirks predict it, and one that misses a fault record."""
    return [report(), report(differs=PLAIN)]


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    for tag, attributes in Tags.alone(as_html(two())).found:
        assert (attributes.get("href") or "#").startswith("#"), tag


def test_everything_is_escaped() -> None:
    hostile = report()
    hostile.path = "/opt/<script>alert('1')</script>&\"\udcff"
    page = as_html([hostile])
    assert b"<script>alert" not in page
    assert b"&lt;script&gt;alert" in page
    assert Tags(page).open == []


def test_the_same_report_makes_the_same_page() -> None:
    assert as_html(two()) == as_html(two())


def test_ids_are_unique() -> None:
    ids = [attributes["id"] for _, attributes in Tags(as_html(two())).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(IDS) <= set(ids)


def test_three_outcomes_of_a_difference() -> None:
    page = as_html([report(PLAIN, differs=PLAIN)]).decode()
    assert f'<a href="#{PLAIN}">' in page
    outcomes = re.findall(r"<h5>(.*?)</h5><pre>(.*?)</pre>", page, re.DOTALL)
    assert [who for who, _ in outcomes] == ["Expected, model", "QEMU 7.2.22"]
    assert "<del>fault 0x02" in outcomes[1][1]


def test_a_scenario_that_repeats_itself_is_cut_short_with_a_count() -> None:
    """Each of 64 bits is tried: the page shows the first and the last steps, and the first walks."""
    (scenario,) = (each for each in catalogue() if each.id == LONG)
    steps = steps_of(record(scenario))
    walks = sum(step.event is not None for step in steps)
    assert len(steps) > 100
    assert walks > 16
    page = as_html([report(LONG)]).decode()
    assert page.count("<figure>") == 8
    assert f"... and {walks - 8} more." in page
    listed = page.partition('<ol class="steps">')[2].partition("</ol>")[0]
    assert listed.count("<li") == 60 + 1
    assert f"... {len(steps) - 60} more steps ..." in listed
    assert f'value="{len(steps) - 9}"' in listed


def test_a_folder_that_is_not_there_is_one_line() -> None:
    done = vtd("conform", "--html", "/not/there/report.html")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"vtd: --html /not/there/report.html: no such directory: /not/there\n"


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("NO CHROMIUM: the page was not opened in a browser; apt-get install chromium")
    with Browser() as started:
        yield started


def page_of(ids: list[str], folder: Path) -> str:
    """The address of the page of two QEMUs, one of which differs once."""
    page = folder / "report.html"
    page.write_bytes(as_html([report(*ids), report(*ids, differs=PLAIN)]))
    return page.as_uri()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page with a part of the catalogue."""
    return page_of(PART, tmp_path_factory.mktemp("page"))


VISIBLE = "[...document.querySelectorAll('.scenario')].filter((each) => !each.hidden).map((each) => each.id)"


def choose(browser: Browser, id_: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const field = document.getElementById({id_!r}); field.value = {value!r};"
        " field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_opens_without_errors_and_fits(browser: Browser, url: str, width: int, dark: bool) -> None:
    opens_and_fits(browser, url, len(PART), width, dark)


@pytest.mark.slow
def test_the_whole_catalogue_opens_and_fits(browser: Browser, tmp_path: Path) -> None:
    opens_and_fits(browser, page_of(CATALOGUE, tmp_path), len(CATALOGUE), 1280, False)


def opens_and_fits(browser: Browser, url: str, scenarios: int, width: int, dark: bool) -> None:
    browser.open(url, width=width, height=900, dark=dark)
    assert browser.errors == []
    assert len(browser.evaluate(VISIBLE)) == scenarios
    browser.evaluate("[...document.querySelectorAll('details')].forEach((each) => { each.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_the_filters_work(browser: Browser, url: str) -> None:
    browser.open(url, width=1280, height=900)
    assert browser.evaluate("document.getElementById('filters').hidden") is False
    choose(browser, "quirk", "Q08")
    assert browser.evaluate(VISIBLE) == WITH_Q08
    assert browser.evaluate("document.getElementById('count').textContent").startswith(f"{len(WITH_Q08)} of ")
    browser.evaluate("document.querySelector('#filters button').click()")
    choose(browser, "verdict", "v-differs")
    assert browser.evaluate(VISIBLE) == [PLAIN]
    choose(browser, "verdict", "")
    choose(browser, "text", "all-BITS record")
    assert browser.evaluate(VISIBLE) == [QUIRKY]
    choose(browser, "chapter", "queue")
    assert browser.evaluate(VISIBLE) == []
    assert browser.errors == []


def test_links_show_a_scenario_and_the_scenarios_of_a_quirk(browser: Browser, url: str) -> None:
    browser.open(f"{url}#{QUIRKY}", width=1280, height=900)
    assert browser.evaluate(f"document.getElementById({QUIRKY!r}).open") is True
    browser.open(f"{url}#quirk=Q08", width=1280, height=900)
    assert browser.evaluate(VISIBLE) == WITH_Q08


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(as_html(two()))
    browser.open(page.as_uri(), width=1280, height=900)
    assert browser.pdf().startswith(b"%PDF")
