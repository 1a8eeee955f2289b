"""The catalogue on the QEMUs of other Debian suites, and each QEMU judged by the quirks of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.vtd.conformance.runner import Report, conform
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.probe import Build
from qemu.vtd.quirks import NEWEST
from tests.qemu_vtd.suites import SUITES, UNKNOWN, qemu_of

RUN = "test_the_catalogue_on_the_qemu_of_a_suite"
VTD = str(Path(sys.executable).with_name("vtd"))


def in_words(report: Report) -> str:
    return "\n".join(
        f"{each.verdict.value} {each.scenario.id}: {each.why}\n  {each.scenario.expect} expected\n  {each.qemu} seen"
        for each in report.changes
    )


@pytest.mark.parametrize("suite", SUITES)
def test_the_catalogue_on_the_qemu_of_a_suite(suite: str, record_property: Callable[[str, object], None]) -> None:
    report = conform(catalogue(), qemu_of(suite))
    if report.version > NEWEST and report.changes:
        record_property(UNKNOWN, f"QEMU {report.version} of {suite}:\n{in_words(report)}")
    assert report.passed, in_words(report)


def test_a_qemu_that_is_not_to_be_had_ends_the_summary(tmp_path: Path) -> None:
    """Tests that skip for want of a mirror must not go unseen among others."""
    (tmp_path / "apt.conf").write_text('Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "/dev/null";\n')
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{RUN}[trixie]"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "APT_CONFIG": str(tmp_path / "apt.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    *_, loud, counts = ran.stdout.splitlines()
    assert loud.startswith("! ") and "NOT TESTED: the QEMU of trixie: apt has no Debian mirror" in loud
    assert counts.startswith("1 skipped")


def vtd_conform(*words: str) -> tuple[int, dict[str, int]]:
    """The exit status of `vtd conform`, and the verdicts counted."""
    ran = subprocess.run([VTD, "conform", "--json", *words], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    (run,) = json.loads(ran.stdout)["runs"]
    return ran.returncode, run["counts"]


def test_what_a_newer_qemu_fixed_is_listed_and_does_not_fail() -> None:
    """Interrupt faults are recorded since QEMU 8."""
    status, counts = vtd_conform("--qemu", qemu_of("trixie"), "--quirks-of", "7.2.22", "--only", "ir.entry.*")
    assert status == 0
    assert counts["gone"] > 0 and counts["differs"] == 0


def test_what_an_older_qemu_does_wrong_is_a_difference(build: Build) -> None:
    if build.version >= (8, 0, 0):
        pytest.skip(f"QEMU {build.version} records interrupt faults")
    status, counts = vtd_conform("--qemu", build.path, "--quirks-of", "11.1", "--only", "ir.entry.*")
    assert status == 1
    assert counts["differs"] > 0 and counts["gone"] == 0
