"""`vtd explain`: what a fault means and where to look."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iommu.cli.sources import Chosen, takes_snapshot

if TYPE_CHECKING:
    from iommu.engine.interrupts.request import InterruptOutcome
    from iommu.engine.request import Outcome
    from iommu.explain import Explanation
    from iommu.explain.report import FaultReport
    from iommu.snapshot import Snapshot

What = Annotated[
    list[str] | None,
    typer.Argument(
        help="A log line, a reason (0x05, LGN.2), a fault record in hexadecimal, a file, or - for standard input."
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--snapshot",
        metavar="SNAPSHOT",
        help="Registers and memory, to show exactly what failed. Without WHAT: the faults recorded there.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot(State)
def explain(source: Chosen, what: What = None, as_json: Json = False) -> None:
    """Explain a VT-d fault: what it means and where to look first.

    The fault can come from dmesg, a fault recording register, a reason, a snapshot, or a running machine.
    """
    from iommu.errors import MisuseError

    if not what and not source:
        raise MisuseError("nothing to explain: give a log line, a reason, a fault record, a file, - or --snapshot")
    with source.open() if source else nullcontext() as taken:
        _explain(what, taken, as_json)


def _explain(what: list[str] | None, taken: Snapshot | None, as_json: bool) -> None:
    from iommu.cli import output
    from iommu.errors import MisuseError
    from iommu.explain import explain as explain_text
    from iommu.explain import group
    from iommu.explain.linux import lost_faults
    from iommu.files.text import safe

    text, is_log = _read(what) if what else ("", True)
    found = explain_text(text) if what or taken is None else group(taken.faults())
    if not found and not is_log:
        raise MisuseError(f"{safe(text[:60])!r} is not a fault reason, a fault record, or a log line with a fault")
    if as_json:
        output.print_json([to_dict(each, taken) for each in found])
        return
    out = output.console()
    for number, each in enumerate(found):
        if number:
            out.print()
        for text_line in [*describe(each), *_in_snapshot(each, taken)]:
            out.print(text_line)
    if not found:
        out.print(f"no VT-d fault in {len(text.splitlines())} lines" if what else "no fault is recorded")
    if lost_faults(text.splitlines()):
        out.print("further faults were lost (FSTS.PFO): there were more than the unit could record")


def _read(what: list[str]) -> tuple[str, bool]:
    """The text to explain, and whether it is a log, which need not contain a fault. Raises InputError."""
    from iommu.files.reading import STDIN
    from iommu.files.reading import text as read_text

    if len(what) > 1:
        return " ".join(what), False
    path = Path(what[0])
    try:
        is_input = path == STDIN or path.is_file() or path.is_fifo()
    except (OSError, ValueError):  # a log line can be longer than the longest file name
        is_input = False
    return (read_text(path), True) if is_input else (what[0], False)


def describe(found: Explanation) -> list[Any]:
    """The explanation as lines for people."""
    from iommu.cli.output import line

    lines: list[Any] = []
    if found.report.source_id is not None:
        lines.append(line((str(found.report.source_id), "bold"), f"  {_what(found)}"))
    if found.reason is None or found.advice is None:
        lines.append(
            line(
                (f"{found.report.code:#04x}", "bold"), "  no public meaning: reserved, or defined in a newer revision"
            )
        )
        return lines
    reason = found.reason
    lines.append(line((f"{reason.value:#04x}  {reason.condition}", "bold yellow"), f"  {reason.meaning}"))
    lines.append(line(f"  {found.advice.means} (spec {reason.section}; {_mode(reason.value)})"))
    lines.append(line(f"  {_QUALIFIED[reason.qualified]}"))
    lines += [line(("  the address: ", "bold"), guess) for guess in found.guesses]
    lines.append(line(("  where to look:", "bold")))
    lines += [line(f"    - {place}") for place in found.advice.look]
    return lines


def _in_snapshot(found: Explanation, snapshot: Snapshot | None) -> list[Any]:
    """What the tables in the snapshot do with the reported request, and what follows from that."""
    from iommu.cli.output import line
    from iommu.cli.walk import describe, outcome_in
    from iommu.snapshot.request import request_of

    request = request_of(found.report)
    if snapshot is not None and found.report.index is not None:
        return _interrupt_in(found.report, snapshot)
    if snapshot is None or request is None:
        return []
    outcome = outcome_in(snapshot, request)
    lines = [line(("  in the snapshot:", "bold"))]
    lines += [line("    ").append_text(text) for text in describe(request, outcome)]
    lines.append(line(("  which means: ", "bold"), verdict(found.report.code, outcome)))
    return lines


def _interrupt_in(report: FaultReport, snapshot: Snapshot) -> list[Any]:
    """The remapping entry of the reported interrupt, field by field, and what follows from it."""
    from iommu.cli.output import line
    from iommu.snapshot.interrupt import remap_in

    if report.source_id is None or report.index is None:
        return []
    seen = remap_in(snapshot.unit_for(report.source_id), report.source_id, report.index)
    dump = (
        ["cannot be read: there is no memory at this address"]
        if seen.entry is None
        else seen.entry.dump().splitlines()
    )
    lines = [
        line(("  in the snapshot:", "bold"), f" the entry at index {report.index:#x}, address {seen.address:#x}")
    ]
    lines += [line(f"    {text}") for text in dump]
    lines.append(line(("  which means: ", "bold"), verdict(report.code, seen.outcome)))
    return lines


def verdict(code: int, outcome: Outcome | InterruptOutcome) -> str:
    """What follows for a reported fault from the outcome of its request in the snapshot."""
    if outcome.fault is not None and outcome.fault.value == code:
        return "the tables still cause this fault: look at the entry in the last step"
    if outcome.fault is not None:
        return (
            "the tables have changed since, or the unit used stale entries: now the fault would be "
            f"{outcome.fault.value:#04x} {outcome.fault.condition}"
        )
    if getattr(outcome, "passed", False) or getattr(outcome, "host_address", 0) is None:
        return "with the unit in this state, no fault would be raised"
    return (
        "the tables allow this request: they have changed since, or the unit used a stale translation because an "
        "invalidation was missing (or because a table entry was not flushed from the CPU's caches)"
    )


_QUALIFIED = {
    True: "Qualified: if FPD is set in the device's entry, the request is still blocked, but not recorded.",
    False: "Not qualified: always recorded, even if FPD is set.",
}


def _mode(code: int) -> str:
    if code < 0x20:
        return "legacy mode"
    return "interrupt remapping" if code < 0x30 else "scalable mode"


def _what(found: Explanation) -> str:
    """The request: its kind, PASID, flags, addresses or indices, and how often it was reported."""
    report = found.report
    kind = f"DMA {report.kind}" if report.index is None else "interrupt"
    parts = ["DMA" if report.kind is None else kind]
    if report.address_type:
        parts.append(report.address_type.name.lower().replace("_", " "))
    if report.pasid is not None:
        parts.append(f"PASID {report.pasid:#x}")
    parts += [word for word, is_set in (("execute", report.execute), ("privileged", report.privileged)) if is_set]
    if found.first is not None:
        place = "address" if report.index is None else "index"
        same = found.first == found.last
        parts.append(f"{place} {found.first:#x}" if same else f"{place} {found.first:#x} to {found.last:#x}")
    if found.count > 1:
        parts.append(f"{found.count} times")
    return ", ".join(parts)


def to_dict(found: Explanation, snapshot: Snapshot | None) -> dict[str, Any]:
    """The explanation as plain data."""
    from iommu.cli import walk
    from iommu.snapshot.interrupt import remap_in
    from iommu.snapshot.request import request_of

    seen: dict[str, Any] | None = None
    request = None if snapshot is None else request_of(found.report)
    if snapshot is not None and found.report.index is not None and found.report.source_id is not None:
        source_id = found.report.source_id
        interrupt = remap_in(snapshot.unit_for(source_id), source_id, found.report.index)
        seen = {
            "entry": interrupt.address,
            "raw": None if interrupt.entry is None else hex(interrupt.entry.raw),
            "fault": None if interrupt.outcome.fault is None else interrupt.outcome.fault.value,
            "verdict": verdict(found.report.code, interrupt.outcome),
        }
    elif snapshot is not None and request is not None:
        outcome = walk.outcome_in(snapshot, request)
        seen = walk.to_dict(request, outcome) | {"verdict": verdict(found.report.code, outcome)}

    reason, advice = found.reason, found.advice
    return _report_to_dict(found.report) | {
        "count": found.count,
        "first": found.first,
        "last": found.last,
        "condition": None if reason is None else reason.condition,
        "meaning": None if reason is None else reason.meaning,
        "qualified": None if reason is None else reason.qualified,
        "section": None if reason is None else reason.section,
        "means": None if advice is None else advice.means,
        "look": [] if advice is None else list(advice.look),
        "guesses": list(found.guesses),
        "in_snapshot": seen,
    }


def _report_to_dict(report: FaultReport) -> dict[str, Any]:
    return {
        "code": report.code,
        "source_id": None if report.source_id is None else str(report.source_id),
        "kind": report.kind,
        "pasid": report.pasid,
        "address_type": report.address_type.name.lower(),
        "execute": report.execute,
        "privileged": report.privileged,
        "origin": report.origin,
    }
