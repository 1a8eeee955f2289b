"""Each break of an entry rule (breaks.py) is noticed: by unit tests, by the naive oracle, and by a scenario."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iommu import RemappingUnit
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.platform import ModelPlatform
from tests.engine.breaks import BREAKS, INTERRUPTS, LEGACY, SCALABLE, Break

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ORACLES = {
    LEGACY: "test_walk_against_naive.py",
    SCALABLE: "test_against_naive_scalable.py",
    INTERRUPTS: "test_interrupts_against_naive.py",
}
FAILED = 1
"""pytest's exit status when tests have failed; others mean that they could not be run."""


def by_name(broken: type[Break]) -> str:
    return broken.__name__


def test_there_are_enough_of_them() -> None:
    assert len(BREAKS) >= 20
    assert all(broken.rule and broken.__doc__ for broken in BREAKS.values())


IN_THE_CATALOGUE = [broken for broken in BREAKS.values() if broken.mode == LEGACY and not broken.no_scenario]


@pytest.mark.parametrize("broken", IN_THE_CATALOGUE, ids=by_name)
def test_a_scenario_notices(broken: type[Break]) -> None:
    unit = type("Broken", (RemappingUnit,), {"Formats": broken})
    failing = []
    for scenario in catalogue("legacy.*"):
        seen = scenario.run(ModelPlatform(scenario.setup.capabilities, unit=unit))
        if seen != scenario.expect and all(seen != allowed.lines for allowed in scenario.allowed):
            failing.append(scenario.id)
    print(f"{broken.rule} {broken.__name__}: {len(failing)} scenarios fail, the first {failing[:1]}")
    assert failing


def run(broken: type[Break], *files: str, pick: str = "") -> subprocess.CompletedProcess[str]:
    """Run tests with the rule broken, up to the first failure; no example is made smaller."""
    words = ["-q", "-x", "-p", "tests.engine.break_formats", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "BREAK": broken.__name__, "HYPOTHESIS_PROFILE": "broken"}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *words,
            *(str(HERE / name) for name in files),
            *(["-k", pick] if pick else []),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS.values(), ids=by_name)
def test_unit_tests_notice(broken: type[Break]) -> None:
    ran = run(broken, *broken.unit.split())
    assert ran.returncode == FAILED, ran.stdout[-2000:] + ran.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS.values(), ids=by_name)
def test_the_naive_oracle_notices(broken: type[Break]) -> None:
    ran = run(broken, ORACLES[broken.mode], pick="naive_reading")
    assert ran.returncode == FAILED, ran.stdout[-2000:] + ran.stderr[-2000:]
