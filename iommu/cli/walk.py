"""`vtd walk`: the path of a request through the tables of a snapshot."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from iommu.cli.sources import Chosen, takes_snapshot

if TYPE_CHECKING:
    from iommu.engine.request import DmaRequest, Outcome
    from iommu.snapshot import Snapshot

Requests = Annotated[
    list[str] | None,
    typer.Option(
        "--request",
        metavar="TEXT",
        help='A DMA request, such as "00:04.0 write 0x5000"; may be repeated. Further words: pasid N, length N, '
        "privileged, execute, no-write, translation-request, translated. Default: the faults that the unit recorded.",
    ),
]
Fields = Annotated[bool, typer.Option("--fields", help="Print every field of every entry.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot()
def walk(source: Chosen, request: Requests = None, fields: Fields = False, as_json: Json = False) -> None:
    """Follow DMA requests through the tables of a snapshot, or of a running machine.

    Each step shows the entry that was read, what it says, and what was checked.
    """
    from iommu.cli import output
    from iommu.snapshot.request import parse_request, request_of

    wanted = [parse_request(text) for text in request or []]
    with source.open() as taken:
        if request is None:
            wanted = [each for report in taken.faults() if (each := request_of(report)) is not None]
        results = [(each, outcome_in(taken, each)) for each in wanted]
    if as_json:
        output.print_json([to_dict(each, outcome) for each, outcome in results])
        return
    out = output.console()
    for number, (each, outcome) in enumerate(results):
        if number:
            out.print()
        for text in describe(each, outcome, fields):
            out.print(text)
    if not results:
        out.print("no DMA fault is recorded; give a --request")


def outcome_in(snapshot: Snapshot, request: DmaRequest) -> Outcome:
    """The outcome of a request, with trace, according to the tables in the snapshot: nothing is cached."""
    return snapshot.unit_for(request.source_id).unit_without_caches().translate(request, trace=True)


def describe(request: DmaRequest, outcome: Outcome, fields: bool = False) -> list[Any]:
    """The request, each step and the result, as lines for people."""
    from iommu.cli.output import line
    from iommu.engine.trace import Step
    from iommu.snapshot.request import show_request

    lines: list[Any] = [line((show_request(request), "bold"))]
    for step in outcome.trace:
        assert isinstance(step, Step)
        style = "bold red" if step.fault is not None else ""
        lines.append(line("  ", (f"{step} (spec {step.section})", style)))
        if fields and step.view is not None:
            lines += [line((f"    {text}", "dim")) for text in step.view.dump().splitlines()[1:]]
    lines.append(line("  -> ", (result_of(outcome), "bold")))
    return lines


def result_of(outcome: Outcome) -> str:
    """The result in one line."""
    if outcome.fault is not None:
        return f"blocked, {outcome.fault}"
    if outcome.interrupt:
        return "an interrupt message"
    if outcome.host_address is None:
        return "dropped without a fault"
    rights = "".join(
        letter for letter, has in (("R", outcome.readable), ("W", outcome.writable), ("X", outcome.executable)) if has
    )
    return f"host address {outcome.host_address:#x}, page of {outcome.page_size >> 10} KiB, {rights}"


def to_dict(request: DmaRequest, outcome: Outcome) -> dict[str, Any]:
    """The request, its outcome and each step as plain data."""
    from iommu.engine.trace import Step
    from iommu.snapshot.request import show_request

    return {
        "request": show_request(request),
        "host_address": outcome.host_address,
        "page_size": outcome.page_size,
        "fault": None if outcome.fault is None else outcome.fault.value,
        "condition": None if outcome.fault is None else outcome.fault.condition,
        "interrupt": outcome.interrupt,
        "readable": outcome.readable,
        "writable": outcome.writable,
        "executable": outcome.executable,
        "steps": [_step_to_dict(step) for step in outcome.trace if isinstance(step, Step)],
    }


def _step_to_dict(step: Any) -> dict[str, Any]:
    view = step.view
    return {
        "structure": step.structure,
        "section": step.section,
        "address": step.address,
        "raw": None if step.raw is None else hex(step.raw),
        "fields": {} if view is None else {name: part.get(view.raw) for name, part in view.fields.items()},
        "checked": step.checked,
        "cached": step.cached,
        "fault": None if step.fault is None else step.fault.value,
    }
