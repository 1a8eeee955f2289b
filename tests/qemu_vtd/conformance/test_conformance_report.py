"""What a report prints: what matters first, at any width; the same as JSON and as JUnit XML."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from qemu.vtd.conformance.report.document import as_dict
from qemu.vtd.conformance.report.junit import as_junit
from qemu.vtd.conformance.report.summary import headline, print_next, print_summary
from qemu.vtd.conformance.report.table import print_table
from qemu.vtd.conformance.report.words import brief, same_or_brief
from qemu.vtd.conformance.runner import Report
from tests.qemu_vtd.conformance.fixed_reports import IDS, report

PLAIN, QUIRKY = IDS[:2]


def printed(shown: Report, width: int | None = None, *, verbose: bool = False) -> str:
    """What is printed on a terminal of that width; in a pipe if it is None."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=width is not None, soft_wrap=True, highlight=False)
    if verbose:
        print_table(shown, console)
    print_summary(shown, console)
    print_next([shown], console)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def test_what_matters_comes_first() -> None:
    lines = printed(report()).splitlines()
    assert lines[0] == "QEMU 7.2.22 departs from VT-d in 2 ways"
    assert [line[:3] for line in lines if re.match(r"Q\d\d  ", line)] == ["Q02", "Q08"]
    context = next(line for line in lines if line.startswith("context"))
    assert " ".join(context.split()) == "context 2 1 agree, 1 on the model only"
    assert lines[-2].startswith("vtd quirks ") and lines[-1].startswith("vtd conform --html ")
    assert PLAIN not in "\n".join(lines)


def test_one_way_and_none() -> None:
    assert headline(report(QUIRKY)).endswith("departs from VT-d in 1 way")
    assert headline(report(PLAIN)) == "QEMU 7.2.22 shows no known quirk"


def test_a_difference_comes_with_all_three_outcomes() -> None:
    shown = printed(report(PLAIN, QUIRKY, differs=PLAIN))
    assert "departs from VT-d in 1 way, and in 1 scenario that nothing explains" in shown
    part = shown[shown.index(f"DIFFERS {PLAIN}") :]
    for who, line in [
        ("expected", "fault 0x02 A 0x5000 write  (LCT.2 "),
        ("model", "fault 0x02 A 0x5000 write  (LCT.2 "),
        ("QEMU", "A write 0x5010 -> blocked\n      QEMU  FSTS PPF"),
    ]:
        assert f"{who}  {line}" in part
    assert f"vtd conform --only {PLAIN}" in shown


@pytest.mark.parametrize("verbose", [False, True], ids=["short", "verbose"])
@pytest.mark.parametrize("width", [40, 80, 132])
def test_nothing_is_cut_off_and_no_line_is_longer_than_the_terminal(width: int, verbose: bool) -> None:
    shown = report(*IDS, differs=PLAIN)
    folded, whole = printed(shown, width, verbose=verbose), printed(shown)
    assert max(map(len, folded.splitlines())) <= width
    letters = re.sub(r"\s", "", folded)
    for line in whole.splitlines():
        assert re.sub(r"\s", "", line) in letters


def test_columns_folds_a_pipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, printed(report()).splitlines())) <= 40


def test_a_pipe_is_plain_and_unfolded() -> None:
    shown = printed(report(), verbose=True)
    assert "\x1b" not in shown
    for id_ in IDS:
        assert re.search(rf"^ {re.escape(id_)} .*(agrees|quirk|only)", shown, re.MULTILINE)
    assert not re.search(r" $", shown, re.MULTILINE)


def test_json_has_conditions_chapters_setups_and_quirks() -> None:
    plain, quirky, *_ = as_dict(report())["scenarios"]
    assert plain["section"] == "7.1.3 LCT.2"
    assert plain["conditions"] == ["LCT.2"]
    assert (plain["chapter"], plain["setup"], plain["quirks"]) == ("context", "48-bit", [])
    assert quirky["quirks"] == ["Q08"]
    assert quirky["title"]


def test_junit_counts_failures_and_skips() -> None:
    (suite,) = ElementTree.fromstring(as_junit([report(*IDS, differs=PLAIN)]))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(IDS)), "1", "1")
    (text,) = [case.text for case in suite.iter("failure")]
    assert text is not None
    assert [line.split(":")[0] for line in text.splitlines()] == ["expected", "model", "QEMU"]


def test_a_long_outcome_is_cut_short_in_a_table() -> None:
    """A scenario may go through a register bit by bit: the table would be thousands of columns wide."""
    lines = tuple(f"bit {n} -> blocked {n}" for n in range(64))
    assert brief(lines) == "blocked 0, blocked 1, blocked 2, blocked 3, 60 more"
    assert brief(("accepted: " + "0x10 " * 40,)) == "accepted: 0x10 0x10 0x10 0x10 0x10 ..."
    changed = (*lines[:-1], "bit 63 -> 0x800010")
    assert same_or_brief(changed, lines) == "bit 63 -> 0x800010"
