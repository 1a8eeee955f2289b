"""The page: head, one card a QEMU, the quirks that show, filters, matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from iommu.html import document, element, head
from qemu.vtd.conformance.judge import CHANGES, Verdict
from qemu.vtd.conformance.report.html.matrix import Row, css_class, matrix, rows_of
from qemu.vtd.conformance.report.summary import headline
from qemu.vtd.conformance.report.words import chapter_title, quirks_shown
from qemu.vtd.conformance.runner import Report, Unusable
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.quirks import Quirk, Severity, version_text

_HERE = Path(__file__).parent
_BAR = 1000


def as_html(
    reports: list[Report], unusable: Sequence[Unusable] = (), each: Callable[[Scenario], None] = lambda _: None
) -> bytes:
    """The reports of one call as a page: a column for each QEMU, and those on which no scenario could be run.

    `each` is called with every scenario that is drawn.
    """
    rows = rows_of(reports)
    style, script = ((_HERE / name).read_text() for name in ("style.css", "script.js"))
    names = ", ".join(version_text(report.version) for report in reports)
    page = element(
        "html",
        head(f"VT-d conformance: QEMU {names}", style, script),
        element(
            "body",
            _header(reports, unusable, rows),
            element("main", _changed(rows), _quirks(reports), _scenarios(reports, rows, each)),
            element("script", script),
        ),
        lang="en",
    )
    return document(page)


def _header(reports: list[Report], unusable: Sequence[Unusable], rows: list[Row]) -> Element:
    return element(
        "header",
        element("h1", "QEMU's intel-iommu against the VT-d specification"),
        element(
            "p",
            f"{len(rows)} scenarios, each run on an executable model of the specification and on QEMU. "
            "What a scenario expects is written down from the specification, not taken from either.",
            class_="lead",
        ),
        element("div", [*map(_card, reports), *map(_no_card, unusable)], class_="cards"),
        element("nav", element("a", "Departures", href="#quirks"), element("a", "Scenarios", href="#scenarios")),
    )


def _card(report: Report) -> Element:
    counts = Counter(result.verdict for result in report.results)
    shown = [verdict for verdict in Verdict if counts[verdict]]
    return element(
        "section",
        element("h2", headline(report)),
        _bar(counts, len(report.results)),
        element(
            "ul",
            (
                element("li", element("b", str(counts[verdict])), f" {verdict.value}", class_=css_class(verdict))
                for verdict in shown
            ),
            class_="counts",
        ),
        element("p", report.path, class_="path"),
        (element("p", doubt) for doubt in report.doubts),
        class_="card",
    )


def _no_card(qemu: Unusable) -> Element:
    return element(
        "section",
        element("h2", "No scenario could be run"),
        element("p", qemu.why),
        element("p", qemu.path, class_="path"),
        class_="card v-differs",
    )


def _bar(counts: Counter[Verdict], total: int) -> Element:
    """The verdicts as parts of a bar; the list below it has the same numbers."""
    bar = element("svg", viewBox=f"0 0 {_BAR} 24", preserveAspectRatio="none", class_="bar", aria_hidden="true")
    left = 0.0
    for verdict in Verdict:
        width = _BAR * counts[verdict] / max(total, 1)
        if width:
            place = {"x": f"{left:.1f}", "y": "0", "width": f"{width:.1f}", "height": "24"}
            bar.append(element("rect", class_=css_class(verdict), **place))
        left += width
    return bar


def _changed(rows: list[Row]) -> Element | None:
    """Links to the scenarios that do not end as known: what a reader looks for first."""
    links = [
        element(
            "li",
            element("a", row.scenario.id, href=f"#{row.scenario.id}"),
            f" {row.scenario.title} ",
            element("b", ", ".join(verdict.value for verdict in changed), class_=css_class(changed[0])),
        )
        for row in rows
        if (changed := [verdict for verdict in row.verdicts if verdict in CHANGES])
    ]
    return element("section", element("h2", "Not as known"), element("ul", links)) if links else None


def _quirks(reports: list[Report]) -> Element | None:
    """The quirks that show on any of the QEMUs, the most dangerous for a driver first."""
    shown = {quirk.id: quirk for report in reports for quirk in quirks_shown(report.results)}
    if not shown:
        return None
    return element(
        "section",
        element("h2", "Where QEMU departs"),
        element(
            "p",
            "Each is predicted exactly: a scenario with a known quirk ends as the model with that quirk does.",
            class_="small",
        ),
        (_alike(severity, [shown[id_] for id_ in sorted(shown)], reports) for severity in Severity),
        id="quirks",
    )


def _alike(severity: Severity, quirks: list[type[Quirk]], reports: list[Report]) -> Element | None:
    """The quirks that mean the same for a driver."""
    alike = [_quirk(quirk, reports) for quirk in quirks if quirk.severity is severity]
    return element("div", element("h3", severity.value), element("ul", alike, class_="quirks")) if alike else None


def _quirk(quirk: type[Quirk], reports: list[Report]) -> Element:
    versions = [version_text(report.version) for report in reports if quirk in quirks_shown(report.results)]
    return element(
        "li",
        element("a", quirk.id, href=f"#quirk={quirk.id}", title="Show its scenarios", class_="quirk"),
        element(
            "details",
            element("summary", quirk.driver),
            element("p", element("b", "QEMU: "), quirk.title()),
            element("p", element("b", "Hardware: "), quirk.hardware),
            element("p", f"spec {quirk.section}; QEMU {', '.join(versions)}", class_="small"),
        ),
    )


def _scenarios(reports: list[Report], rows: list[Row], each: Callable[[Scenario], None]) -> Element:
    return element(
        "section", element("h2", "Scenarios"), _filters(reports, rows), matrix(reports, rows, each), id="scenarios"
    )


def _filters(reports: list[Report], rows: list[Row]) -> Element:
    """The filters; the script shows them, since without it they would do nothing."""
    chapters = dict.fromkeys(row.scenario.chapter for row in rows)
    verdicts = [verdict for verdict in Verdict if any(verdict in row.verdicts for row in rows)]
    quirks = sorted({quirk.id for report in reports for quirk in quirks_shown(report.results)})
    return element(
        "form",
        element("label", "Text", element("input", type="search", id="text", placeholder="id, title, section")),
        _select("chapter", "Chapter", {chapter: chapter_title(chapter) for chapter in chapters}),
        _select("verdict", "Verdict", {css_class(verdict): verdict.value for verdict in verdicts}),
        _select("quirk", "Quirk", {id_: id_ for id_ in quirks}),
        element("button", "Show all", type="reset"),
        element("output", f"{len(rows)} scenarios", id="count", aria_live="polite"),
        id="filters",
        hidden=True,
    )


def _select(id_: str, label: str, options: dict[str, str]) -> Element:
    return element(
        "label",
        label,
        element(
            "select",
            element("option", "any", value=""),
            (element("option", text, value=value) for value, text in options.items()),
            id=id_,
        ),
    )
