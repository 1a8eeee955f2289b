"""Worlds of legacy mode."""

from __future__ import annotations

import numpy as np

from iommu import RemappingUnit
from iommu.structures import ContextEntry, RootEntry, SecondStageEntry
from qemu.vtd.fuzz.lane.areas import Places, Words
from qemu.vtd.fuzz.lane.edits import Edit, edits_of
from qemu.vtd.fuzz.lane.worlds import Choices, Mode, Upper

U64 = np.uint64
_RIGHTS = SecondStageEntry.bits_of("R", "W")
_ALL = (1 << 64) - 1
AW = {3: 1, 4: 2, 5: 3}
"""The field of context and PASID entries, by levels."""


def address_edits(width: int) -> list[list[Edit]]:
    """What may be changed in an address: bits, the largest address, the first beyond the unit's."""
    flips = [(0, _ALL, 1 << bit) for bit in range(3, 64)]
    edges = [(0, 0xFFF, value) for value in (0, (1 << width) - 0x1000, 1 << width, _ALL & ~0xFFF)]
    return [flips, [], [], edges]


def root_edits(width: int) -> list[list[Edit]]:
    """What may be changed in a root pointer: an address of `width` bits."""
    flips = [(0, _ALL, 1 << bit) for bit in range(12, width)]
    return [flips, [], [], [(0, 0xFFF, 0), (0, 0xFFF, (1 << width) - 0x1000)]]


class Legacy(Mode):
    """See Mode.

    Args:
        unit: a unit like that of the machine.
        source_id: of the device that does the DMA.
    """

    def __init__(self, unit: RemappingUnit, source_id: int) -> None:
        capabilities, formats = unit.capabilities, unit.formats
        width = capabilities.host_address_width
        self.width = width
        self._devfn = source_id & 0xFF
        self._domains = (1 << capabilities.domain_id_bits) - 1
        typical = ContextEntry.make(P=1, AW=2)
        self.uppers = (
            Upper("root", 2, 0, edits_of(RootEntry, formats.root.reserved(1), width)),
            Upper("context", 2, 0, edits_of(ContextEntry, formats.context.reserved(typical), width)),
        )
        self.formats = formats.second_stage(accessed_dirty=False, memory_types=False)
        self.levels = capabilities.levels
        self.pass_through = capabilities.pass_through
        self.address_edits = address_edits(capabilities.address_width)
        self.root_edits = root_edits(width)

    def entries(self, choices: Choices, rng: np.random.Generator) -> list[Words]:
        """See Mode. A quarter of the context entries have FPD."""
        n = len(choices)
        root, context = np.zeros((n, 2), np.uint64), np.zeros((n, 2), np.uint64)
        root[:, 0] = RootEntry.P.mask
        context[:, 0] = ContextEntry.P.mask | ContextEntry.FPD.mask * (rng.random(n) < 0.25)
        context[choices.passes, 0] |= U64(ContextEntry.make(TT=2))
        width = np.array([AW.get(level, 0) for level in range(6)])[choices.levels]
        width[choices.passes] = max(map(AW.__getitem__, self.levels))
        domain = rng.integers(0, self._domains, n, endpoint=True) << ContextEntry.DID.lsb - 64
        ignored = rng.integers(0, 16, n) << ContextEntry.AVAIL.lsb - 64
        context[:, 1] = (width | domain | ignored).astype(np.uint64)
        return [root, context]

    def places(self, choices: Choices) -> list[Places]:
        """See Mode. The device is on bus 0."""
        n = len(choices)
        return [np.zeros(n, np.int64), np.full(n, 2 * self._devfn)]

    def rights(self, n: int, rng: np.random.Generator) -> Words:
        """See Mode."""
        return second_stage_rights(n, rng)


def second_stage_rights(n: int, rng: np.random.Generator) -> Words:
    """The rights in second-stage entries: one in thirty is missing."""
    rights = np.full(n, _RIGHTS, np.uint64)
    missing = rng.random(n)
    rights[missing < 1 / 60] = SecondStageEntry.R.mask
    rights[missing > 59 / 60] = SecondStageEntry.W.mask
    return rights
