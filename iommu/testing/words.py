"""Failed comparisons in words: outcomes, faults, stale items and messages, and what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from iommu.engine.audit import StaleItem
from iommu.engine.faults.events import Message
from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, Posting
from iommu.engine.present import reserved_in_words
from iommu.engine.reasons import FaultReason
from iommu.engine.request import Outcome
from iommu.engine.trace import Step
from iommu.explain.report import FaultReport
from iommu.explain.words import fault_in_words, interrupt_in_words, reason_in_words
from iommu.testing.conduct import Misuse
from iommu.testing.expect import Expectation, blocked_by, delivers

_SINGLE = FaultReason | Message | Interrupt | Posting
_LISTED = StaleItem | Misuse | FaultReport | Message | FaultReason


def compared(op: str, left: object, right: object) -> list[str] | None:
    """The lines that explain why `left op right` failed: a summary, then the details.

    None for other values and comparisons.
    """
    if op not in ("==", "is"):
        return None
    if isinstance(left, Expectation):
        left, right = right, left
    if isinstance(left, Outcome | InterruptOutcome):
        if isinstance(right, Expectation):
            return [f"{in_short(left)} {op} {right!r}", *_expected(right), *_details(left)]
        if isinstance(right, type(left)):
            return [f"{in_short(left)} {op} {in_short(right)}", *_differences(left, right), *_details(left)]
    if isinstance(left, _SINGLE) or isinstance(right, _SINGLE):
        sides = (left, right)
        if all(side is None or isinstance(side, _SINGLE) for side in sides):
            return [f"{in_words(left)} {op} {in_words(right)}"]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and _are_listed([*left, *right]):
        return [f"{_count(left)} {op} {_count(right)}", *_listed("", left), *_listed("expected: ", right)]
    return None


def _expected(expectation: Expectation) -> Iterator[str]:
    """What was expected, if it takes more than a name."""
    if isinstance(expectation, blocked_by):
        yield f"expected: {in_words(expectation.reason)}"
    if isinstance(expectation, delivers):
        yield f"expected: {in_words(expectation.interrupt)}"


def in_short(outcome: Outcome | InterruptOutcome) -> str:
    """An outcome in a few words."""
    if isinstance(outcome, InterruptOutcome):
        return _interrupt_in_short(outcome)
    if outcome.host_address is not None:
        return f"DMA to host {outcome.host_address:#x}"
    if outcome.interrupt:
        return "an interrupt message"
    return "DMA blocked without a fault" if outcome.fault is None else f"DMA blocked by {outcome.fault.condition}"


def _interrupt_in_short(outcome: InterruptOutcome) -> str:
    if outcome.fault is not None:
        return f"an interrupt blocked by {outcome.fault.condition}"
    if outcome.remapped is not None:
        return f"an interrupt to {in_words(outcome.remapped)}"
    if outcome.posted is not None:
        return f"an interrupt posted to {in_words(outcome.posted)}"
    return "an interrupt that passed unmodified" if outcome.passed else "an interrupt blocked without a fault"


def in_words(value: object) -> str:
    """A value of the project in words."""
    match value:
        case FaultReason():
            return reason_in_words(value)
        case Message():
            return f"message {value.data:#x} to {value.address:#x}"
        case Interrupt():
            return interrupt_in_words(value)
        case Posting():
            sent = "without a notification"
            if value.notification is not None:
                sent = f"with a notification to {interrupt_in_words(value.notification)}"
            return f"the descriptor at {value.descriptor:#x}, vector {value.vector:#x}, {sent}"
        case FaultReport():
            return fault_in_words(value)
    return str(value)


def _details(outcome: Outcome | InterruptOutcome) -> Iterator[str]:
    """Why an outcome is as it is: its fault, the entry that raised it, the stale items used, the walk until then."""
    if outcome.fault is not None:
        yield f"fault: {in_words(outcome.fault)}, {'recorded' if outcome.recorded else 'not recorded'}"
    if not isinstance(outcome, Outcome):
        return
    steps = [step for step in outcome.trace if isinstance(step, Step)]
    if outcome.fault is not None and steps:
        yield from _last_step(steps.pop(), outcome.fault)
    for stale in outcome.stale:
        yield f"stale: {stale}"
    if steps:
        yield "walk:"
        yield from (f"  {step}" for step in steps)


def _last_step(step: Step, fault: FaultReason) -> Iterator[str]:
    """Where the walk of a blocked request ended. The fault itself is not repeated."""
    where = ", cached" if step.cached else "" if step.address is None else f" at {step.address:#x}"
    if step.raw is None or step.view is None:
        yield f"where: {step.structure}{where}"
        return
    found = re.fullmatch(r".*\((0x[0-9a-f]+)\)", step.checked) if "reserved" in fault.meaning else None
    wrong = f": {reserved_in_words(type(step.view), int(found[1], 16))}" if found else ""
    yield f"where: {step.structure}{where} is {step.raw:#0{step.view.bits // 4 + 2}x}{wrong}"
    if step.raw:
        yield f"  {step.view!r}"


def _differences(left: Outcome | InterruptOutcome, right: Outcome | InterruptOutcome) -> Iterator[str]:
    """The fields in which two outcomes differ. The walk does not count."""
    for name, one, other in zip(_names(left), _values(left), _values(right), strict=True):
        if one != other and name != "trace":
            yield f"{name}: {_value(one)}, expected {_value(other)}"


def _names(outcome: Outcome | InterruptOutcome) -> Sequence[str]:
    return outcome._fields if isinstance(outcome, InterruptOutcome) else ("host_address", *outcome.grant._fields)


def _values(outcome: Outcome | InterruptOutcome) -> Sequence[object]:
    return outcome if isinstance(outcome, InterruptOutcome) else (outcome.host_address, *outcome.grant)


def _value(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool | FaultReason) else in_words(value)


def _are_listed(items: Sequence[object]) -> bool:
    return bool(items) and all(isinstance(item, _LISTED) for item in items)


def _count(items: Sequence[object]) -> str:
    return f"{len(items)} {'item' if len(items) == 1 else 'items'}"


def _listed(prefix: str, items: Sequence[object]) -> Iterator[str]:
    return (f"{prefix}{in_words(item)}" for item in items)
