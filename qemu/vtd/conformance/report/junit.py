"""Reports as JUnit XML, for a continuous-integration server."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.runner import Report, Unusable
from qemu.vtd.quirks import version_text

_SKIPPED = (Verdict.MODEL_ONLY, Verdict.NOT_APPLICABLE)


def as_junit(reports: list[Report], unusable: Sequence[Unusable] = ()) -> bytes:
    """JUnit XML: one suite per QEMU.

    What fails the run is a failure, a QEMU on which no scenario could be run an error; a scenario that this QEMU
    cannot run is skipped.
    """
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"vtd conform, QEMU {version_text(report.version)}",
            tests=str(len(report.results)),
            failures=str(len(report.failures)),
            skipped=str(sum(report.count(verdict) for verdict in _SKIPPED)),
            time=f"{report.seconds:.3f}",
        )
        for result in report.results:
            _add_case(suite, result, failed=result.verdict in report.terms.fails)
    for each in unusable:
        suite = ElementTree.SubElement(root, "testsuite", name=f"vtd conform, {each.path}", tests="1", errors="1")
        case = ElementTree.SubElement(suite, "testcase", classname="vtd.conform", name="start")
        ElementTree.SubElement(case, "error", message=_printable(each.why))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_case(suite: ElementTree.Element, result: Result, *, failed: bool) -> None:
    group, _, name = result.scenario.id.rpartition(".")
    case = ElementTree.SubElement(suite, "testcase", classname=group, name=name)
    if failed:
        failure = ElementTree.SubElement(case, "failure", message=_printable(result.why or result.verdict.value))
        outcomes = (("expected", result.scenario.expect), ("model", result.model), ("QEMU", result.qemu))
        failure.text = _printable("\n".join(f"{who}: {'; '.join(lines or ('-',))}" for who, lines in outcomes))
    elif result.verdict in _SKIPPED:
        ElementTree.SubElement(case, "skipped", message=result.why)
    elif result.why:
        ElementTree.SubElement(case, "system-out").text = f"{result.verdict.value}: {result.why}"


def _printable(text: str) -> str:
    """What QEMU printed may hold characters that XML cannot."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)
