"""Each break of an entry rule (breaks.py) is noticed: by unit tests, by the naive oracle, and by a scenario."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from iommu import RemappingUnit
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.platform import ModelPlatform
from tests.engine import examples
from tests.engine import test_against_naive_scalable as scalable
from tests.engine import test_interrupts_against_naive as interrupts
from tests.engine import test_walk_against_naive as legacy
from tests.engine.breaks import BREAKS, INTERRUPTS, LEGACY, SCALABLE, Break

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def comparison(test: Any) -> Callable[..., None]:
    """What an oracle's own test does with each example: it fails where the engine and the oracle disagree."""
    return cast(Callable[..., None], test.hypothesis.inner_test)


ORACLES = {
    LEGACY: (examples.legacy, comparison(legacy.test_engine_agrees_with_the_naive_reading)),
    SCALABLE: (examples.scalable, comparison(scalable.test_engine_agrees_with_the_naive_reading)),
    INTERRUPTS: (examples.interrupts, comparison(interrupts.test_against_a_naive_reading)),
}
EXAMPLES = 800
"""How many are tried at most. No break needs half of them."""

FAILED = 1
"""pytest's exit status when tests have failed; others mean that they could not be run."""


def by_name(broken: type[Break]) -> str:
    return broken.__name__


def test_there_are_enough_of_them() -> None:
    assert len(BREAKS) >= 20
    assert all(broken.rule and broken.__doc__ for broken in BREAKS.values())


def test_every_rule_of_legacy_and_scalable_mode_has_a_scenario() -> None:
    without = [name for name, broken in BREAKS.items() if broken.mode != INTERRUPTS and not broken.scenario]
    assert without == []


@pytest.mark.parametrize("broken", [each for each in BREAKS.values() if each.scenario], ids=by_name)
def test_the_scenario_notices(broken: type[Break]) -> None:
    scenario = next(each for each in catalogue(broken.scenario) if each.id == broken.scenario)
    unit = type("Broken", (RemappingUnit,), {"Formats": broken})
    seen = scenario.run(ModelPlatform(scenario.setup.capabilities, unit=unit, topology=scenario.setup.topology))
    assert seen not in (scenario.expect, *(allowed.lines for allowed in scenario.allowed))


@pytest.mark.parametrize("mode", ORACLES)
def test_the_naive_oracle_agrees_with_the_rules_as_they_are(mode: str) -> None:
    """On the very examples that show the breaks."""
    make, compare = ORACLES[mode]
    pick = Random(0)
    for _ in range(EXAMPLES // 2):
        compare(**make(pick))


@pytest.mark.parametrize("broken", BREAKS.values(), ids=by_name)
def test_the_naive_oracle_notices(broken: type[Break], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are the same in each run; the first that shows a disagreement is enough."""
    make, compare = ORACLES[broken.mode]
    monkeypatch.setattr(RemappingUnit, "Formats", broken)
    pick = Random(0)
    for number in range(1, EXAMPLES + 1):
        try:
            compare(**make(pick))
        except AssertionError:
            print(f"{broken.__name__}: the {broken.mode} oracle disagrees on example {number}")
            return
    pytest.fail(f"the {broken.mode} oracle agrees with {broken.__name__} on every example")


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS.values(), ids=by_name)
def test_unit_tests_notice(broken: type[Break]) -> None:
    """They run with the rule broken, up to the first failure."""
    words = ["-q", "-x", "-p", "tests.engine.break_formats", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(HERE / broken.unit)],
        cwd=ROOT,
        env={**os.environ, "BREAK": broken.__name__},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == FAILED, ran.stdout[-2000:] + ran.stderr[-2000:]
    print(next(line for line in ran.stdout.splitlines() if line.startswith("FAILED")))
