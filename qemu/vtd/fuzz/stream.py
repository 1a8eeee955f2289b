"""The cases of one mode on one QEMU: batches in their order, and what came of them.

Results are merged in the order of the batches, whatever order they arrive in, and what a batch learns counts from
`LAG` batches later on. So the cases, and the end of a campaign, do not depend on how many processes run it, or on
where it was interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from qemu.vtd.fuzz.case import Found
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lanes import Batch, Result
from qemu.vtd.fuzz.learning import Learning

LAG = 16
"""So many batches can be under way at once."""
_GROUPS = 200
"""Of further groups only their number is kept."""


@dataclass
class Group:
    """Differences that are alike.

    Attributes:
        first: the first of them.
        count: how many there were.
        smallest: the first, shrunk and run again on a QEMU of its own; None until that is done.
        steady: whether it showed there too; if not, it takes what other cases have left behind.
    """

    first: Found
    count: int = 0
    smallest: Found | None = None
    steady: bool = True


@dataclass
class Stream:
    """One mode on one QEMU.

    Attributes:
        qemu: its path.
        version: its version.
        mode: of the cases.
        fast: whether the fast lane makes and runs them.
        setups: the units that it can give, which the batches take in turn.
        cases: how many there are to be.
        size: how many a batch has.
        seed: of the campaign.
        merged: how many batches have been merged.
        done: how many cases these had; `left_out` were not run, as their DMA would have reached the machine.
        freedoms: how often another right outcome was seen than the expected one, and why it is right.
        groups: the differences.
        further: how many differences belong to groups that are not kept.
        learning: what was reached.
        planned: for batches that are not merged, the weights that they are made with.
    """

    qemu: str
    version: str
    mode: str
    setups: tuple[str, ...]
    cases: int
    size: int
    seed: int
    fast: bool = False
    merged: int = 0
    done: int = 0
    left_out: int = 0
    further: int = 0
    freedoms: Counter[str] = field(default_factory=Counter)
    groups: dict[Likeness, Group] = field(default_factory=dict)
    learning: Learning = field(default_factory=Learning)
    planned: dict[int, Mapping[str, int]] = field(default_factory=dict)
    handed_out: int = 0
    waiting: dict[int, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.handed_out = self.merged

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-self.cases // self.size)

    @property
    def finished(self) -> bool:
        """Whether all batches have been merged."""
        return self.merged >= self.batches

    def next(self) -> Batch | None:
        """The next batch to run; None when there is none, or when an earlier one has to be merged first."""
        if self.handed_out >= min(self.batches, self.merged + LAG):
            return None
        self.handed_out += 1
        return self.batch(self.handed_out - 1)

    def batch(self, number: int) -> Batch:
        """A batch that is not merged yet."""
        cases = range(number * self.size, min((number + 1) * self.size, self.cases))
        setup = self.setups[number % len(self.setups)]
        return Batch(self.seed, self.mode, number, cases, setup, self.planned.get(number, {}))

    def take(self, number: int, result: Result) -> list[Likeness]:
        """Take the result of a batch. Returns the groups that are new now."""
        self.waiting[number] = result
        new: list[Likeness] = []
        while (ready := self.waiting.pop(self.merged, None)) is not None:
            new += self._merge(ready)
        return new

    def _merge(self, result: Result) -> list[Likeness]:
        new = []
        self.done += result.cases
        self.left_out += result.left_out
        self.further += result.further
        self.freedoms.update(result.freedoms)
        for number in sorted(result.differences):
            likeness, found = result.differences[number]
            if likeness not in self.groups:
                if len(self.groups) >= _GROUPS:
                    self.further += 1
                    continue
                self.groups[likeness] = Group(found)
                new.append(likeness)
            self.groups[likeness].count += 1
        self.learning.learn(result.reached)
        self.planned.pop(self.merged, None)
        self.planned[self.merged + LAG] = dict(self.learning.weights)
        self.merged += 1
        return new
