"""Judges one scenario: the outcome on a QEMU against the specification, the model, and the known quirks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from iommu import Capabilities
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.setups import Setup
from qemu.vtd.platform import ModelPlatform
from qemu.vtd.quirks import POLICY, Version, profile, quirks_of


class Verdict(Enum):
    """Result of the comparison. Only DIFFERS is a failure: of QEMU, the model or the list of quirks.

    MODEL_ONLY is what no device can do that QEMU emulates; NOT_APPLICABLE is what this QEMU does not offer.
    """

    AGREES = "agrees"
    ALLOWED = "agrees (allowed)"
    QUIRK = "known quirk"
    MODEL_ONLY = "model only"
    NOT_APPLICABLE = "not applicable"
    DIFFERS = "DIFFERS"


WRONG_MODEL = "the model does not do what the specification says"


@dataclass(frozen=True)
class Result:
    """The result of one scenario.

    Attributes:
        model: the outcome on the model.
        qemu: the outcome on QEMU; None when QEMU cannot run the scenario.
        verdict: the result of the comparison.
        why: quirk ids, the freedom used, what QEMU lacks, or what is wrong; may be empty.
    """

    scenario: Scenario
    model: tuple[str, ...]
    qemu: tuple[str, ...] | None
    verdict: Verdict
    why: str = ""


def on_model(scenario: Scenario) -> tuple[str, ...]:
    """The outcome on the model, which follows the specification."""
    return scenario.run(ModelPlatform(scenario.setup.capabilities, topology=scenario.setup.topology))


def on_profile(scenario: Scenario, version: Version) -> tuple[str, ...]:
    """The outcome on the model with the quirks of that QEMU version."""
    return scenario.run(ModelPlatform(scenario.setup.capabilities, POLICY, profile(version), scenario.setup.topology))


def without_qemu(scenario: Scenario, model: tuple[str, ...], verdict: Verdict, why: str) -> Result:
    """The result of a scenario that this QEMU cannot run; DIFFERS when the model is wrong."""
    if model != scenario.expect:
        return Result(scenario, model, None, Verdict.DIFFERS, WRONG_MODEL)
    return Result(scenario, model, None, verdict, why)


def judge(scenario: Scenario, model: tuple[str, ...], seen: tuple[str, ...], version: Version) -> tuple[Verdict, str]:
    """The verdict on the outcome `seen` on that QEMU version, and the reason for it."""
    if model != scenario.expect:
        return Verdict.DIFFERS, WRONG_MODEL
    claimed = [quirk for quirk in quirks_of(version) if scenario.id in quirk.scenarios]
    names = ", ".join(quirk.id for quirk in claimed)
    right = {scenario.expect: ""} | {allowed.lines: allowed.because for allowed in scenario.allowed}
    if seen in right:
        if claimed:
            return Verdict.DIFFERS, f"{names} no longer shows"
        return (Verdict.ALLOWED, right[seen]) if right[seen] else (Verdict.AGREES, "")
    if claimed and seen == on_profile(scenario, version):
        return Verdict.QUIRK, names
    return Verdict.DIFFERS, f"and not as {names} predicts" if claimed else ""


# The capabilities that the catalogue's expected outcomes depend on.
_RELEVANT = (
    "address_width",
    "host_address_width",
    "levels",
    "domain_id_bits",
    "page_2m",
    "page_1g",
    "pass_through",
    "device_tlb",
    "snoop_control",
    "caching_mode",
    "page_selective",
    "max_address_mask",
    "fault_records",
    "queued_invalidation",
    "interrupt_remapping",
    "posted_interrupts",
    "coherent",
    "memory_types",
    "scalable_mode",
    "scalable_coherent",
    "abort_dma",
    "first_stage",
    "first_stage_5_level",
    "first_stage_1g",
    "extended_accessed",
    "second_stage",
    "second_stage_dirty",
    "nested",
    "pasid",
    "rid_pasid",
    "rid_priv",
    "supervisor_requests",
    "execute_requests",
    "page_requests",
)


def missing_capabilities(setup: Setup, offered: Capabilities) -> str:
    """Names of the capabilities that a setup needs and the unit does not offer; empty when there are none."""
    missing = []
    for name in setup.needs:
        have, want = getattr(offered, name), getattr(setup.capabilities, name)
        if have != want:
            missing.append(name if want is True else f"{name}={want}")
    return ", ".join(missing)


def unexpected_capabilities(setup: Setup, offered: Capabilities) -> str:
    """The other capabilities that the outcomes depend on, and that this unit has otherwise; empty when none."""
    found = []
    for name in _RELEVANT:
        have, want = getattr(offered, name), getattr(setup.capabilities, name)
        if have != want and name not in setup.needs:
            found.append(f"{name}={have}, not {want}")
    return ", ".join(found)
