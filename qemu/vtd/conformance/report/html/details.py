"""One scenario in full: what software and devices do, the outcomes, and the walk of each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from xml.etree.ElementTree import Element

from iommu.html import append, element
from qemu.vtd.conformance.judge import Result
from qemu.vtd.conformance.report.words import quirk_ids, with_reason
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.stimulus.events import record
from qemu.vtd.conformance.stimulus.walk import Box, result_of, walk_of
from qemu.vtd.conformance.stimulus.words import Step, steps_of
from qemu.vtd.quirks import QUIRKS, version_text

# The page has to open at once whatever a scenario repeats: with every bit of an entry, for example.
_MOST_STEPS, _LAST_STEPS = 60, 10
_MOST_WALKS = 8


def details(scenario: Scenario, results: Sequence[Result | None], reports: list[Report]) -> Element:
    """What a scenario opens to."""
    steps = steps_of(record(scenario))
    properties = ", ".join(f"{name}={value}" for name, value in scenario.setup.properties)
    return element(
        "div",
        element(
            "section",
            element("h4", "What software and devices do"),
            element("p", f"Unit: {scenario.setup.name}. QEMU: intel-iommu, {properties}.", class_="small"),
            element("ol", _steps(steps), class_="steps"),
        ),
        element("section", element("h4", "What is observed"), _outcomes(scenario, results, reports)),
        _walks(steps),
        class_="details",
    )


def _steps(steps: list[Step]) -> Iterator[Element]:
    """The steps; of very many, the first ones and the last ones, with the number of those between."""
    if len(steps) <= _MOST_STEPS:
        yield from map(_step, steps)
        return
    first = _MOST_STEPS - _LAST_STEPS
    yield from map(_step, steps[:first])
    yield element("li", f"... {len(steps) - _MOST_STEPS} more steps ...", class_="more")
    # The numbers of the list go on as if none were left out.
    number = len(steps) - _LAST_STEPS + 1
    for at, step in enumerate(steps[-_LAST_STEPS:]):
        made = _step(step)
        if not at:
            made.set("value", str(number))
        yield made


def _step(step: Step) -> Element:
    where = None if step.where is None else element("span", f" at {step.where:#x}", class_="small")
    detail = f"\N{RIGHTWARDS ARROW} {result_of(step.event)}" if step.event else step.detail
    return element("li", element("span", step.text), where, " ", element("code", detail), class_=step.kind)


# Outcomes.


def _outcomes(scenario: Scenario, results: Sequence[Result | None], reports: list[Report]) -> Iterator[Element]:
    """Each outcome once, with all who had it, and why."""
    had: dict[tuple[str, ...], list[str]] = {scenario.expect: ["Expected"]}
    model = next((result.model for result in results if result is not None), scenario.expect)
    had.setdefault(model, []).append("model")
    notes: dict[tuple[str, ...], dict[str, list[str]]] = {}
    without = []
    for result, report in zip(results, reports, strict=True):
        name = f"QEMU {version_text(report.version)}"
        if result is None or result.qemu is None:
            why = "not run" if result is None else f"{result.verdict.value}: {result.why}"
            without.append(element("p", element("b", name), f": {why}"))
            continue
        had.setdefault(result.qemu, []).append(name)
        notes.setdefault(result.qemu, {}).setdefault(_why(result), []).append(name)
    for lines, who in had.items():
        yield element(
            "div",
            element("h5", ", ".join(who)),
            element("pre", _marked(lines, scenario.expect)),
            (_note(why, names) for why, names in notes.get(lines, {}).items() if why),
            class_="outcome" if lines == scenario.expect else "outcome other",
        )
    yield from without


def _why(result: Result) -> str:
    """The ids of the quirks that explain an outcome; otherwise the verdict with its reason, if it has one."""
    ids = quirk_ids(result)
    if ids:
        return " ".join(ids)
    return f"{result.verdict.value}: {result.why}" if result.why else ""


def _note(why: str, names: list[str]) -> Element:
    """Who had this outcome, and why: each quirk by its title."""
    note = element("p", f"{', '.join(names)}: ")
    quirks = [quirk for quirk in QUIRKS if quirk.id in why.split()]
    for quirk in quirks:
        append(note, element("a", quirk.id, href=f"#quirk={quirk.id}", class_="quirk"))
        append(note, f" {quirk.title()} ")
    if not quirks:
        append(note, why)
    return note


def _marked(lines: tuple[str, ...], expect: tuple[str, ...]) -> Iterator[Element]:
    """The lines; those that are not expected are marked, and those that are missing are struck out."""
    for kind, was, was_end, now, now_end in SequenceMatcher(a=expect, b=lines, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from (element("span", f"{with_reason(line)}\n") for line in lines[now:now_end])
            continue
        yield from (element("del", f"{with_reason(line)}\n") for line in expect[was:was_end])
        yield from (element("mark", f"{with_reason(line)}\n") for line in lines[now:now_end])


# Walks.


def _walks(steps: list[Step]) -> Element | None:
    """The first walks, and how many are not drawn: the outcomes say how each ended."""
    requests = [step for step in steps if step.event is not None]
    if not requests:
        return None
    left_out = len(requests) - _MOST_WALKS
    more = element("p", f"... and {left_out} more.", class_="small") if left_out > 0 else None
    drawn = map(_walk, requests[:_MOST_WALKS])
    return element("section", element("h4", "The walk, as specified"), drawn, more, class_="walks")


def _walk(step: Step) -> Element:
    assert step.event is not None
    boxes = (element("li", _box(box), class_=box.state) for box in walk_of(step.event))
    return element("figure", element("figcaption", step.text), element("ol", boxes, class_="walk"))


def _box(box: Box) -> Iterator[Element]:
    yield element("b", box.title)
    if box.where:
        yield element("span", box.where, class_="small")
    if box.fields:
        yield element("code", box.fields)
    if box.note:
        yield element("span", box.note, class_="note")
