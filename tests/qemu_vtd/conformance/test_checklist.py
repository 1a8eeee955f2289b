"""The checklist: every rule has something behind it, all that it names exists, and nothing is left out."""

from __future__ import annotations

import ast
import json
import tomllib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from iommu import FaultReason, structures
from iommu import registers as declared
from iommu.fields import Layout
from iommu.registers import Register
from qemu.vtd.conformance.checklist import AREAS, RULES, Rule, rules, selected
from qemu.vtd.conformance.checklist.standing import Basis, as_dict, standings
from qemu.vtd.conformance.judge import Result, Verdict, on_model
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario, catalogue
from tests.command import vtd

TESTS = Path(__file__).parent.parent.parent
CATALOGUE = catalogue()


@cache
def names_in(file: Path) -> set[str]:
    """The tests in a file: functions, and the classes that stand for a state machine."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in found if name.startswith(("test_", "Test"))}


def unknown_tests(rule: Rule) -> list[str]:
    """The tests that a rule names and that do not exist."""
    missing = []
    for node in rule.tests:
        file, _, name = node.partition("::")
        if not (TESTS / file).is_file() or name not in names_in(TESTS / file):
            missing.append(node)
    return missing


def what_is_wrong(rule: Rule) -> str:
    """What keeps a rule from standing, if anything."""
    if rule.not_modelled:
        return "not modelled, but has something behind it" if rule.tests or rule.scenarios or rule.model_only else ""
    if not rule.tests and not rule.scenarios:
        return "nothing stands behind it"
    if not rule.scenarios and not rule.model_only:
        return "no scenario, and no reason why"
    if rule.scenarios and rule.model_only:
        return "a scenario, and a reason for having none"
    return "" if rule.text.endswith(".") and rule.section else "no sentence, or no section"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_has_something_behind_it(rule: Rule) -> None:
    assert what_is_wrong(rule) == ""


def test_a_rule_with_nothing_behind_it_is_found() -> None:
    test = ("engine/test_unit.py::test_default_capabilities",)
    assert what_is_wrong(Rule("X.1", "x", "1", "A rule.")) == "nothing stands behind it"
    assert what_is_wrong(Rule("X.1", "x", "1", "A rule.", test)) == "no scenario, and no reason why"
    assert what_is_wrong(Rule("X.1", "x", "1", "A rule.", test, model_only="because")) == ""
    assert unknown_tests(Rule("X.1", "x", "1", "A rule.", test)) == []
    wrong = ("engine/test_unit.py::test_nothing", "engine/test_no.py::test_default_capabilities")
    assert unknown_tests(Rule("X.1", "x", "1", "A rule.", wrong)) == [*wrong]


def test_ids_are_unique() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) > 70


def test_every_named_test_exists() -> None:
    assert {rule.id: missing for rule in RULES if (missing := unknown_tests(rule))} == {}


def test_every_named_scenario_exists() -> None:
    """Each id or pattern matches at least one scenario. The families of WHOLE may be still to come."""
    ids = [scenario.id for scenario in CATALOGUE]
    named = {(rule.id, one) for rule in RULES if not rule.id.startswith("WHOLE.") for one in rule.scenarios}
    assert [pair for pair in sorted(named) if not any(fnmatchcase(id_, pair[1]) for id_ in ids)] == []


def test_every_scenario_stands_behind_a_rule() -> None:
    """A new scenario finds its rule in qemu/vtd/conformance/checklist/*.toml, or brings one.

    The wings as a whole do not count: their patterns take in whatever has their prefix.
    """
    patterns = {pattern for rule in RULES if not rule.id.startswith("WHOLE.") for pattern in rule.scenarios}
    left = [each.id for each in CATALOGUE if not any(fnmatchcase(each.id, pattern) for pattern in patterns)]
    assert left == [], (
        "these scenarios stand behind no rule: add each id, or a pattern that matches it, to the `scenarios` of the "
        "rule it shows in qemu/vtd/conformance/checklist/*.toml (in place of a `model_only` line), then run "
        "python -m tools.tables"
    )


def test_every_fault_condition_has_a_rule() -> None:
    ids = {rule.id for rule in RULES}
    assert [reason.condition for reason in FaultReason if reason.condition not in ids] == []


REGISTERS = [
    each for each in vars(declared).values() if isinstance(each, type) and issubclass(each, Register) and each.section
]


def without_a_rule(layout: type[Layout], name: str) -> list[str]:
    """The fields of a layout that no rule is about."""
    ids = {rule.id for rule in RULES}
    covers = [pattern for rule in RULES for pattern in rule.covers]
    fields = [f"{name}.{part}" for part in layout.fields]
    return [each for each in fields if each not in ids and not any(fnmatchcase(each, one) for one in covers)]


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.__name__)
def test_every_register_field_has_a_rule(register: type[Register]) -> None:
    assert without_a_rule(register, register.__name__) == []


STRUCTURES = {
    "ROOT": "RootEntry",
    "CONTEXT": "ContextEntry",
    "SROOT": "ScalableRootHalf",
    "SCONTEXT": "ScalableContextEntry",
    "PASIDDIR": "PasidDirectoryEntry",
    "PASIDENTRY": "PasidEntry",
    "SS": "SecondStage*",
    "FS": "FirstStage*",
    "IREQ": "Compatibility* Remappable*",
    "IRTE": "RemappedInterruptEntry InterruptEntry",
    "POSTED": "PostedInterruptEntry",
    "PID": "PostedInterruptDescriptor",
    "PREQ": "PageRequestDescriptor",
    "CONTEXT_DESC": "ContextDescriptor Descriptor",
    "IOTLB_DESC": "IotlbDescriptor",
    "DEVICE_TLB_DESC": "DeviceTlbDescriptor",
    "INTERRUPT_DESC": "InterruptDescriptor",
    "WAIT_DESC": "WaitDescriptor",
    "PASID_IOTLB_DESC": "PasidIotlbDescriptor",
    "PASID_CACHE_DESC": "PasidCacheDescriptor",
    "PASID_DEVICE_TLB_DESC": "PasidDeviceTlbDescriptor",
    "RESPONSE_DESC": "PageResponseDescriptor",
}
"""What rules call each structure: the declarations of iommu.structures, as shell patterns."""
LAYOUTS = [each for each in vars(structures).values() if isinstance(each, type) and issubclass(each, Layout)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_field_of_a_structure_has_a_rule(layout: type[Layout]) -> None:
    called = [
        name
        for name, patterns in STRUCTURES.items()
        if any(fnmatchcase(layout.__name__, one) for one in patterns.split())
    ]
    assert len(called) == 1, "STRUCTURES says what rules call it"
    assert without_a_rule(layout, called[0]) == []


def test_reasons_are_all_used() -> None:
    """A reason that no rule gives any more is removed."""
    folder = Path(rules.__file__).parent
    reasons = tomllib.loads((folder / "reasons.toml").read_text())
    used = {rule.model_only for rule in RULES} | {rule.not_modelled for rule in RULES}
    assert [name for name, text in reasons.items() if text not in used] == []
    assert {path.stem for path in folder.glob("*.toml")} == {*AREAS, "reasons"}


def report(*verdicts: tuple[str, Verdict]) -> Report:
    """A report that gives some scenarios these verdicts, without a QEMU."""
    known = {scenario.id: scenario for scenario in CATALOGUE}
    return Report("/qemu", (7, 2, 0), [result(known[id_], verdict) for id_, verdict in verdicts])


def result(scenario: Scenario, verdict: Verdict) -> Result:
    lines = on_model(scenario)
    unseen = verdict in (Verdict.MODEL_ONLY, Verdict.NOT_APPLICABLE)
    return Result(scenario, lines, None if unseen else lines, verdict, "it cannot" if unseen else "")


@pytest.mark.parametrize(
    ("verdict", "basis", "why"),
    [
        (Verdict.AGREES, Basis.QEMU, ""),
        (Verdict.ALLOWED, Basis.QEMU, ""),
        (Verdict.MOVED, Basis.QEMU, ""),
        (Verdict.GONE, Basis.QEMU, ""),
        (Verdict.MOVED, Basis.QEMU, ""),
        (Verdict.GONE, Basis.QEMU, ""),
        (Verdict.QUIRK, Basis.QUIRK, ""),
        (Verdict.DIFFERS, Basis.DIFFERS, ""),
        (Verdict.MODEL_ONLY, Basis.MODEL, "it cannot"),
        (Verdict.NOT_APPLICABLE, Basis.MODEL, "it cannot"),
    ],
)
def test_the_basis_of_a_rule_is_the_verdict_on_its_scenarios(verdict: Verdict, basis: Basis, why: str) -> None:
    (lrt_1,) = (rule for rule in RULES if rule.id == "LRT.1")
    (standing,) = standings([lrt_1], [report(("legacy.root.unreadable", verdict))])
    assert (standing.basis, standing.why) == (basis, why)
    written = as_dict([standing])
    assert written["counts"][basis.name.lower()] == 1
    assert written["rules"][0]["scenarios"] == {"QEMU 7.2.0": {"legacy.root.unreadable": verdict.name.lower()}}


def test_two_qemus_of_one_version_are_told_apart() -> None:
    (lrt_1,) = (rule for rule in RULES if rule.id == "LRT.1")
    first, second = (report(("legacy.root.unreadable", verdict)) for verdict in (Verdict.AGREES, Verdict.DIFFERS))
    second.path = "/patched"
    (standing,) = standings([lrt_1], [first, second])
    assert standing.basis is Basis.DIFFERS
    assert {name: standing.counts(name).most_common() for name in standing.results} == {
        "QEMU 7.2.0 /qemu": [("agrees", 1)],
        "QEMU 7.2.0 /patched": [("DIFFERS", 1)],
    }


def test_a_rule_that_is_not_modelled_says_why() -> None:
    (sgn_9,) = selected("SGN.9")
    (standing,) = standings([sgn_9], [])
    assert (standing.basis, standing.why) == (Basis.NOT_MODELLED, "the specification has it no longer")


def test_the_command_lists_rules(build: object) -> None:
    ran = vtd("conform", "--checklist", "--only", "LRT.*", "--json")
    assert ran.returncode == 0, ran.stderr.decode()
    written = json.loads(ran.stdout)
    assert [rule["id"] for rule in written["rules"]] == ["LRT.1", "LRT.2", "LRT.3"]
    assert written["counts"]["model"] == 0
    shown = vtd("conform", "--checklist", "--only", "LRT.1")
    assert "legacy.root.unreadable" in shown.stdout.decode() and ": QEMU" in shown.stdout.decode()
    assert "tests/engine/test_translation.py::test_unreadable_root_table" in shown.stdout.decode()


def test_a_pattern_that_matches_no_rule_is_an_error() -> None:
    ran = vtd("conform", "--checklist", "--only", "no such rule")
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert "no rule's id contains or matches 'no such rule'" in ran.stderr.decode()


@pytest.mark.parametrize("option", ["--junit", "--html"])
def test_the_checklist_is_no_report_of_scenarios(option: str, tmp_path: Path) -> None:
    ran = vtd("conform", "--checklist", option, tmp_path / "rules")
    assert (ran.returncode, ran.stdout, list(tmp_path.iterdir())) == (2, b"", [])
    assert f"{option} is for scenarios" in ran.stderr.decode()
