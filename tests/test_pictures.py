"""The pictures in README: the terminal is what its script draws today from the recorded run, and both are small."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from qemu.vtd.conformance.judge import Verdict
from qemu.vtd.conformance.scenario import catalogue
from tools import pictures


def test_the_terminal_is_what_the_script_draws_today() -> None:
    assert pictures.TERMINAL.read_text() == pictures.terminal(pictures.recorded()), "run python -m tools.pictures"


def test_the_terminal_has_no_times_no_paths_and_loads_nothing() -> None:
    picture = pictures.TERMINAL.read_text()
    text = "".join(ElementTree.fromstring(picture).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert "departs from VT-d" in text
    assert not re.search(r"cases a second|\d s\b| /\w", text)
    assert not re.search(r"url\((?!#)|@import|@font-face|href|<image|<script", picture)


def test_the_recorded_run_passed_and_had_the_chapters_of_the_catalogue() -> None:
    run = pictures.recorded()
    assert run.count(Verdict.DIFFERS) == 0
    assert {result.scenario.chapter for result in run.results} <= {scenario.chapter for scenario in catalogue()}


def test_the_page_is_a_small_png_with_nothing_of_this_machine_in_it() -> None:
    picture = pictures.PAGE.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 400_000
