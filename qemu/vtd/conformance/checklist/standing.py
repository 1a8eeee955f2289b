"""What stands behind each rule, after runs of the catalogue: as text, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rich.console import Console

from qemu.vtd.conformance.checklist.rules import AREAS, Rule
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.runner import Report


class Basis(Enum):
    """The strongest thing that stands behind a rule."""

    DIFFERS = "a QEMU differs, unexplained"
    QUIRK = "shown by QEMU, which departs from it in a known quirk"
    QEMU = "shown by QEMU"
    MODEL = "shown by the model only"
    NOT_MODELLED = "not modelled"


_STYLE = {
    Basis.DIFFERS: "bold red",
    Basis.QUIRK: "yellow",
    Basis.QEMU: "green",
    Basis.MODEL: "",
    Basis.NOT_MODELLED: "dim",
}


@dataclass(frozen=True)
class Standing:
    """A rule with the results of its scenarios, by the name of each QEMU."""

    rule: Rule
    results: dict[str, list[Result]]

    @property
    def basis(self) -> Basis:
        """What stands behind the rule on the QEMUs that were run."""
        seen = {result.verdict for results in self.results.values() for result in results}
        for verdict, basis in (
            (Verdict.DIFFERS, Basis.DIFFERS),
            (Verdict.QUIRK, Basis.QUIRK),
            (Verdict.GONE, Basis.QEMU),
            (Verdict.MOVED, Basis.QEMU),
            (Verdict.ALLOWED, Basis.QEMU),
            (Verdict.MOVED, Basis.QEMU),
            (Verdict.GONE, Basis.QEMU),
            (Verdict.AGREES, Basis.QEMU),
        ):
            if verdict in seen:
                return basis
        return Basis.NOT_MODELLED if self.rule.not_modelled else Basis.MODEL

    @property
    def why(self) -> str:
        """Why no QEMU shows it; empty for a rule that one shows."""
        if self.basis not in (Basis.MODEL, Basis.NOT_MODELLED):
            return ""
        reasons = {result.why for results in self.results.values() for result in results if result.qemu is None}
        return self.rule.not_modelled or self.rule.model_only or "; ".join(sorted(reasons - {""}))

    def counts(self, qemu: str) -> Counter[str]:
        """How many of the rule's scenarios have each verdict on that QEMU."""
        return Counter(result.verdict.value for result in self.results[qemu])


def standings(rules: Sequence[Rule], reports: Sequence[Report]) -> list[Standing]:
    """Each rule with the results of the scenarios that stand behind it."""
    names = [f"QEMU {'.'.join(map(str, report.version))}" for report in reports]
    if len(set(names)) < len(names):
        names = [f"{name} {report.path}" for name, report in zip(names, reports, strict=True)]
    return [
        Standing(
            rule,
            {
                name: [result for result in report.results if rule.is_shown_by(result.scenario.id)]
                for name, report in zip(names, reports, strict=True)
            },
        )
        for rule in rules
    ]


def print_checklist(all_: Sequence[Standing], console: Console) -> None:
    """Print the counts, why rules are shown by the model only, then rule by rule what stands behind it."""
    console.print(f"{len(all_)} rules", style="bold")
    for basis, number in _by_basis(all_).items():
        console.print(f"{number:5} {basis.value}", style=_STYLE[basis])
    reasons = Counter(each.why for each in all_ if each.why)
    if reasons:
        console.print("\nWhy no QEMU shows a rule:")
    for why, number in reasons.most_common():
        console.print(f"{number:5} {why}")
    area = ""
    for each in all_:
        if each.rule.area != area:
            area = each.rule.area
            console.print(f"\n{AREAS[area]}", style="bold")
        _print_rule(each, console)


def _print_rule(each: Standing, console: Console) -> None:
    console.print(f"{each.rule.id}  {each.rule.text} ({each.rule.section})", style=_STYLE[each.basis], markup=False)
    for test in each.rule.tests:
        console.print(f"    test      tests/{test}", markup=False)
    for qemu, results in each.results.items():
        if results:
            counts = ", ".join(f"{number} {verdict}" for verdict, number in each.counts(qemu).items())
            console.print(f"    scenario  {' '.join(each.rule.scenarios)}: {qemu}: {counts}", markup=False)
    if each.why:
        console.print(f"    {each.basis.value}: {each.why}", markup=False)


def _by_basis(all_: Sequence[Standing]) -> dict[Basis, int]:
    counts = Counter(each.basis for each in all_)
    return {basis: counts[basis] for basis in Basis}


def as_dict(all_: Sequence[Standing]) -> dict[str, Any]:
    """The checklist as a JSON document."""
    return {
        "counts": {basis.name.lower(): number for basis, number in _by_basis(all_).items()},
        "rules": [
            {
                "id": each.rule.id,
                "area": each.rule.area,
                "section": each.rule.section,
                "rule": each.rule.text,
                "basis": each.basis.name.lower(),
                "why": each.why,
                "tests": [f"tests/{test}" for test in each.rule.tests],
                "scenarios": {
                    qemu: {result.scenario.id: result.verdict.name.lower() for result in results}
                    for qemu, results in each.results.items()
                },
            }
            for each in all_
        ],
    }
