"""`vtd dmar lint`: findings, advice, verdicts."""

from dataclasses import asdict
from typing import Any

from iommu.cli.output import console, line, print_json
from iommu.dmar import Finding, Severity
from iommu.dmar.lint import RULES
from iommu.dmar.verdicts import Effect, Verdict, verdicts
from iommu.files.text import safe

_STYLES = {Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


def print_report(found: list[Finding], data: bytes, as_json: bool) -> None:
    """Print findings and verdicts of the table in `data`."""
    judged = verdicts(data)
    if as_json:
        print_json(report_to_dict(found, judged))
        return
    out = console()
    for finding in found:
        severity = finding.severity.name.lower()
        out.print(
            line((f"{severity:<8}", _STYLES[finding.severity]), f"{finding.offset:#06x}  ", (finding.rule, "bold"))
        )
        out.print(line(f"        {safe(finding.message)}"))
        out.print(line((f"        {finding.advice} [{finding.source}]", "dim")))
    counts = ", ".join(_counted(sum(f.severity == s for f in found), s.name.lower()) for s in reversed(Severity))
    out.print(line(("findings: ", "bold"), counts if found else "none"))
    for verdict in judged:
        for text in _verdict_lines(verdict):
            out.print(text)


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _verdict_lines(verdict: Verdict) -> list[Any]:
    if verdict.effect is None:
        return [line((f"{verdict.system:<8}", "bold"), f"no verdict: {verdict.source}")]
    style = (
        "green" if verdict.effect == Effect.ACCEPTS else "yellow" if verdict.effect < Effect.IGNORES_VTD else "red"
    )
    lines = [line((f"{verdict.system:<8}", "bold"), (str(verdict.effect), style), (f"  [{verdict.source}]", "dim"))]
    lines += [line(f"        {r.offset:#06x}  {safe(r.what)} ({r.source})") for r in verdict.reasons]
    return lines


def report_to_dict(found: list[Finding], judged: list[Verdict]) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "findings": [asdict(finding) | {"severity": finding.severity.name.lower()} for finding in found],
        "verdicts": [
            {
                "system": verdict.system,
                "effect": None if verdict.effect is None else verdict.effect.name.lower(),
                "source": verdict.source,
                "reasons": [asdict(reason) | {"effect": reason.effect.name.lower()} for reason in verdict.reasons],
            }
            for verdict in judged
        ],
    }


def print_rules(as_json: bool) -> None:
    """Print every rule: id, severity, what it demands, source; as JSON with its advice too."""
    rows = [
        {
            "id": rule.id,
            "severity": rule.severity.name.lower(),
            "source": rule.source,
            "says": (rule.check.__doc__ or "").strip(),
            "advice": rule.advice,
        }
        for rule in RULES.values()
    ]
    if as_json:
        print_json(rows)
        return
    out = console()
    for row in rows:
        out.print(
            line((f"{row['id']:<32}", "bold"), f"{row['severity']:<9}{row['says']}", (f" [{row['source']}]", "dim"))
        )
