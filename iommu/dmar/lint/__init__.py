"""Lint: what is wrong, or odd, about a table, by rules with stable ids."""

from iommu.dmar.lint import caches, header, regions, scopes, structures, units
from iommu.dmar.lint.rules import RULES, Finding, Rule, Severity, View
from iommu.dmar.table import Table

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


def lint(table: Table) -> list[Finding]:
    """All findings, by offset, including the damage in a table that was read with strict=False."""
    view = View(table)
    found = [finding for rule in RULES.values() for finding in rule.findings(view)]
    return sorted(found, key=lambda finding: (finding.offset, finding.rule))
