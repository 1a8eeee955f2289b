"""The catalogue on deliberately broken engines: each break must make the scenario that it names fail."""

from __future__ import annotations

import pytest

from qemu.vtd.conformance.checklist import RULES
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.platform import ModelPlatform
from tests.qemu_vtd.conformance.breaks.broken import Break, unit_of
from tests.qemu_vtd.conformance.breaks.every import BREAKS

CATALOGUE = {scenario.id: scenario for scenario in catalogue()}
ALL = [broken for wing in BREAKS.values() for broken in wing]


def test_there_are_enough_of_them_in_every_wing() -> None:
    assert len(ALL) == len(set(ALL)) >= 40
    assert all(len(wing) >= 5 for wing in BREAKS.values())


@pytest.mark.parametrize("broken", ALL, ids=lambda broken: broken.__name__)
def test_a_broken_engine_is_caught(broken: type[Break]) -> None:
    scenario = CATALOGUE[broken.scenario]
    platform = ModelPlatform(scenario.setup.capabilities, unit=unit_of(broken), topology=scenario.setup.topology)
    seen = scenario.run(platform)
    assert seen not in {scenario.expect, *(allowed.lines for allowed in scenario.allowed)}


@pytest.mark.parametrize("broken", ALL, ids=lambda broken: broken.__name__)
def test_its_scenario_stands_behind_a_rule_of_its_own(broken: type[Break]) -> None:
    """What a break violates is a rule of the checklist, not only a wing as a whole."""
    assert [rule.id for rule in RULES if rule.is_shown_by(broken.scenario) and not rule.id.startswith("WHOLE.")]
