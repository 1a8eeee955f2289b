"""The words that every form of a report uses, and lines that fit the terminal."""

from __future__ import annotations

import os
import textwrap

from rich.console import Console
from rich.text import Text

from iommu import FaultReason
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.quirks import QUIRKS, Quirk

STYLE = {
    Verdict.AGREES: "green",
    Verdict.ALLOWED: "green",
    Verdict.QUIRK: "yellow",
    Verdict.MODEL_ONLY: "dim",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.MOVED: "bold yellow",
    Verdict.GONE: "bold yellow",
    Verdict.DIFFERS: "bold red",
}

_REASONS = {reason.value: reason for reason in FaultReason}
_NARROWEST = 20
# A brief outcome is one cell of a table: of scenarios that go through a register bit by bit, the first are enough.
_BRIEF_PARTS, _BRIEF_LENGTH = 4, 40
_INDENT = " " * 4


def chapter_title(chapter: str) -> str:
    """A chapter as people read it: "second stage"."""
    return chapter.replace("_", " ")


def quirk_ids(result: Result) -> list[str]:
    """The ids of the quirks that explain an outcome."""
    return result.why.split(", ") if result.verdict is Verdict.QUIRK else []


def quirks_shown(results: list[Result]) -> list[type[Quirk]]:
    """The quirks that these results show, in the order of their ids."""
    shown = {id_ for result in results for id_ in quirk_ids(result)}
    return sorted((quirk for quirk in QUIRKS if quirk.id in shown), key=lambda quirk: quirk.id)


def brief(lines: tuple[str, ...]) -> str:
    """An outcome in brief: where each DMA went, the fault codes, and status bits except PPF; cut short."""
    words = []
    for line in lines:
        if "->" in line:
            words.append(line.split(" -> ")[1])
        elif line.startswith("fault"):
            words.append(line.split()[1])
        elif line.startswith("FSTS"):
            words += [name for name in line.split()[1:] if name not in ("0", "PPF")]
        else:
            words.append(line)
    shown = [textwrap.shorten(word, _BRIEF_LENGTH, placeholder=" ...") for word in words[:_BRIEF_PARTS]]
    if len(words) > len(shown):
        shown.append(f"{len(words) - len(shown)} more")
    return ", ".join(shown) or "nothing pending"


def same_or_brief(seen: tuple[str, ...], expected: tuple[str, ...]) -> str:
    """`seen` in brief; "same" when it is as expected, and the first differing line when both read alike in brief."""
    if seen == expected:
        return "same"
    if brief(seen) != brief(expected):
        return brief(seen)
    return next((line for line in seen if line not in expected), brief(seen))


def reason_of(line: str) -> FaultReason | None:
    """The fault reason in a line of an outcome, "fault 0x05 ..."; None for every other line."""
    words = line.split()
    return _REASONS.get(int(words[1], 16)) if len(words) > 1 and words[0] == "fault" else None


def with_reason(line: str) -> str:
    """A line of an outcome, with the fault reason spelled out."""
    reason = reason_of(line)
    return f"{line}  ({reason.condition} {reason.meaning})" if reason else line


def width_of(console: Console) -> int | None:
    """The columns to keep to: of the terminal, or as COLUMNS says. None for a file or a pipe: nothing is folded."""
    told = os.environ.get("COLUMNS", "")
    asked = told.isdigit() and int(told) > 0
    return max(console.width, _NARROWEST) if console.is_terminal or asked else None


def print_hanging(console: Console, head: str, text: str, style: str = "") -> None:
    """Print `head` and `text` on a line; what does not fit continues below the text, or both below a long head."""
    width = width_of(console)
    if width is None:
        lines = [head + text]
    elif len(head) <= width // 2:
        lines = [_folded(head + text, width, indent=" " * len(head))]
    else:
        lines = [_folded(head.rstrip(), width, indent=_INDENT), _folded(_INDENT + text, width, indent=_INDENT)]
    for line in lines:
        console.print(Text(line, style))


def _folded(text: str, width: int, *, indent: str) -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)
