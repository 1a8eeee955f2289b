"""Scripts: arrays of operations, as the agent reads them from memory."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from qemu.vtd.agent.image import number


class Op(IntEnum):
    """What an operation does. What it reads takes the place of its own value."""

    END = number("OP_END")
    WRITE_32 = number("OP_WRITE_32")
    WRITE_64 = number("OP_WRITE_64")
    READ_32 = number("OP_READ_32")
    READ_64 = number("OP_READ_64")
    SKIP = number("OP_SKIP")
    """Leaves out as many operations as the address says, if the one before has read none of the value's bits."""


OPERATION = np.dtype([("op", "<u4"), ("address", "<u4"), ("value", "<u8")])
"""One operation in memory."""


def script(operations: Iterable[tuple[Op, int, int]]) -> NDArray[np.void]:
    """Operations as an array; each is its kind, a physical address below 4 GiB, and a value."""
    return np.array(list(operations), dtype=OPERATION)
