"""What a campaign has found, for people, for programs, and as a file for each group of differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from iommu.cli.output import counted
from qemu.vtd.fuzz.case import Found, Steps, flat, write_found
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lawful import first_difference
from qemu.vtd.fuzz.stream import Group, Stream


def file_of(stream: Stream, number: int) -> str:
    """The name of the file of a stream's group, by its place among them."""
    lane = "-fast" if stream.fast else ""
    return f"qemu-{stream.version}-{stream.mode}{lane}-{number + 1}.json"


def save(folder: Path, streams: Sequence[Stream]) -> None:
    """Write a file for each group. Raises OSError."""
    for stream in streams:
        for number, group in enumerate(stream.groups.values()):
            write_found(folder / file_of(stream, number), group.smallest or group.first)


def print_summary(streams: Sequence[Stream], folder: Path, out: Console) -> None:
    """Print what has come of each stream, and the differences by group."""
    for stream in streams:
        cases = counted(stream.done, "case")
        found = sum(group.count for group in stream.groups.values()) + stream.further
        mode = f"{stream.mode}, fast" if stream.fast else stream.mode
        line = f"QEMU {stream.version}  {mode:<24}  {cases}, {len(stream.learning.reached)} outcomes reached"
        freedoms = sum(stream.freedoms.values())
        if freedoms:
            line += f", {freedoms} as right as what is expected"
        out.print(f"{line}, {counted(found, 'difference')}", markup=False)
    for stream in streams:
        for number, (like, group) in enumerate(stream.groups.items()):
            _print_group(stream, number, like, group, folder, out)


def _print_group(stream: Stream, number: int, like: Likeness, group: Group, folder: Path, out: Console) -> None:
    found = group.smallest or group.first
    out.print(f"\nQEMU {stream.version}, {stream.mode}, {counted(group.count, 'case')}: {like}", markup=False)
    if not group.steady:
        out.print("    not on a QEMU of its own: it takes what other cases have left behind", markup=False)
    for line in steps(found, only_different=True):
        out.print(f"    {line}", markup=False)
    out.print(f"    {found.origin}; vtd replay {folder / file_of(stream, number)}", markup=False)


def steps(found: Found, *, only_different: bool = False) -> list[str]:
    """A case step by step, with what was expected and seen; with `only_different`, outcomes that differ only."""
    lines = [f"start: {found.case.start} ({found.case.setup})"]
    names = [action.python().removeprefix("bench.") for action in found.case.actions] + ["at the end"]
    for number, name in enumerate(names):
        expected, seen = _step(found.expected, number), _step(found.seen, number)
        lines.append(f"{number + 1:3}  {name}")
        if expected == seen:
            lines += [] if only_different else [f"       {line}" for line in seen]
            continue
        lines += [f"       expected  {line}" for line in expected or ("nothing",)]
        lines += [f"       QEMU      {line}" for line in seen or ("nothing",)]
    return lines


def _step(steps: Steps, number: int) -> tuple[str, ...]:
    return steps[number] if number < len(steps) else ()


def as_document(streams: Sequence[Stream], folder: Path) -> dict[str, Any]:
    """The same for programs."""
    return {
        "folder": str(folder),
        "streams": [
            {
                "qemu": stream.qemu,
                "version": stream.version,
                "mode": stream.mode,
                "fast": stream.fast,
                "cases": stream.done,
                "left_out": stream.left_out,
                "reached": sorted(stream.learning.reached),
                "freedoms": dict(stream.freedoms),
                "further": stream.further,
                "differences": [
                    {
                        "kind": like.kind,
                        "where": like.where,
                        "expected": like.expected,
                        "seen": like.seen,
                        "count": group.count,
                        "steady": group.steady,
                        "file": file_of(stream, number),
                        "case": (group.smallest or group.first).plain(),
                    }
                    for number, (like, group) in enumerate(stream.groups.items())
                ],
            }
            for stream in streams
        ],
    }


def replay_document(found: Found, again: Found, right: str) -> dict[str, Any]:
    """The outcomes of a case that was run again. `right` says why a difference is none; empty if it is one."""
    step = first_difference(again.expected, again.seen)
    return {
        "qemu": again.qemu,
        "found_on": found.qemu,
        "origin": found.origin,
        "case": found.case.plain(),
        "expected": again.expected,
        "seen": again.seen,
        "differs_at": step,
        "right_because": right,
        "python": found.case.python(flat(again.expected)),
    }
