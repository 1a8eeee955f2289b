"""Loads the rules, which stand in one TOML file an area, next to this module.

    [LRT]                       a group: what its rules have in common
    section = "7.1.3"

    [LRT.1]                     a rule, by its id
    rule = "..."                in one sentence
    tests = [...]               engine tests: files below tests/, with the function
    scenarios = [...]           of the catalogue: ids, or shell patterns of ids
    model_only = "pasid"        why no QEMU shows it: a name in reasons.toml
    not_modelled = "..."        why the engine does not have it
    covers = [...]              fields that have no rule of their own: shell patterns

Each rule has tests, scenarios or the reason for having neither: test_checklist.py sees to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent

AREAS = {
    "whole": "The wings as a whole",
    "capabilities": "Capabilities",
    "registers": "Registers and commands",
    "translation": "Translation in legacy mode",
    "scalable": "Translation in scalable mode",
    "conditions": "Fault conditions",
    "faults": "Fault recording and events",
    "caches": "Caches and invalidation",
    "queue": "The invalidation queue",
    "interrupts": "Interrupt remapping and posting",
    "requests": "Device-TLBs and page requests",
    "dmar": "The DMAR table",
}
"""The areas in the order of the list, by file name, each with its title."""


@dataclass(frozen=True)
class Rule:
    """One rule of the specification.

    Attributes:
        id: such as "LRT.1" or "GCMD.SRTP", unique.
        area: the file it stands in, a key of AREAS.
        section: the section of the specification.
        text: the rule in one sentence.
        tests: engine tests, as "engine/test_translation.py::test_unreadable_root_table" below tests/.
        scenarios: ids of the catalogue, or shell patterns of them.
        model_only: why no scenario on a QEMU shows it; empty where one does.
        not_modelled: why the engine does not have it; empty where it has.
        covers: fields of registers and structures without a rule of their own, as shell patterns.
    """

    id: str
    area: str
    section: str
    text: str
    tests: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    model_only: str = ""
    not_modelled: str = ""
    covers: tuple[str, ...] = ()

    def is_shown_by(self, scenario_id: str) -> bool:
        """Whether the scenario stands behind this rule."""
        return any(fnmatchcase(scenario_id, pattern) for pattern in self.scenarios)


def _load() -> Iterator[Rule]:
    reasons = tomllib.loads((_HERE / "reasons.toml").read_text())
    for area in AREAS:
        groups = tomllib.loads((_HERE / f"{area}.toml").read_text())
        for group, content in groups.items():
            for name, entry in content.items():
                if isinstance(entry, dict):
                    yield _rule(f"{group}.{name}", area, content.get("section", ""), entry, reasons)


def _rule(id_: str, area: str, section: str, entry: Mapping[str, Any], reasons: Mapping[str, str]) -> Rule:
    """Raises KeyError for a reason that reasons.toml lacks, TypeError for an unknown key."""
    given: dict[str, Any] = {"section": section}
    for key, value in entry.items():
        given[key] = tuple(value) if isinstance(value, list) else value
    for key in ("model_only", "not_modelled"):
        if key in given:
            given[key] = reasons[given[key]]
    return Rule(id=id_, area=area, text=given.pop("rule"), **given)


RULES: tuple[Rule, ...] = tuple(_load())
"""Every rule, area by area."""


def selected(pattern: str) -> list[Rule]:
    """The rules whose id matches a shell pattern or contains it as text."""
    return [rule for rule in RULES if fnmatchcase(rule.id, pattern) or pattern in rule.id]
