"""The checklist: every rule of the specification that the project knows, and what stands behind each."""

from qemu.vtd.conformance.checklist.rules import AREAS, RULES, Rule, selected

__all__ = ["AREAS", "RULES", "Rule", "selected"]
