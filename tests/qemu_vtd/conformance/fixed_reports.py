"""Reports with fixed results, made without a QEMU."""

from __future__ import annotations

from qemu.vtd.conformance.judge import Result, Verdict, judge, on_profile
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.quirks import quirks_of

OLD = (7, 2, 22)
MODEL_ONLY = "legacy.requests.translated-blocked"
IDS = (
    "legacy.context.not-present",
    "legacy.record.all-bits",
    "legacy.reserved.all-ones",
    "legacy.compression.same-device",
    MODEL_ONLY,
)


def report(*ids: str, differs: str = "") -> Report:
    """QEMU 7.2.22 as its quirks predict it, on these scenarios; the one named `differs` misses its fault record."""
    by_id = {scenario.id: scenario for scenario in catalogue()}
    results = [_result(by_id[id_], missing_fault=id_ == differs) for id_ in ids or IDS]
    return Report("/opt/qemu-system-x86_64", OLD, results, seconds=0.5)


def _result(scenario: Scenario, *, missing_fault: bool) -> Result:
    if scenario.id == MODEL_ONLY:
        return Result(scenario, scenario.expect, None, Verdict.MODEL_ONLY, "no device sends it")
    if scenario.setup.needs or ("flts", "on") in scenario.setup.properties:
        return Result(scenario, scenario.expect, None, Verdict.NOT_APPLICABLE, "7.2 does not offer it")
    quirky = any(scenario.id in quirk.scenarios for quirk in quirks_of(OLD))
    seen = scenario.allowed[0].lines if scenario.allowed and not quirky else on_profile(scenario, OLD)
    if missing_fault:
        seen = tuple(line for line in seen if not line.startswith("fault"))
    return Result(scenario, scenario.expect, seen, *judge(scenario, scenario.expect, seen, OLD))
