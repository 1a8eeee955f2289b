"""Each broken entry rule (breaks.py) is noticed: by the naive oracle, and by an ordinary unit test."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from iommu import RemappingUnit
from tests.engine import examples
from tests.engine import test_against_naive_scalable as scalable
from tests.engine import test_interrupts_against_naive as interrupts
from tests.engine import test_walk_against_naive as legacy
from tests.engine.breaks import BREAKS, Break


def _comparison(test: Any) -> Callable[..., None]:
    """What a hypothesis test does with each example: it raises AssertionError where engine and oracle disagree."""
    return cast(Callable[..., None], test.hypothesis.inner_test)


ORACLES = {
    "legacy": (examples.legacy, _comparison(legacy.test_engine_agrees_with_the_naive_reading)),
    "scalable": (examples.scalable, _comparison(scalable.test_engine_agrees_with_the_naive_reading)),
    "interrupts": (examples.interrupts, _comparison(interrupts.test_against_a_naive_reading)),
}
EXAMPLES = 4000
"""No break needs a tenth of them."""


@pytest.mark.parametrize("name", ORACLES)
def test_naive_oracle_agrees_with_the_rules_as_they_are(name: str) -> None:
    make, compare = ORACLES[name]
    pick = Random(0)
    for _ in range(EXAMPLES // 20):
        compare(**make(pick))


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_naive_oracle_notices(broken: type[Break], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are the same in each run; the first that shows a disagreement is enough."""
    make, compare = ORACLES[broken.oracle]
    monkeypatch.setattr(RemappingUnit, "Formats", broken)
    pick = Random(0)
    for number in range(1, EXAMPLES + 1):
        try:
            compare(**make(pick))
        except AssertionError:
            print(f"{broken.__name__}: the {broken.oracle} oracle disagrees on example {number}")
            return
    pytest.fail(f"the {broken.oracle} oracle agrees with {broken.__name__} on {EXAMPLES} examples")
