"""Verdicts: which outcomes agree, which are explained, and which differ."""

from collections.abc import Callable

import pytest

from iommu import Capabilities
from qemu.vtd.conformance.judge import (
    Verdict,
    judge,
    missing_capabilities,
    on_model,
    on_profile,
    unexpected_capabilities,
    without_qemu,
)
from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.conformance.setups import NARROW, SELF_INVALIDATING, WIDE
from qemu.vtd.quirks import QUIRKS, Quirk, quirks_of

OLD, MIDDLE, NEW = (7, 2, 22), (10, 0, 13), (11, 1, 3)


def by_id(id_: str) -> Scenario:
    return next(scenario for scenario in catalogue() if scenario.id == id_)


PLAIN = by_id("legacy.context.not-present")
FREE = by_id("legacy.compression.same-device")
QUIRKY = by_id("legacy.record.all-bits")


def test_the_expected_outcome_agrees() -> None:
    assert judge(PLAIN, PLAIN.expect, PLAIN.expect, NEW) == (Verdict.AGREES, "")


def test_an_allowed_outcome_agrees_with_a_reason() -> None:
    verdict, why = judge(FREE, FREE.expect, FREE.allowed[0].lines, NEW)
    assert verdict is Verdict.ALLOWED
    assert why == FREE.allowed[0].because


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: (lines[0].replace("blocked", "0x800010"), *lines[1:]),
        lambda lines: tuple(line.replace("0x02", "0x01") for line in lines),
        lambda lines: tuple(line.replace("A 0x5000", "B 0x5000") for line in lines),
        lambda lines: tuple(line.replace("0x5000", "0x6000") for line in lines),
        lambda lines: (*lines[:-1], "FSTS PPF PFO"),
        lambda lines: lines[:-2] + lines[-1:],
    ],
    ids=["data moved", "reason", "source-id", "address", "status", "no record"],
)
def test_any_other_outcome_differs(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
    assert judge(PLAIN, PLAIN.expect, change(PLAIN.expect), NEW)[0] is Verdict.DIFFERS


def test_a_wrong_model_is_reported_even_when_qemu_is_right() -> None:
    verdict, why = judge(PLAIN, ("something else",), PLAIN.expect, NEW)
    assert verdict is Verdict.DIFFERS
    assert "model" in why


def test_a_quirk_explains_only_what_it_predicts() -> None:
    predicted = on_profile(QUIRKY, OLD)
    assert judge(QUIRKY, QUIRKY.expect, predicted, OLD) == (Verdict.QUIRK, "Q08")
    other = tuple(line.replace("0x80ffff05", "0x80fffe05") for line in predicted)
    assert judge(QUIRKY, QUIRKY.expect, other, OLD)[0] is Verdict.DIFFERS


def test_a_quirk_that_no_longer_shows_differs() -> None:
    verdict, why = judge(QUIRKY, QUIRKY.expect, QUIRKY.expect, OLD)
    assert verdict is Verdict.GONE
    assert "Q08" in why


def test_a_quirk_explains_nothing_in_a_version_without_it() -> None:
    assert judge(QUIRKY, QUIRKY.expect, on_profile(QUIRKY, OLD), NEW)[0] is Verdict.DIFFERS


def test_unexpected_capabilities_are_named_with_both_values() -> None:
    named = unexpected_capabilities(WIDE, NARROW.capabilities)
    assert named.startswith("address_width=39, not 48, ")
    assert unexpected_capabilities(WIDE, SELF_INVALIDATING.capabilities) == ""


def test_a_wrong_model_is_reported_where_qemu_cannot_run_the_scenario() -> None:
    assert without_qemu(PLAIN, PLAIN.expect, Verdict.NOT_APPLICABLE, "no such unit").verdict is Verdict.NOT_APPLICABLE
    wrong = without_qemu(PLAIN, ("something else",), Verdict.NOT_APPLICABLE, "no such unit")
    assert (wrong.verdict, wrong.qemu) == (Verdict.DIFFERS, None)
    assert "model" in wrong.why


def test_a_missing_capability_is_named() -> None:
    assert missing_capabilities(SELF_INVALIDATING, Capabilities()) == "invalidate_on_root_pointer"
    assert missing_capabilities(SELF_INVALIDATING, SELF_INVALIDATING.capabilities) == ""
    assert missing_capabilities(WIDE, SELF_INVALIDATING.capabilities) == ""


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
def test_a_quirk_changes_the_outcome_of_its_scenarios(quirk: type[Quirk]) -> None:
    """In the first of these versions that has the quirk."""
    version = next(version for version in (OLD, MIDDLE, NEW) if quirk in quirks_of(version))
    for id_ in quirk.scenarios:
        scenario = by_id(id_)
        assert on_profile(scenario, version) != scenario.expect == on_model(scenario)
