"""Reports as JUnit XML, for a continuous-integration server."""

from __future__ import annotations

from xml.etree import ElementTree

from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.words import version_text
from qemu.vtd.conformance.runner import Report


def as_junit(reports: list[Report]) -> bytes:
    """JUnit XML: one suite per QEMU. What fails the run is a failure; what only the model can run is skipped."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"vtd conform, QEMU {version_text(report.version)}",
            tests=str(len(report.results)),
            failures=str(len(report.failures)),
            skipped=str(report.count(Verdict.MODEL_ONLY)),
            time=f"{report.seconds:.3f}",
        )
        for result in report.results:
            _add_case(suite, result, failed=result.verdict in report.terms.fails)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_case(suite: ElementTree.Element, result: Result, *, failed: bool) -> None:
    group, _, name = result.scenario.id.rpartition(".")
    case = ElementTree.SubElement(suite, "testcase", classname=group, name=name)
    if failed:
        failure = ElementTree.SubElement(case, "failure", message=result.why or result.verdict.value)
        outcomes = (("expected", result.scenario.expect), ("model", result.model), ("QEMU", result.qemu))
        failure.text = "\n".join(f"{who}: {'; '.join(lines or ('-',))}" for who, lines in outcomes)
    elif result.verdict is Verdict.MODEL_ONLY:
        ElementTree.SubElement(case, "skipped", message=result.why)
    elif result.why:
        ElementTree.SubElement(case, "system-out").text = f"{result.verdict.value}: {result.why}"
