"""Judges one scenario: the outcome on a QEMU against the specification, the model, and the known quirks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from iommu import Capabilities
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.setups import Setup
from qemu.vtd.platform import ModelPlatform
from qemu.vtd.quirks import NEWEST, POLICY, Version, profile, quirks_of
from qemu.vtd.quirks.freedoms import EXPECTED, freedom_of


class Verdict(Enum):
    """Result of the comparison. Which of the last three fail the run is for its `Terms` to say.

    MODEL_ONLY is what no device can do that QEMU emulates; NOT_APPLICABLE is what this QEMU does not offer. MOVED is
    a right outcome, but not the one that is pinned for the version; GONE is a right one where a quirk is known;
    DIFFERS is a wrong one, of QEMU or of the model.
    """

    AGREES = "agrees"
    ALLOWED = "agrees (allowed)"
    QUIRK = "known quirk"
    MODEL_ONLY = "model only"
    NOT_APPLICABLE = "not applicable"
    MOVED = "freedom moved"
    GONE = "quirk gone"
    DIFFERS = "DIFFERS"


WRONG_MODEL = "the model does not do what the specification says"

CHANGES = frozenset((Verdict.MOVED, Verdict.GONE, Verdict.DIFFERS))
"""The verdicts that say that a QEMU is not as it was known."""

# QEMU counts the micro version of a development tree from 50.
_DEVELOPMENT = 50


@dataclass(frozen=True)
class Terms:
    """What a QEMU is held to.

    Attributes:
        version: whose quirks and freedoms are expected of it.
        fails: the verdicts that fail the run.
    """

    version: Version
    fails: frozenset[Verdict] = CHANGES


def is_release(version: Version) -> bool:
    """Whether quirks and freedoms are known for a version: it is a release, and none newer than the newest known."""
    return version[2] < _DEVELOPMENT and version <= NEWEST


def terms_of(version: Version, old: Version | None = None, quirks_of: Version | None = None) -> Terms:
    """What a QEMU of this version is held to.

    Args:
        version: what it says it is.
        old: the version of the QEMU it is compared with: judges a build of the same version, or of no known release.
        quirks_of: the version that judges it whatever its own is.
    """
    if quirks_of is not None:
        return Terms(quirks_of, frozenset((Verdict.DIFFERS,)))
    if old is not None and (old == version or not is_release(version)):
        return Terms(old, frozenset((Verdict.DIFFERS,)))
    if version > NEWEST:
        return Terms(version, frozenset())
    return Terms(version, CHANGES if is_release(version) else frozenset((Verdict.DIFFERS,)))


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
    right = [scenario.expect, *(allowed.lines for allowed in scenario.allowed)]
    if seen in right:
        if claimed:
            return Verdict.GONE, f"{names} no longer shows"
        return _freedom(scenario, right.index(seen), version)
    if claimed and seen == on_profile(scenario, version):
        return Verdict.QUIRK, names
    return Verdict.DIFFERS, f"and not as {names} predicts" if claimed else ""


def _freedom(scenario: Scenario, used: int, version: Version) -> tuple[Verdict, str]:
    """The verdict on a right outcome, against the one that is pinned for the version."""
    because = "" if used == EXPECTED else scenario.allowed[used - 1].because
    pinned = freedom_of(scenario.id, version)
    if used == pinned:
        return (Verdict.ALLOWED, because) if because else (Verdict.AGREES, "")
    here = f"in qemu/vtd/quirks/freedoms.py for QEMU {'.'.join(map(str, version))}"
    if used == EXPECTED:
        return (
            Verdict.MOVED,
            f"it does what is expected; allowed outcome {pinned} is pinned: give that line {here} a gone=",
        )
    line = f'Freedom("{scenario.id}", {used}, "what in QEMU makes it so")'
    was = "the expected outcome" if pinned == EXPECTED else f"allowed outcome {pinned}"
    return Verdict.MOVED, f"{because}: allowed outcome {used}, where {was} is pinned; add {here}: {line}"


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
