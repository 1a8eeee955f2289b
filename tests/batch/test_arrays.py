"""What callers give: every array that no request can come from is refused, with the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iommu import MisuseError
from iommu.batch import NO_PASID, BatchTranslator
from tests.engine.scalable_world import PASS, pass_through

GOOD: dict[str, Any] = {"source_ids": [0x20, 0x20], "addresses": [0x1000, 0x2000], "writes": [True, False]}


def ask(**changes: Any) -> tuple[list[int], list[int]]:
    """Two requests, with some of the arrays replaced."""
    world = pass_through()
    world.pasid_entry(5, pgtt=PASS)
    hosts, reasons = BatchTranslator(world.unit).translate(**{**GOOD, **changes})
    return hosts.tolist(), reasons.tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"writes": [True]}, "writes has 1 rows and addresses has 2: row 1 is not in both"),
        ({"source_ids": [1, 2, 3]}, "source_ids has 3 rows and addresses has 2: row 2 is not in both"),
        ({"pasids": [5]}, "pasids has 1 rows and addresses has 2: row 1 is not in both"),
        ({"roots": []}, "roots has 0 rows and addresses has 2: row 0 is not in both"),
        ({"addresses": [0, 1 << 64]}, f"addresses, row 1: {1 << 64} is not a number of 64 bits"),
        ({"addresses": [-1, 0]}, "addresses, row 0: -1 is not a number of 64 bits"),
        ({"addresses": [(1 << 64) - 1, -1]}, "addresses, row 1: -1 is not a number of 64 bits"),
        ({"addresses": [0, 1.5]}, "addresses, row 1: 1.5 is not an integer"),
        ({"addresses": [0, "0x5"]}, "addresses, row 1: '0x5' is not an integer"),
        ({"addresses": [0, None]}, "addresses, row 1: None is not an integer"),
        ({"addresses": [True, False]}, "addresses, row 0: True is not an integer"),
        ({"addresses": np.array([0.5, 1])}, "addresses has numbers of type float64, not integers: row 0 is 0.5"),
        ({"addresses": [[1, 2]]}, "addresses has 2 dimensions, not one"),
        ({"addresses": 5}, "addresses has 0 dimensions, not one"),
        ({"source_ids": [0, 0x10000]}, "source_ids, row 1: 65536 is not a number of 16 bits"),
        ({"source_ids": np.array([0, -3], np.int8)}, "source_ids, row 1: -3 is not a number of 16 bits"),
        ({"writes": [1, 0]}, "writes, row 0: 1 is neither true nor false; the array is of int64"),
        ({"pasids": [5, 1 << 20]}, "pasids, row 1: 0x100000 is not a number of 20 bits, or 0xffffffff for none"),
        ({"roots": [0, 1 << 64]}, f"roots, row 1: {1 << 64} is not a number of 64 bits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_request_can_have(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError) as error:
        ask(**changes)
    assert str(error.value) == said


def test_any_integers_will_do() -> None:
    assert ask() == ([0x1000, 0x2000], [0, 0])
    assert ask(source_ids=np.array([0x20, 0x20], np.int8), addresses=np.array([4096, 8192], np.int32)) == ask()
    assert ask(addresses=[(1 << 64) - 1, 0]) == ([(1 << 64) - 1, 0], [0x83, 0])
    assert ask(addresses=np.array([0x1000, 0x2000], object)) == ask()
    assert ask(pasids=[5, NO_PASID]) == ask()
    assert ask(addresses=range(0x1000, 0x3000, 0x1000)) == ask()
