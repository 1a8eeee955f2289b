"""The fast lane as a lane of campaigns: its worlds are made by itself, and what differs becomes a case."""

from __future__ import annotations

from iommu import RemappingUnit
from iommu.errors import VtdError
from qemu.vtd.errors import QemuDied, QemuTimeout
from qemu.vtd.fuzz.actions import ACTIONS, Action, Dma
from qemu.vtd.fuzz.case import Case, Found
from qemu.vtd.fuzz.groups import Likeness, likeness
from qemu.vtd.fuzz.lane.lane import CASES, FastLane
from qemu.vtd.fuzz.lane.modes import MODES
from qemu.vtd.fuzz.lane.result import Difference, Step
from qemu.vtd.fuzz.lanes import Batch, Result, SlowLane, difference
from qemu.vtd.quirks import version_text

_LOOKED_AT = 20
"""Of the differences of a batch, so many are looked at one by one; of the others only their number is kept."""


def size_of(mode: str) -> int:
    """How many cases a batch has."""
    return min(MODES[mode].cases, CASES)


class Fast:
    """A QEMU with the agent, and beside it one that repeats what differed.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.
        unit: the class of the model's unit for what is repeated, instead of that of the QEMU's version.
    """

    def __init__(self, qemu: str | None, unit: type[RemappingUnit] | None = None) -> None:
        self._qemu, self._slow = qemu, SlowLane(qemu, unit)
        self._lane: FastLane | None = None

    def run(self, batch: Batch) -> Result:
        """See Lane."""
        try:
            found = self._fast(batch).run(batch.number, len(batch.cases))
        except (QemuDied, QemuTimeout):
            # It may have been ended from outside. If it was not, it ends again.
            self._end()
            try:
                found = self._fast(batch).run(batch.number, len(batch.cases))
            except (QemuDied, QemuTimeout) as error:
                self._end()
                return self._ended(batch, error)
        result = Result(found.cases)
        for reason in found.reasons:
            result.reached[f"{reason:#04x}" if reason else "passed"] = []
        for each in found.differences[:_LOOKED_AT]:
            number = batch.cases.start + max(each.case, 0)
            result.differences[number] = self._case(batch, each)
        result.further = len(found.differences[_LOOKED_AT:])
        return result

    def _fast(self, batch: Batch) -> FastLane:
        if self._lane is None or (self._lane.mode, self._lane.seed) != (batch.mode, batch.seed):
            self._end()
            self._lane = FastLane(self._qemu, batch.mode, batch.seed).__enter__()
        return self._lane

    def _case(self, batch: Batch, seen: Difference) -> tuple[Likeness, Found]:
        """A difference as a case: as the slow lane shows it, or as it was seen if it does not show there."""
        case = Case(batch.setup, "off", tuple(filter(None, map(_action, seen.actions))))
        terms = self._slow.terms(batch.setup)
        origin = f"seed {batch.seed}, {batch.mode}, batch {batch.number}, case {seen.case} of the fast lane"
        again = difference(case, self._slow.observe(batch.setup, case), terms, origin) if case.actions else None
        if again is not None:
            return likeness(again, terms), again
        nothing: tuple[tuple[str, ...], ...] = ((),) * len(case.actions)
        version = version_text(terms.version)
        found = Found(case, version, (*nothing, (seen.expected,)), (*nothing, (seen.seen,)), origin)
        return Likeness("fast lane", seen.what, "", ""), found

    def _ended(self, batch: Batch, error: VtdError) -> Result:
        """A batch that ends QEMU, which is all that is known of it."""
        version = version_text(self._slow.terms(batch.setup).version)
        how = f"cut short: {error.how}" if isinstance(error, QemuDied | QemuTimeout) else str(error)
        origin = f"seed {batch.seed}, {batch.mode}, batch {batch.number} of the fast lane"
        found = Found(Case(batch.setup, "off", ()), version, (("a batch that ends",),), ((how,),), origin)
        return Result(differences={batch.cases.start: (Likeness("end of QEMU", "fast lane", "", how), found)})

    def _end(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()

    def close(self) -> None:
        """See Lane."""
        self._end()
        self._slow.close()


def _action(step: Step) -> Action | None:
    """A step of the fast lane as an action; None for a read by a device that here only writes."""
    name, *values = step
    action = ACTIONS[name](*values)
    return None if isinstance(action, Dma) and action.check() else action
