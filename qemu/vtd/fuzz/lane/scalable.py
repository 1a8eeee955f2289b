"""Worlds of scalable mode, with a second stage or a first stage."""

from __future__ import annotations

import numpy as np

from iommu import RemappingUnit
from iommu.structures import (
    FirstStageEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    ScalableRootHalf,
)
from qemu.vtd.fuzz.lane.areas import Places, Words
from qemu.vtd.fuzz.lane.edits import Edit, edits_of, flips, without
from qemu.vtd.fuzz.lane.legacy import AW, address_edits, root_edits, second_stage_rights
from qemu.vtd.fuzz.lane.worlds import Choices, Mode, Upper

U64 = np.uint64
_FIRST_RIGHTS = FirstStageEntry.bits_of("P", "RW", "US")
MARKS = FirstStageEntry.bits_of("A", "D")


class Scalable(Mode):
    """The tables above the stage. Requests have no PASID, and use that of number 0.

    Args:
        unit: a unit like that of the machine.
        source_id: of the device that does the DMA.
    """

    _pointer = 0
    _kind = PasidTranslationType.SECOND_STAGE

    def __init__(self, unit: RemappingUnit, source_id: int) -> None:
        capabilities, formats = unit.capabilities, unit.formats
        width = capabilities.host_address_width
        self.width = width
        self._context = 4 * (source_id & 0x7F)
        self._domains = (1 << capabilities.domain_id_bits) - 1
        root = edits_of(ScalableRootHalf, formats.scalable_root.reserved(1), width)
        # The other half of the root entry, which serves other devices.
        root[1] += flips(ScalableRootHalf, formats.scalable_root.reserved(1), 1)
        root[2] += flips(ScalableRootHalf, ScalableRootHalf.P.mask, 1)
        typical = PasidEntry.make(P=1, PGTT=self._kind, AW=2)
        self.uppers = (
            Upper("root", 2, 0, root),
            Upper("context", 4, 0, edits_of(ScalableContextEntry, formats.scalable_context.reserved(1), width)),
            Upper("directory", 1, 0, edits_of(PasidDirectoryEntry, formats.directory.reserved(1), width)),
            Upper("PASID", 8, self._pointer, edits_of(PasidEntry, formats.pasid.reserved(typical), width)),
        )
        self.pass_through = capabilities.pass_through
        self.address_edits = address_edits(capabilities.address_width)
        self.root_edits = root_edits(width)
        self._set_stage(unit)

    def _set_stage(self, unit: RemappingUnit) -> None:
        self.formats = unit.formats.second_stage(accessed_dirty=False, memory_types=False)
        self.levels = unit.capabilities.levels

    def entries(self, choices: Choices, rng: np.random.Generator) -> list[Words]:
        """See Mode. FPD is set in one entry in six of each kind."""
        n = len(choices)
        root, context, directory, pasid = (np.zeros((n, upper.size), np.uint64) for upper in self.uppers)
        root[:, 0] = ScalableRootHalf.P.mask
        kinds = (context, ScalableContextEntry), (directory, PasidDirectoryEntry), (pasid, PasidEntry)
        for entry, layout in kinds:
            entry[:, 0] = layout.P.mask | layout.FPD.mask * (rng.random(n) < 1 / 6)
        kind = np.where(choices.passes, PasidTranslationType.PASS_THROUGH, self._kind)
        width = np.array([AW.get(level, 0) for level in range(6)])[choices.levels]
        fields = kind << PasidEntry.PGTT.lsb | width << PasidEntry.AW.lsb
        pasid[:, 0] |= fields.astype(np.uint64)
        pasid[:, 1] = rng.integers(1, self._domains, n, np.uint64, endpoint=True)
        return [root, context, directory, pasid]

    def places(self, choices: Choices) -> list[Places]:
        """See Mode. The device is on bus 0, and the PASID is 0."""
        n = len(choices)
        return [np.full(n, at) for at in (0, self._context, 0, 0)]

    def rights(self, n: int, rng: np.random.Generator) -> Words:
        """See Mode."""
        return second_stage_rights(n, rng)


class FirstStage(Scalable):
    """With a first stage. Software has set accessed and dirty everywhere, so that the unit has nothing to set."""

    signed = True
    marks = MARKS
    _pointer = PasidEntry.FSPTPTR.lsb // 64
    _kind = PasidTranslationType.FIRST_STAGE

    def _set_stage(self, unit: RemappingUnit) -> None:
        self.formats = unit.formats.first_stage(extended=False)
        self.levels = (4,)

    def rights(self, n: int, rng: np.random.Generator) -> Words:
        """See Mode. One right in thirty is missing."""
        rights = np.full(n, _FIRST_RIGHTS | MARKS, np.uint64)
        missing = rng.random(n)
        rights[missing < 1 / 60] ^= U64(FirstStageEntry.RW.mask)
        rights[missing > 59 / 60] ^= U64(FirstStageEntry.US.mask)
        return rights

    def edits_of_page(self, edits: list[list[Edit]]) -> list[list[Edit]]:
        """See Mode. Few clear what the unit would set again: these cases go to the scalar engine."""
        return [edits[0], edits[1], without(edits[2], MARKS), *edits[3:]]
