"""What a driver leaves behind: stale caches, wrong tables, faults, a stopped queue, misused registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from iommu.engine.reasons import FaultReason
from iommu.engine.unit import RemappingUnit
from iommu.explain.report import FaultReport, from_record
from iommu.explain.words import fault_in_words
from iommu.registers import FRCD, FSTS, IQERCD, IQH
from iommu.testing.tables import table_problems
from iommu.testing.unit import WatchedUnit


def recorded_faults(unit: RemappingUnit) -> list[FaultReport]:
    """The faults that software has not cleared, from the register that FSTS.FRI names on (spec 7.2.1, 11.4.7.1)."""
    slots = unit.registers.all(FRCD)
    first = FSTS.FRI.get(unit.registers[FSTS].value)
    values = [slot.value for slot in (*slots[first:], *slots[:first])]
    return [from_record(value) for value in values if FRCD.F.get(value)]


def assert_clean(unit: RemappingUnit, *, faults: Collection[FaultReason] = ()) -> None:
    """Raise AssertionError, with a line for each problem, unless software has left the unit as it should.

    Nothing in the caches is stale, no present entry of the tables is one that the unit refuses, no fault and no queue
    error is pending, and, on a WatchedUnit, the registers were used as specified and the last command was waited for.

    Args:
        unit: an audited unit.
        faults: the reasons of faults that the test has caused and the driver has not cleared, in any order.

    Raises:
        AssertionError: the unit is not clean.
        MisuseError: the unit is not audited.
    """
    __tracebackhide__ = True
    found = list(problems(unit, faults))
    if found:
        raise AssertionError("the unit is not clean:\n" + "\n".join(f"  {problem}" for problem in found))


def problems(unit: RemappingUnit, faults: Collection[FaultReason] = ()) -> Iterator[str]:
    """What `assert_clean` finds, a line each."""
    for stale in unit.audit():
        yield f"stale: {stale}"
    for line in table_problems(unit):
        yield f"tables: {line}"
    yield from _fault_problems(unit, faults)
    yield from _queue_problems(unit)
    if isinstance(unit, WatchedUnit):
        for misuse in unit.misuses:
            yield f"registers: {misuse}"
        if (last := unit.conduct.pending) is not None:
            yield f"registers: {last.command} was not seen to complete: {last.how} (spec 6.9)"


def _fault_problems(unit: RemappingUnit, expected: Collection[FaultReason]) -> Iterator[str]:
    missing = Counter(expected)
    for report in recorded_faults(unit):
        if report.reason is not None and missing[report.reason]:
            missing[report.reason] -= 1
        else:
            yield f"fault: {fault_in_words(report)}"
    for reason in missing.elements():
        yield f"fault: not recorded, though expected: {reason}"
    if FSTS.PFO.get(unit.registers[FSTS].value):
        count = len(unit.registers.all(FRCD))
        yield f"fault: more were lost: this unit can record {count}, and they were not cleared (FSTS.PFO, spec 7.2.1)"


def _queue_problems(unit: RemappingUnit) -> Iterator[str]:
    status = FSTS(unit.registers[FSTS].value)
    if status.IQE:
        error = IQERCD.IQEI.show(unit.registers[IQERCD].value)
        yield f"queue: stopped at the descriptor at {unit.registers[IQH].value:#x}: {error} (FSTS.IQE, spec 6.5.2.10)"
    if status.ITE:
        yield "queue: a device-TLB invalidation timed out (FSTS.ITE, spec 6.5.2.10)"
    if status.ICE:
        yield "queue: a device-TLB invalidation was completed wrongly (FSTS.ICE, spec 6.5.2.10)"
