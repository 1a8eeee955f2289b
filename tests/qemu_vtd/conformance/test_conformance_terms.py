"""What a QEMU is held to: pinned freedoms, quirks of another version, what fails; several QEMUs side by side."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from qemu.vtd import private_cache
from qemu.vtd.conformance.failed import failed_before, failed_first, record_failed
from qemu.vtd.conformance.judge import CHANGES, Verdict, judge, on_profile, terms_of
from qemu.vtd.conformance.matrix import columns, print_matrix
from qemu.vtd.conformance.report.summary import print_summary, terms_in_words
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.quirks import NEWEST, QUIRKS, Version, freedoms
from qemu.vtd.quirks.freedoms import FREEDOMS, Freedom, freedom_of
from tests.qemu_vtd.conformance.fixed_reports import IDS, OLD, report

CATALOGUE = {scenario.id: scenario for scenario in catalogue()}
FREE = CATALOGUE["legacy.compression.same-device"]
TWO_WAYS = next(each for each in CATALOGUE.values() if len(each.allowed) > 1)
PLAIN, QUIRKY = IDS[:2]
PATCHED, OTHER = (10, 1, 50), (10, 0, 13)
ONLY_DIFFERENCES = frozenset((Verdict.DIFFERS,))


def pin(monkeypatch: pytest.MonkeyPatch, *lines: Freedom) -> None:
    monkeypatch.setattr(freedoms, "FREEDOMS", lines)


def test_the_pinned_freedom_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, Freedom(FREE.id, 1, "so it is"))
    assert judge(FREE, FREE.expect, FREE.allowed[0].lines, OLD) == (Verdict.ALLOWED, FREE.allowed[0].because)


def test_a_freedom_that_is_not_pinned_comes_with_the_line_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch)
    verdict, why = judge(FREE, FREE.expect, FREE.allowed[0].lines, OLD)
    assert verdict is Verdict.MOVED
    line = why.partition("freedoms.py for QEMU 7.2.22: ")[2]
    added = eval(line, {"Freedom": Freedom})
    pin(monkeypatch, added)
    assert judge(FREE, FREE.expect, FREE.allowed[0].lines, OLD)[0] is Verdict.ALLOWED


def test_a_freedom_no_longer_used_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, Freedom(FREE.id, 1, "so it is", gone=(11, 0, 0)))
    verdict, why = judge(FREE, FREE.expect, FREE.expect, OLD)
    assert verdict is Verdict.MOVED and "gone=" in why
    assert judge(FREE, FREE.expect, FREE.expect, (11, 0, 0))[0] is Verdict.AGREES


def test_another_allowed_outcome_than_the_pinned_one_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, Freedom(TWO_WAYS.id, 1, "so it is"))
    first, second = (allowed.lines for allowed in TWO_WAYS.allowed[:2])
    assert judge(TWO_WAYS, TWO_WAYS.expect, first, OLD)[0] is Verdict.ALLOWED
    verdict, why = judge(TWO_WAYS, TWO_WAYS.expect, second, OLD)
    assert verdict is Verdict.MOVED
    assert "allowed outcome 2, where allowed outcome 1 is pinned" in why


def test_every_pinned_freedom_is_one_of_its_scenario() -> None:
    for freedom in FREEDOMS:
        assert 1 <= freedom.outcome <= len(CATALOGUE[freedom.scenario].allowed), freedom
        assert freedom.because and not freedom.because.endswith(".")
        assert freedom_of(freedom.scenario, freedom.first) == freedom.outcome, f"two lines for {freedom.scenario}"


def test_no_version_has_a_quirk_and_a_freedom_in_one_scenario() -> None:
    for freedom in FREEDOMS:
        for quirk in QUIRKS:
            apart = (quirk.gone or (99, 0, 0)) <= freedom.first or (freedom.gone or (99, 0, 0)) <= quirk.first
            assert apart or freedom.scenario not in quirk.scenarios, (freedom.scenario, quirk.id)


@pytest.mark.parametrize(
    ("version", "old", "quirks_of", "by", "fails"),
    [
        (OLD, None, None, OLD, CHANGES),
        (NEWEST, None, None, NEWEST, CHANGES),
        ((NEWEST[0], NEWEST[1], NEWEST[2] + 1), None, None, (NEWEST[0], NEWEST[1], NEWEST[2] + 1), frozenset()),
        (PATCHED, None, None, PATCHED, ONLY_DIFFERENCES),
        (PATCHED, OLD, None, OLD, ONLY_DIFFERENCES),
        ((99, 0, 0), OLD, None, OLD, ONLY_DIFFERENCES),
        (OLD, OLD, None, OLD, ONLY_DIFFERENCES),
        (OTHER, OLD, None, OTHER, CHANGES),
        (OTHER, None, OLD, OLD, ONLY_DIFFERENCES),
        (PATCHED, OTHER, OLD, OLD, ONLY_DIFFERENCES),
    ],
    ids=[
        "a release",
        "the newest",
        "newer than known",
        "a development tree",
        "a development tree and its base",
        "newer than known, and an old one",
        "two builds of a release",
        "two releases",
        "another version's quirks",
        "the option wins",
    ],
)
def test_terms(
    version: Version, old: Version | None, quirks_of: Version | None, by: Version, fails: frozenset[Verdict]
) -> None:
    terms = terms_of(version, old, quirks_of)
    assert (terms.version, terms.fails) == (by, fails)


def judged(version: Version, *ids: str, seen: str = "profile", old: Version | None = None) -> Report:
    """A QEMU that does what the quirks of 7.2.22 predict, or all that is right, or nothing right."""
    made = Report("/opt/qemu", version, old=old)
    for id_ in ids:
        scenario = CATALOGUE[id_]
        lines = {"profile": on_profile(scenario, OLD), "right": scenario.expect, "wrong": ("nothing",)}[seen]
        verdict, why = judge(scenario, scenario.expect, lines, made.terms.version)
        made.results.append(replace(report(id_).results[0], qemu=lines, verdict=verdict, why=why))
    return made


@pytest.mark.parametrize(
    ("version", "old", "seen", "verdict", "passed"),
    [
        (OLD, None, "right", Verdict.GONE, False),
        (PATCHED, OLD, "profile", Verdict.QUIRK, True),
        (PATCHED, OLD, "right", Verdict.GONE, True),
        (PATCHED, OLD, "wrong", Verdict.DIFFERS, False),
        ((99, 0, 0), None, "wrong", Verdict.DIFFERS, True),
    ],
)
def test_what_fails(version: Version, old: Version | None, seen: str, verdict: Verdict, passed: bool) -> None:
    made = judged(version, QUIRKY, seen=seen, old=old)
    assert made.results[0].verdict is verdict
    assert made.passed is passed
    assert bool(made.changes) is (verdict in CHANGES)


def printed(reports: list[Report], width: int | None = None, *, whole: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=width is not None, soft_wrap=True, highlight=False)
    print_matrix(reports, console, whole=whole)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def test_the_matrix_has_a_column_a_qemu_and_the_lines_that_are_not_alike() -> None:
    shown = printed([judged(OLD, PLAIN, QUIRKY), judged(NEWEST, PLAIN, QUIRKY, seen="right")])
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "scenario 7.2.22 11.1.3" in lines
    assert f"{QUIRKY} Q08 agrees" in lines
    assert "agrees 1 2" in lines
    assert not any(line.startswith(PLAIN) for line in lines)
    assert "1 scenarios more, alike on every QEMU: -v shows them" in lines
    assert lines[-2:] == ["QEMU 7.2.22: as known", "QEMU 11.1.3: as known"]


def test_the_whole_matrix() -> None:
    shown = printed([judged(OLD, PLAIN, QUIRKY), judged(NEWEST, PLAIN, QUIRKY, seen="right")], whole=True)
    assert f"{PLAIN}  agrees  agrees" in shown
    assert "more, alike" not in shown


def test_a_change_is_shown_in_full_with_its_qemu() -> None:
    shown = printed([judged(OLD, PLAIN, seen="wrong"), judged(NEWEST, PLAIN, seen="wrong")])
    assert f"DIFFERS {PLAIN} (spec 7.1.3 LCT.2), QEMU 7.2.22" in shown
    assert f"{PLAIN}  DIFFERS  DIFFERS" in shown
    assert "QEMU 11.1.3: 1 DIFFERS" in shown


@pytest.mark.parametrize("width", [40, 80])
def test_the_matrix_fits_the_terminal(width: int) -> None:
    reports = [judged(OLD, *IDS[:4], seen=seen) for seen in ("profile", "right", "wrong")]
    shown = printed(reports, width, whole=True)
    assert max(map(len, shown.splitlines())) <= width
    for id_ in IDS[:4]:
        assert id_ in shown.replace("\n", "")


def test_equal_versions_are_numbered() -> None:
    assert columns([judged(OLD, PLAIN), judged(NEWEST, PLAIN), judged(OLD, PLAIN)]) == [
        "7.2.22 (1)",
        "11.1.3",
        "7.2.22 (2)",
    ]


def test_the_summary_lists_the_quirks_that_are_fixed() -> None:
    out = io.StringIO()
    made = judged(PATCHED, PLAIN, QUIRKY, seen="right", old=OLD)
    print_summary(made, Console(file=out, soft_wrap=True, highlight=False))
    lines = out.getvalue().splitlines()
    assert lines[0] == "QEMU 10.1.50 shows no known quirk, no longer in 1 scenario with a known quirk"
    assert "judged by the quirks of QEMU 7.2.22: what is fixed does not fail" in lines
    assert any(line.startswith("Q08  fixed: The fault of a request without PASID") for line in lines)


@pytest.mark.parametrize(
    ("version", "old", "said"),
    [
        (OLD, None, ""),
        (OTHER, OLD, ""),
        (PATCHED, None, "not a release"),
        (OLD, OLD, "judged by the quirks of QEMU 7.2.22"),
        ((99, 0, 0), None, "newer than 11.1.3"),
    ],
)
def test_the_terms_are_said(version: Version, old: Version | None, said: str) -> None:
    words = terms_in_words(Report("/opt/qemu", version, old=old))
    assert words.startswith(said) and bool(words) is bool(said)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return private_cache.root() / "failed.json"


def test_what_failed_is_noted_until_it_no_longer_does(cache: Path) -> None:
    record_failed(judged(OLD, PLAIN, QUIRKY))
    assert not cache.exists()
    record_failed(judged(OLD, PLAIN, QUIRKY, seen="wrong"))
    record_failed(judged(OLD, PLAIN))  # the other was not run
    assert failed_before("/opt/qemu") == {QUIRKY}
    assert failed_before("/opt/other") == frozenset()
    record_failed(judged(OLD, QUIRKY))
    assert json.loads(cache.read_text()) == {}
    assert [path.name for path in cache.parent.iterdir()] == ["failed.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"/opt/qemu": 3}', "\x00"])
def test_a_damaged_note_is_as_none(cache: Path, text: str) -> None:
    private_cache.private(cache.parent)
    cache.write_text(text)
    assert failed_before("/opt/qemu") == frozenset()
    record_failed(judged(OLD, PLAIN, seen="wrong"))
    assert failed_before("/opt/qemu") == {PLAIN}


def test_what_failed_is_run_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu.vtd.conformance.failed.find_qemu", lambda qemu: "/opt/qemu")
    scenarios = [CATALOGUE[id_] for id_ in IDS[:4]]
    runs: list[list[str]] = []

    def run(part: Sequence[Scenario]) -> Report:
        runs.append([each.id for each in part])
        return judged(OLD, *runs[-1])

    assert [len(part.results) for part in failed_first(scenarios, None, run)] == [4]
    record_failed(judged(OLD, IDS[2], seen="wrong"))
    first, whole = failed_first(scenarios, None, run)
    assert runs[1:] == [[IDS[2]], [IDS[0], IDS[1], IDS[3]]]
    assert [result.scenario.id for result in first.results] == [IDS[2]]
    assert [result.scenario.id for result in whole.results] == list(IDS[:4])
    *_, only = failed_first(scenarios[2:3], None, run)
    assert [result.scenario.id for result in only.results] == [IDS[2]]
