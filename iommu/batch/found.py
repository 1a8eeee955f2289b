"""What a request finds in the tables above the stages: a way to its host address, and where its tables begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iommu.batch.arrays import Int64
from iommu.batch.words import Words

READERS = tuple[Words, Words]
"""The memory as accesses see it that do not snoop, and as those do that snoop."""


class Found(NamedTuple):
    """For each request: by which way it is translated, and from where.

    Attributes:
        way: the number of the way; 0 for a request that is blocked.
        first, second: the top tables of the two stages, as numbers of quadwords, as far as the way has them.
        reason: of a blocked request.
        fpd: FPD of the entries that were read.
    """

    way: Int64
    first: Int64
    second: Int64
    reason: Int64
    fpd: Int64

    @classmethod
    def nothing(cls, count: int) -> Found:
        """Zeroes."""
        return cls(*np.zeros((5, count), np.int64))

    def put(self, rows: Int64, other: Found) -> None:
        """Set some of the rows."""
        for mine, its in zip(self, other, strict=True):
            mine[rows] = its

    def part(self, rows: Int64) -> Found:
        """Some of the rows."""
        return Found(*(column.take(rows) for column in self))

    def block(self, rows: Int64, reason: int | Int64, fpd: int | Int64) -> None:
        """Requests are blocked."""
        self.reason[rows] = reason
        self.fpd[rows] |= fpd
