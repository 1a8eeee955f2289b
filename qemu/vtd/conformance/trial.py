"""One scenario on the model and on a QEMU, and the result."""

from __future__ import annotations

from qemu.vtd.conformance.judge import (
    Result,
    Verdict,
    judge,
    missing_capabilities,
    on_model,
    unexpected_capabilities,
    without_qemu,
)
from qemu.vtd.conformance.machines import Machines, NotOffered
from qemu.vtd.conformance.scenario import Scenario, describe
from qemu.vtd.platform import Unreachable


def run_one(scenario: Scenario, machines: Machines) -> Result:
    """Run one scenario on the model and on a QEMU, and compare. A QEMU that fails is replaced."""
    model = on_model(scenario)
    try:
        return _run_on_qemu(scenario, model, machines)
    except Unreachable as reason:
        return without_qemu(scenario, model, Verdict.MODEL_ONLY, str(reason))
    except NotOffered as lack:
        return without_qemu(scenario, model, Verdict.NOT_APPLICABLE, str(lack))
    except Exception as error:  # such as capabilities that make no sense: no one scenario may lose the run
        machines.failed(error)
        return without_qemu(scenario, model, Verdict.DIFFERS, describe(error))


def _run_on_qemu(scenario: Scenario, model: tuple[str, ...], machines: Machines) -> Result:
    platform = machines.get(scenario.setup)
    missing = missing_capabilities(scenario.setup, platform.capabilities)
    if missing:
        raise NotOffered(f"this QEMU does not offer {missing}")
    before = ""
    seen = scenario.observe(platform)
    if seen.cause is not None and not seen.begun:
        # The scenario has not done anything yet. What it does is seen on a QEMU that has just started.
        before = f"in the reset after {machines.last or 'the start'}: {describe(seen.cause)}"
        machines.failed(seen.cause)
        platform = machines.get(scenario.setup)
        seen = scenario.observe(platform)
    machines.last = scenario.id
    if seen.cause is not None:
        machines.failed(seen.cause)
    verdict, why = judge(scenario, model, seen.lines, machines.judge_by or platform.machine.version)
    other = unexpected_capabilities(scenario.setup, platform.capabilities)
    if before or other:
        verdict = Verdict.DIFFERS
    cause = describe(seen.cause) if verdict is Verdict.DIFFERS and seen.cause is not None else ""
    reasons = [before, other and f"the unit has {other}", cause, why]
    return Result(scenario, model, seen.lines, verdict, "; ".join(filter(None, reasons)))
