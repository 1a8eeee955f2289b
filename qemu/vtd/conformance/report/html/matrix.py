"""The matrix: the scenarios by chapter, a column for each QEMU; a scenario opens to its details."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from xml.etree.ElementTree import Element

from iommu.html import element
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.html.details import details
from qemu.vtd.conformance.report.words import chapter_title, quirk_ids
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.quirks import version_text


@dataclass(frozen=True)
class Row:
    """A scenario with its result on each QEMU; None where it was not run."""

    scenario: Scenario
    results: tuple[Result | None, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on all QEMUs, each once."""
        return list(dict.fromkeys(result.verdict for result in self.results if result is not None))

    @property
    def quirks(self) -> list[str]:
        """The quirks that show on any QEMU."""
        return sorted({id_ for result in self.results if result is not None for id_ in quirk_ids(result)})


def rows_of(reports: list[Report]) -> list[Row]:
    """The scenarios of all reports, in the order of the catalogue."""
    by_report = [{result.scenario.id: result for result in report.results} for report in reports]
    scenarios = {result.scenario.id: result.scenario for report in reports for result in report.results}
    return [Row(each, tuple(results.get(id_) for results in by_report)) for id_, each in scenarios.items()]


def matrix(reports: list[Report], rows: list[Row], each: Callable[[Scenario], None]) -> Element:
    """A list of scenarios for each chapter, under one line of headings."""
    columns = f"columns-{min(len(reports), 6)}"
    headings = element(
        "div",
        element("span", "scenario"),
        (element("span", version_text(report.version), class_="cell") for report in reports),
        class_="headings",
        aria_hidden="true",
    )
    chapters = (
        _chapter(chapter, list(group), reports, each)
        for chapter, group in groupby(rows, key=lambda row: row.scenario.chapter)
    )
    return element("div", headings, chapters, class_=f"matrix {columns}")


def _chapter(chapter: str, rows: list[Row], reports: list[Report], each: Callable[[Scenario], None]) -> Element:
    return element(
        "section",
        element("h3", chapter_title(chapter), element("span", f" {len(rows)}", class_="small")),
        (_scenario(row, reports, each) for row in rows),
        class_="chapter",
        data_chapter=chapter,
    )


def _scenario(row: Row, reports: list[Report], each: Callable[[Scenario], None]) -> Element:
    scenario = row.scenario
    each(scenario)
    summary = element(
        "summary",
        element(
            "span",
            element("code", scenario.id),
            " ",
            element("span", f"spec {scenario.section}", class_="small"),
            " ",
            element("span", scenario.title, class_="title"),
            class_="what",
        ),
        _cells(row, reports),
    )
    return element(
        "details",
        summary,
        details(scenario, row.results, reports),
        id=scenario.id,
        class_="scenario",
        data_verdicts=" ".join(css_class(verdict) for verdict in row.verdicts),
        data_quirks=" ".join(row.quirks),
    )


def _cells(row: Row, reports: list[Report]) -> Iterator[Element]:
    for result, report in zip(row.results, reports, strict=True):
        who = element("span", f"QEMU {version_text(report.version)}: ", class_="who")
        if result is None:
            yield element("span", who, "not run", class_="cell")
        else:
            ids = quirk_ids(result)
            text = ", ".join(ids) if ids else result.verdict.value
            yield element("span", who, text, class_=f"cell {css_class(result.verdict)}")


def css_class(verdict: Verdict) -> str:
    """The class of everything that has the colour of a verdict."""
    return f"v-{verdict.name.lower().replace('_', '-')}"
