"""`vtd explain`: what a fault means and where to look."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from iommu.explain import Explanation
    from iommu.explain.report import FaultReport

What = Annotated[
    list[str],
    typer.Argument(help="A log line, a reason (0x05, LGN.2), a fault record in hexadecimal, a file, or - for stdin."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def explain(what: What, as_json: Json = False) -> None:
    """Say what a VT-d fault means and where to look first: from dmesg, a fault record or a reason."""
    from iommu.cli import output
    from iommu.explain import explain as explain_text
    from iommu.explain.linux import lost_faults

    text, is_log = _read(what)
    found = explain_text(text)
    if not found and not is_log:
        from iommu.errors import MisuseError

        raise MisuseError(f"{output.safe(text[:60])!r} is no fault reason, fault record or log line with a fault")
    if as_json:
        output.print_json([_to_dict(each) for each in found])
        return
    out = output.console()
    for number, each in enumerate(found):
        if number:
            out.print()
        for text_line in _describe(each):
            out.print(text_line)
    if not found:
        out.print(f"no VT-d fault in {len(text.splitlines())} lines")
    if lost_faults(text.splitlines()):
        out.print("faults were lost (FSTS.PFO): more came than the unit can record, so there were others")


def _read(what: list[str]) -> tuple[str, bool]:
    """The text to explain, and whether it is a log, which may well hold no fault. Raises FormatError."""
    if len(what) > 1:
        return " ".join(what), False
    if what[0] == "-":
        return _decode(sys.stdin.buffer.read(), "standard input"), True
    path = Path(what[0])
    try:
        is_file = path.is_file()
    except OSError:  # a log line can be longer than a file's name may be
        is_file = False
    return (_decode(path.read_bytes(), str(path)), True) if is_file else (what[0], False)


def _decode(data: bytes, name: str) -> str:
    from iommu.errors import MisuseError

    if not data.strip() or b"\0" in data:
        raise MisuseError(f"{name} is {'no text' if data.strip() else 'empty'}")
    return data.decode("utf-8", "replace")


def _describe(found: Explanation) -> list[Any]:
    """The lines for people."""
    from iommu.cli.output import line
    from iommu.explain import section_of

    lines: list[Any] = []
    if found.report.source_id is not None:
        lines.append(line((str(found.report.source_id), "bold"), f"  {_what(found)}"))
    if found.reason is None or found.advice is None:
        lines.append(line((f"{found.report.code:#04x}", "bold"), "  no public meaning: reserved, or newer"))
        return lines
    reason = found.reason
    lines.append(line((f"{reason.value:#04x}  {reason.condition}", "bold yellow"), f"  {reason.meaning}"))
    lines.append(line(f"  {found.advice.means} (spec {section_of(reason)}; {_mode(reason.value)})"))
    lines.append(line(f"  {_QUALIFIED[reason.qualified]}"))
    lines += [line(("  the address: ", "bold"), guess) for guess in found.guesses]
    lines.append(line(("  where to look:", "bold")))
    lines += [line(f"    - {place}") for place in found.advice.look]
    return lines


_QUALIFIED = {
    True: "Qualified: with FPD set in the device's entry it is blocked all the same, but not recorded.",
    False: "Not qualified: always recorded, whatever FPD says.",
}


def _mode(code: int) -> str:
    if code < 0x20:
        return "legacy mode"
    return "interrupt remapping" if code < 0x30 else "scalable mode"


def _what(found: Explanation) -> str:
    """Who did what, where, how often."""
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


def _to_dict(found: Explanation) -> dict[str, Any]:
    """For programs."""
    from iommu.explain import section_of

    reason, advice = found.reason, found.advice
    return _report_to_dict(found.report) | {
        "count": found.count,
        "first": found.first,
        "last": found.last,
        "condition": None if reason is None else reason.condition,
        "meaning": None if reason is None else reason.meaning,
        "qualified": None if reason is None else reason.qualified,
        "section": None if reason is None else section_of(reason),
        "means": None if advice is None else advice.means,
        "look": [] if advice is None else list(advice.look),
        "guesses": list(found.guesses),
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
