"""What a fault means and where to look: from a kernel's log, a fault recording register, or a bare reason.

for found in explain("DMAR: [DMA Write] Request device [00:1f.2] fault addr 7ff000 [fault reason 05] ..."):
    print(found.report.source_id, found.reason, found.advice.look[0])
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from iommu.engine.reasons import FaultReason
from iommu.engine.request import SourceId
from iommu.errors import MisuseError
from iommu.explain import linux
from iommu.explain.advice import ADVICE, Advice
from iommu.explain.report import FaultReport, from_record, guess_from_address

_WORDS = re.compile(r"^(?:[0-9a-f]+:)?\s*(?:0x)?([0-9a-f]{16})[\s:_,]+(?:0x)?([0-9a-f]{16})$", re.IGNORECASE)
_RECORD = re.compile(r"^(?:0x)?([0-9a-f]{17,32})$", re.IGNORECASE)
_CODE = re.compile(r"^(0x[0-9a-f]{1,2}|\d{1,3})$", re.IGNORECASE)
_NAME = re.compile(r"^[a-z]{2,3}[._][0-9a-f]{1,2}$", re.IGNORECASE)
_SID_BITS = 0xFFF


@dataclass(frozen=True)
class Explanation:
    """One fault, or several alike of one device, explained.

    Attributes:
        report: the first of them.
        count: how many there are.
        first, last: lowest and highest address or index among them; None where the report has none.
        reason: what the code stands for; None for one without a public meaning.
        advice: None where there is no reason.
        guesses: what the addresses suggest by themselves.
    """

    report: FaultReport
    count: int
    first: int | None
    last: int | None
    reason: FaultReason | None
    advice: Advice | None
    guesses: tuple[str, ...]


def explain(text: str) -> list[Explanation]:
    """What `text` reports, faults that are alike together.

    Args:
        text: a code (0x05; decimal without 0x, as older kernels print it), a condition's name (LGN.2), a fault
            record of 128 bits in hexadecimal, or in two words of 64, low first; or lines of a kernel's log.

    Raises:
        MisuseError: a code, a name or a record that cannot be one. A log without faults is not an error.
    """
    single = _single(text.strip())
    return group([single] if single is not None else _records(text) + list(linux.faults(text.splitlines())))


def group(reports: list[FaultReport]) -> list[Explanation]:
    """Faults of one device, reason, kind and PASID count as one."""
    alike: dict[tuple[int, SourceId | None, str | None, int | None], list[FaultReport]] = {}
    for report in reports:
        alike.setdefault((report.code, report.source_id, report.kind, report.pasid), []).append(report)
    return [_explanation(each) for each in alike.values()]


def _explanation(reports: list[FaultReport]) -> Explanation:
    places = [
        place
        for report in reports
        if (place := report.index if report.address is None else report.address) is not None
    ]
    guesses = dict.fromkeys(guess for report in reports if (guess := guess_from_address(report)) is not None)
    reason = reports[0].reason
    return Explanation(
        report=reports[0],
        count=len(reports),
        first=min(places, default=None),
        last=max(places, default=None),
        reason=reason,
        advice=None if reason is None else ADVICE[reason],
        guesses=tuple(guesses),
    )


def _single(text: str) -> FaultReport | None:
    """A code, a name or a record by itself; None for anything else."""
    if _CODE.match(text):
        code = int(text, 16 if text[:2].lower() == "0x" else 10)
        if code > 0xFF:
            raise MisuseError(f"{text} is not a fault reason: they go up to 255, 0xff")
        return FaultReport(code, origin=text)
    if _NAME.match(text):
        name = text.upper().replace(".", "_")
        if name not in FaultReason.__members__:
            raise MisuseError(f"{text} is not a fault condition; there are {_like(name)}")
        return FaultReport(FaultReason[name], origin=text)
    if found := _RECORD.match(text):
        return from_record(int(found[1], 16))
    return None


def _like(name: str) -> str:
    """The conditions that begin as this one does, or else all beginnings."""
    same = [reason.condition for reason in FaultReason if reason.name.startswith(name[:3])]
    return ", ".join(same or sorted({reason.condition.split(".")[0] for reason in FaultReason}))


def _records(text: str) -> list[FaultReport]:
    """Lines of two 64-bit words: a debugger's or a monitor's dump of recording registers; empty ones left out."""
    found = (_WORDS.match(line.strip()) for line in text.splitlines())
    pairs = [(int(match[1], 16), int(match[2], 16)) for match in found if match is not None]
    return [from_record(_join(first, second)) for first, second in pairs if (first | second) >> 63]


def _join(first: int, second: int) -> int:
    """Low word first, as registers stand; the other way round where only that can be a record."""
    if first & _SID_BITS and not second & _SID_BITS:
        first, second = second, first
    return second << 64 | first


__all__ = ["ADVICE", "Advice", "Explanation", "FaultReport", "explain", "from_record", "group"]
