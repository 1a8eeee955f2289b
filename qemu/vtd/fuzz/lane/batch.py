"""A batch, from its random numbers to the guest's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from iommu import Capabilities, RemappingUnit, SourceId
from iommu.engine.translation.translation import Translation
from qemu.vtd.fuzz.lane.areas import Image
from qemu.vtd.fuzz.lane.judge import Judge
from qemu.vtd.fuzz.lane.predictor import Expected, Predictor
from qemu.vtd.fuzz.lane.steps import Steps
from qemu.vtd.fuzz.lane.worlds import Maker, Worlds
from qemu.vtd.quirks import Quirk, profile, quirks_of, unit_with
from qemu.vtd.quirks.quirk import Version

SLOT = 5
SOURCE_ID = SourceId(0, SLOT, 0)
"""The device is B of the plain topology."""
LENGTH = 4
_SAMPLED = 1 / 1000
# Every so many batches, each case has a root table of its own, which is slower.
_OWN_ROOTS = 4


@dataclass(frozen=True)
class Target:
    """The QEMU that batches are made for.

    Attributes:
        version, capabilities: what it is, and what its unit offers.
        registers, device: the addresses of the unit's registers and of the device's.
        table_mode: RTADDR.TTM.
        makers: of worlds that share a root table, and of worlds that have their own.
        units: for the recorder: one in which the device has no tables, one in which it has some.
        seed: all that is random, with the number of the batch.
    """

    version: Version
    capabilities: Capabilities
    registers: int
    device: int
    table_mode: int
    makers: tuple[Maker, Maker]
    units: tuple[RemappingUnit, RemappingUnit]
    seed: tuple[int, ...]


@dataclass
class Batch:
    """A batch that is ready to run.

    Attributes:
        number: of the batch.
        worlds: its cases.
        expected: what they should come to.
        alive: which cases do their DMA. The others would change tables of others.
        sample: those that the scalar engine judges too, whether or not they come out as expected.
        marked: cases in whose tables the unit has bits to set, which the batch engine does not follow.
        own_roots: each case has a root table of its own; otherwise they take turns in one.
        steps: the agent's operations.
        side: the image that it is in, and the engines that read it.
    """

    number: int
    worlds: Worlds
    expected: Expected
    alive: NDArray[np.bool_]
    sample: NDArray[np.bool_]
    marked: NDArray[np.bool_]
    own_roots: bool
    steps: Steps
    side: Side

    @contextmanager
    def at_start(self, case: int) -> Iterator[None]:
        """The image as it was before the cases up to this one had written into it."""
        image, worlds, writes = self.side.image, self.worlds, self.expected.writes
        places = np.concatenate((writes.places(np.flatnonzero(writes.there[:case])), worlds.slots))
        now = image.words[places]
        image.words[places] = 0
        image.words[worlds.slots] = worlds.choices.contents
        try:
            yield
        finally:
            image.words[places] = now


class Side:
    """An image with the engines that read it. There are two, so that a batch can be made while another runs."""

    def __init__(self, target: Target) -> None:
        self.image, self.target = Image(), target
        self.predictor = Predictor(
            target.version, self.image.memory, target.capabilities, SOURCE_ID, target.table_mode, target.units
        )
        self._steps: Steps | None = None
        self._judges: dict[str, Judge] = {}

    def make(self, number: int, cases: int) -> Batch:
        """Make a batch; the image then holds it."""
        target = self.target
        rng = np.random.default_rng([*target.seed, number])
        own_roots = number % _OWN_ROOTS == _OWN_ROOTS - 1
        maker = target.makers[own_roots]
        worlds = maker.place(maker.choose(cases, rng), LENGTH, rng)
        self.image.clear()
        self.image.put(*worlds.contents())
        expected = self.predictor.expect(worlds)
        alive = ~expected.writes.harmful()
        expected.writes.there &= alive
        steps = self._steps_for(cases)
        steps.fill(worlds, alive, shared_root=not own_roots)
        return Batch(
            number,
            worlds,
            expected,
            alive,
            rng.random(cases) < _SAMPLED,
            maker.marked(worlds),
            own_roots,
            steps,
            self,
        )

    def _steps_for(self, cases: int) -> Steps:
        if self._steps is None or len(self._steps) != cases:
            target = self.target
            self._steps = Steps(
                target.registers, target.capabilities, target.device, cases, LENGTH, target.table_mode
            )
        return self._steps

    @property
    def left(self) -> list[type[Quirk]]:
        """The quirks that only the scalar engine has."""
        return self.predictor.left

    @cached_property
    def candidates(self) -> list[type[Quirk]]:
        """The quirks that may be why a case came to the scalar engine.

        Among them are those that change what is recorded: the recorder knows that of typical tables only.
        """
        left = self.left
        return [each for each in quirks_of(self.target.version) if each in left or issubclass(each, Translation)]

    def judge(self, without: str = "") -> Judge:
        """The scalar engine with the QEMU's quirks, or with all but the one of this id."""
        if without not in self._judges:
            version = self.target.version
            kept = [quirk for quirk in quirks_of(version) if quirk.id != without]
            self._judges[without] = self._new_judge(unit_with(kept) if without else profile(version))
        return self._judges[without]

    @cached_property
    def plain_judge(self) -> Judge:
        """The scalar engine with the quirks that the batch engine follows."""
        left = self.left
        return self._new_judge(unit_with([each for each in quirks_of(self.target.version) if each not in left]))

    def _new_judge(self, unit: type[RemappingUnit]) -> Judge:
        target = self.target
        return Judge(unit, self.image.memory, target.capabilities, SOURCE_ID, target.table_mode)
