"""Every quirk declares what people need to know of it, and the lists show it."""

from __future__ import annotations

import io
import json
import re
from collections import Counter

import pytest
from rich.console import Console

from qemu.vtd.conformance.report.quirks import as_markdown, print_list, print_one
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.quirks import QUIRKS, Quirk, Severity, parse_version, quirks_of
from qemu.vtd.quirks.quirk import FIRST, TRIED
from tests.command import vtd

EACH = pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
DECLARED = ("id", "severity", "section", "hardware", "driver", "function", "scenarios")


@EACH
def test_declares_everything(quirk: type[Quirk]) -> None:
    missing = [name for name in DECLARED if not vars(quirk).get(name)]
    assert not missing, f"{quirk.__name__} lacks {', '.join(missing)}: see docs/conformance.md"
    assert quirk.__doc__
    assert isinstance(quirk.severity, Severity)
    assert re.fullmatch(r"Q\d\d", quirk.id)
    assert re.match(r"\d+(\.\d+)*\b", quirk.section)
    for text in (quirk.title(), quirk.hardware, quirk.driver):
        assert re.fullmatch(r"\S.*[.)]", text), f"not a sentence: {text!r}"
        assert len(text) < 240
    for function in quirk.function.split(", "):
        assert re.fullmatch(r"(vtd|x86_iommu|do|msi)_\w+( \(\w+ in [\d.]+\))?", function), function


@EACH
def test_scenarios_are_in_the_catalogue(quirk: type[Quirk]) -> None:
    known = {scenario.id for scenario in catalogue()}
    assert [id_ for id_ in quirk.scenarios if id_ not in known] == []


@EACH
def test_versions_include_one_that_is_tried(quirk: type[Quirk]) -> None:
    assert quirk.first >= FIRST
    assert quirk.gone is None or quirk.first < quirk.gone
    assert any(quirk.is_in(version) for version in TRIED)


def test_ids_are_unique() -> None:
    assert [id_ for id_, count in Counter(quirk.id for quirk in QUIRKS).items() if count > 1] == []


def test_quirk_starts_and_ends_with_its_versions() -> None:
    class Example(Quirk):
        first = (8, 1, 0)
        gone = (10, 0, 0)

    assert [Example.is_in(version) for version in ((8, 0, 9), (8, 1, 0), (9, 9, 9), (10, 0, 0))] == [0, 1, 1, 0]
    assert Example.versions() == "8.1.0 and later, gone in 10.0.0"


def printed(width: int, version: str = "") -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, no_color=True, highlight=False, soft_wrap=True)
    print_list(quirks_of(parse_version(version)) if version else QUIRKS, version, console)
    for quirk in QUIRKS:
        print_one(quirk, console)
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


@pytest.mark.parametrize("width", [40, 80])
def test_lists_fit_the_terminal(width: int) -> None:
    lines = printed(width).splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither a terminal nor COLUMNS gives a width, lines are not wrapped."""
    monkeypatch.delenv("COLUMNS", raising=False)


def output_of(*arguments: str) -> str:
    done = vtd("quirks", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_list_says_what_each_means_for_a_driver() -> None:
    output = output_of()
    assert output.startswith(f"QEMU departs from VT-d in {len(QUIRKS)} ways.\n")
    for quirk in QUIRKS:
        assert f"{quirk.id}  {quirk.driver}\n     {quirk.title()}" in output
    headings = [line.rstrip(":") for line in output.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [each.value for each in Severity if any(quirk.severity is each for quirk in QUIRKS)]


def test_list_of_a_version() -> None:
    old, new = output_of("--version", "7.2"), output_of("--version", "11.1")
    assert old.startswith(f"QEMU 7.2 departs from VT-d in {len(quirks_of((7, 2, 0)))} ways.\n")
    assert "\nQ08 " in old
    assert "\nQ08 " not in new


def test_one_in_full() -> None:
    output = output_of("q13")
    for text in (
        "Q13",
        "6.2.4",
        "vtd_lookup_iotlb",
        "queue.context.new-domain",
        "observed on 7.2.22, 10.0.13, 11.1.3",
    ):
        assert text in output
    assert "Q12" not in output


def test_json_has_every_field() -> None:
    rows = json.loads(output_of("--json"))
    assert [row["id"] for row in rows] == [quirk.id for quirk in QUIRKS]
    (row,) = json.loads(output_of("Q08", "--json"))
    assert (row["severity"], row["gone"], row["observed"]) == ("report_differs", "11.0.0", ["7.2.22", "10.0.13"])
    assert all(row.values())


@pytest.mark.parametrize(("arguments", "message"), [
    (["Q98"], "no quirk 'Q98'; vtd quirks lists them"),
    (["Q08", "--version", "11.1"], "no quirk 'Q08' in QEMU 11.1; vtd quirks lists them"),
    (["--version", "ten"], "'ten' is not a version of QEMU, such as 10.0 or 7.2.22"),
    (["--version", "1.2.3.4"], "'1.2.3.4' is not a version of QEMU, such as 10.0 or 7.2.22"),
])  # fmt: skip
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = vtd("quirks", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", f"vtd: {message}\n".encode())


def test_markdown_is_one_section() -> None:
    text = as_markdown(QUIRKS[0])
    assert text.startswith("## Q01: ")
    assert text.count("\n## ") == 0
    assert "**Only what the unit reports differs.**" in text
