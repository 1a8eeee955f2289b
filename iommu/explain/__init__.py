"""What a fault means and where to look: from a kernel log, a fault recording register, or just a reason.

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
    """A fault, or several of the same kind from one device, explained.

    Attributes:
        report: the first of these faults.
        count: how many there are.
        first, last: the lowest and the highest address or index; None if the reports have none.
        reason: what the code means; None if that is not public.
        advice: None if there is no reason.
        guesses: what the addresses alone suggest.
    """

    report: FaultReport
    count: int
    first: int | None
    last: int | None
    reason: FaultReason | None
    advice: Advice | None
    guesses: tuple[str, ...]


def explain(text: str) -> list[Explanation]:
    """The faults that `text` reports; those of the same kind are grouped.

    Args:
        text: a code (0x05; decimal without 0x, as older kernels print it), the name of a condition (LGN.2), a
            fault record of 128 bits in hexadecimal, whole or as two 64-bit words, low word first; or lines of a
            kernel log.

    Raises:
        MisuseError: there is no such code or name, or the record holds no fault. A log without faults gives an
            empty list.
    """
    single = _single(text.strip())
    return group([single] if single is not None else _records(text) + list(linux.faults(text.splitlines())))


def group(reports: list[FaultReport]) -> list[Explanation]:
    """Explain faults; those with the same device, reason, kind and PASID make one explanation."""
    groups: dict[tuple[int, SourceId | None, str | None, int | None], list[FaultReport]] = {}
    for report in reports:
        groups.setdefault((report.code, report.source_id, report.kind, report.pasid), []).append(report)
    return [_explanation(each) for each in groups.values()]


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
    """A single code, name or record; None for anything else."""
    if _CODE.match(text):
        code = int(text, 16 if text[:2].lower() == "0x" else 10)
        if code > 0xFF:
            raise MisuseError(f"{text} is not a fault reason: the highest is 255 (0xff)")
        return FaultReport(code, origin=text)
    if _NAME.match(text):
        name = text.upper().replace(".", "_")
        if name not in FaultReason.__members__:
            raise MisuseError(f"{text} is not a fault condition; {_like(name)}")
        return FaultReport(FaultReason[name], origin=text)
    if found := _RECORD.match(text):
        return from_record(int(found[1], 16))
    return None


def _like(name: str) -> str:
    """A hint: the conditions that begin with the same letters; if there are none, all the beginnings."""
    similar = [reason.condition for reason in FaultReason if reason.name.startswith(name[:3])]
    if similar:
        return "similar ones are " + ", ".join(similar)
    return "names begin with " + ", ".join(sorted({reason.condition.split(".")[0] for reason in FaultReason}))


def _records(text: str) -> list[FaultReport]:
    """Lines of two 64-bit words: recording registers as a debugger or monitor dumps them, without empty ones."""
    found = (_WORDS.match(line.strip()) for line in text.splitlines())
    pairs = [(int(match[1], 16), int(match[2], 16)) for match in found if match is not None]
    return [from_record(_join(first, second)) for first, second in pairs if (first | second) >> 63]


def _join(first: int, second: int) -> int:
    """Low word first, as in the registers; the other way round if only that order gives a valid record."""
    if first & _SID_BITS and not second & _SID_BITS:
        first, second = second, first
    return second << 64 | first


__all__ = ["ADVICE", "Advice", "Explanation", "FaultReport", "explain", "from_record", "group"]
