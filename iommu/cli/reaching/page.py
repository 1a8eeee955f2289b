"""What is reached as one page that needs nothing else: a chart of host memory, and all that is printed for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from iommu.cli.reaching.chart import chart
from iommu.cli.reaching.found import MachineReach, UnitReach, Wanted
from iommu.cli.reaching.show import lines_of
from iommu.html import document, element, head

_STYLE = Path(__file__).parent / "style.css"
_MOST_LINES = 200
AXIS = "Host addresses from left to right; where nothing is, the axis is cut. A column shows all that is in it."
_KEY = (
    ("w", "can be written"),
    ("r", "can be read"),
    ("bad", "matters: see below"),
    ("ram", "RAM"),
    ("own", "tables, registers, kernel"),
)


def as_html(found: MachineReach, wanted: Wanted) -> bytes:
    """The page."""
    parts = [*(_unit(found, unit, wanted) for unit in found.units), _text(found, wanted)]
    return whole(f"VT-d: who reaches what in {found.name}", parts)


def whole(title: str, parts: Sequence[Element]) -> bytes:
    """A page of these parts."""
    body = element("body", element("header", element("h1", title)), element("main", parts))
    return document(element("html", head(title, _STYLE.read_text(), ""), body, lang="en"))


def _unit(found: MachineReach, unit: UnitReach, wanted: Wanted) -> Element:
    drawn = chart(found, unit, wanted)
    return element(
        "section",
        element("h2", f"Unit at {unit.register_base:#x}"),
        element("p", legend(_KEY), class_="legend"),
        element("div", drawn, class_="chart")
        if drawn is not None
        else element("p", "Nothing is reached by page tables."),
        element("p", AXIS, class_="small"),
    )


def legend(key: Sequence[tuple[str, str]]) -> Iterator[Element]:
    """What the colours mean: the class and the text of each."""
    for kind, text in key:
        yield element("span", element("i", class_=kind), f" {text}", class_="key")


def _text(found: MachineReach, wanted: Wanted) -> Element:
    lines = []
    for indent, text in lines_of(found, wanted, _MOST_LINES):
        children: list[Element | str] = []
        at = 0
        for span in sorted(text.spans, key=lambda span: span.start):
            part = text.plain[span.start : span.end]
            children += [text.plain[at : span.start], element("span", part, class_=str(span.style))]
            at = span.end
        lines.append(element("p", [*children, text.plain[at:]], class_=f"line indent-{indent}"))
    return element("section", element("h2", "In words"), lines, class_="part")
