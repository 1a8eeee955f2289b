"""Lint: what is wrong, or odd, about a table, by rules with stable ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iommu.dmar.lint import caches, header, regions, scopes, structures, units
from iommu.dmar.lint.rules import RULES, Finding, Rule, Severity, View

if TYPE_CHECKING:
    from iommu.dmar.table import Dmar

__all__ = [
    "RULES",
    "Finding",
    "Rule",
    "Severity",
    "caches",
    "header",
    "lint",
    "regions",
    "scopes",
    "structures",
    "units",
]


def lint(table: Dmar) -> list[Finding]:
    """All findings, by offset. A table read with strict=False has its damage among them."""
    view = View(table)
    found = [finding for rule in RULES.values() for finding in rule.findings(view)]
    return sorted(found, key=lambda finding: (finding.offset, finding.rule))
