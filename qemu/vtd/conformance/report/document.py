"""A report as a JSON document."""

from __future__ import annotations

from typing import Any

from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.words import quirk_ids, reason_of
from qemu.vtd.conformance.runner import Report, Unusable
from qemu.vtd.quirks import version_text


def as_document(reports: list[Report], unusable: list[Unusable]) -> dict[str, Any]:
    """A whole run as plain data: the reports, and the QEMUs on which no scenario could be run."""
    return {
        "passed": not unusable and all(report.passed for report in reports),
        "runs": list(map(as_dict, reports)),
        "unusable": [{"qemu": each.path, "why": each.why} for each in unusable],
    }


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "qemu": report.path,
        "version": version_text(report.version),
        "quirks_of": version_text(report.terms.version),
        "doubts": list(report.doubts),
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "counts": {verdict.name.lower(): report.count(verdict) for verdict in Verdict},
        "scenarios": [_scenario(result) for result in report.results],
    }


def _scenario(result: Result) -> dict[str, Any]:
    scenario = result.scenario
    return {
        "id": scenario.id,
        "chapter": scenario.chapter,
        "setup": scenario.setup.name,
        "section": scenario.section,
        "conditions": conditions(result),
        "title": scenario.title,
        "expected": list(scenario.expect),
        "model": list(result.model),
        "qemu": None if result.qemu is None else list(result.qemu),
        "verdict": result.verdict.name.lower(),
        "quirks": quirk_ids(result),
        "why": result.why,
    }


def conditions(result: Result) -> list[str]:
    """The specification's names of the fault conditions that are expected: "LCT.3"."""
    reasons = (reason_of(line) for line in result.scenario.expect)
    return list(dict.fromkeys(reason.condition for reason in reasons if reason is not None))
