"""How the cost of something grows with its input: measured in the same run, as the ratio of two sizes."""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMES = 4
MOST = 10.0
"""Four times the input: four times the time if the cost is linear, a little more for n log n, 16 times for n * n."""


def growth(make: Callable[[int], T], run: Callable[[T], object], size: int) -> float:
    """The processor time for an input TIMES as large as `size`, over that for `size`; the best of two each."""
    small, large = (min(_seconds(run, make(each)) for _ in range(2)) for each in (size, size * TIMES))
    return large / small


def _seconds(run: Callable[[T], object], what: T) -> float:
    gc.collect()
    gc.disable()
    try:
        before = time.process_time()
        run(what)
        return time.process_time() - before
    finally:
        gc.enable()
