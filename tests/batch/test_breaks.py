"""Each break of the batch engine (breaks.py) is noticed by the comparison with the scalar engine."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.batch import examples, test_legacy, test_replay, test_scalable
from tests.batch.breaks import BREAKS, LEGACY, REPLAY, SCALABLE, Break

Comparison = tuple[Callable[[Random], dict[str, Any]], Callable[..., None]]
COMPARISONS: dict[str, Comparison] = {
    LEGACY: (examples.legacy, test_legacy.check),
    SCALABLE: (examples.scalable, test_scalable.check),
    REPLAY: (examples.scalable, test_replay.check_scalable),
}
EXAMPLES = 60
"""How many are tried at most."""


@pytest.mark.parametrize("mode", COMPARISONS)
def test_nothing_is_noticed_where_nothing_is_broken(mode: str) -> None:
    make, check = COMPARISONS[mode]
    pick = Random(0)
    for _ in range(EXAMPLES // 3):
        check(**make(pick))


@pytest.mark.parametrize("broken", BREAKS, ids=lambda it: it.what)
def test_the_comparison_notices(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are the same in each run; the first that shows a disagreement is enough."""
    make, check = COMPARISONS[broken.mode]
    broken.patch(monkeypatch)
    pick = Random(0)
    for number in range(1, EXAMPLES + 1):
        try:
            check(**make(pick))
        except AssertionError:
            print(f"example {number}")
            return
    pytest.fail(f"{broken.what}: no example shows it")
