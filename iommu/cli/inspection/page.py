"""What was found as one page that needs nothing else: the tables as a picture, and all that is printed for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from iommu.cli.inspection.show import Line, parts_of
from iommu.html import document, element, head
from iommu.snapshot.inspect.inspection import Inspection, UnitInspection

_HERE = Path(__file__).parent
_MOST_BUTTONS, _MOST_LINES = 200, 200


def as_html(found: Inspection, pictures: list[dict[str, Any]]) -> bytes:
    """The page. `pictures` has the tables of each unit, as iommu.snapshot.inspect.picture draws them."""
    style, script = ((_HERE / name).read_text() for name in ("style.css", "script.js"))
    title = f"VT-d: {found.name}"
    page = element(
        "html",
        head(title, style, script),
        element(
            "body",
            element("header", element("h1", title)),
            element(
                "main",
                element("noscript", element("p", "The picture of the tables needs JavaScript.")),
                _picture(found, pictures),
                element("div", map(_part, parts_of(found, _MOST_LINES)), class_="parts"),
            ),
            element("script", _embedded(pictures), type="application/json", id="tables"),
            element("script", script),
        ),
        lang="en",
    )
    return document(page)


def _embedded(pictures: list[dict[str, Any]]) -> str:
    """JSON that cannot end the script element that holds it: scripts are the one place where text is not escaped."""
    return json.dumps(pictures, separators=(",", ":")).replace("<", "\\u003c")


def _picture(found: Inspection, pictures: list[dict[str, Any]]) -> Element:
    cut = None
    if any(picture["cut_short"] for picture in pictures):
        cut = element("p", "There are more tables than one page can hold: some are left out.", class_="wrong")
    return element(
        "section",
        element("h2", "Tables"),
        element("p", "Choose an entry to see its bits and the table that it points to.", class_="small"),
        element("p", "There are more tables than one page can hold: some are left out.", class_="wrong")
        if cut
        else None,
        element("div", id="roots", class_="buttons"),
        (jump for number, unit in enumerate(found.units) for jump in _jumps(number, unit)),
        element("div", id="path"),
        class_="picture",
    )


def _jumps(number: int, unit: UnitInspection) -> Iterator[Element]:
    """Buttons that open the tables down to a device's entry, or to one that is refused."""
    devices = [(device.name, device.entry) for device in unit.devices]
    refused = [(f"{problem.where:#x}", problem.where) for problem in unit.problems if problem.raw is not None]
    base = f" of the unit at {unit.unit.register_base:#x}"
    for title, places, kind in (("Devices", devices, "jump"), ("Refused entries", refused, "jump wrong")):
        if places:
            buttons = (
                element("button", text, type="button", class_=kind, data_unit=str(number), data_entry=hex(where))
                for text, where in places[:_MOST_BUTTONS]
            )
            more = f" and {len(places) - _MOST_BUTTONS} more" if len(places) > _MOST_BUTTONS else None
            yield element("p", element("span", f"{title}{base} ", class_="small"), buttons, more, class_="buttons")


def _part(lines: list[Line]) -> Element:
    (_, title), *rest = lines
    return element("section", element("h2", title.plain), map(_line, rest), class_="part")


def _line(line: Line) -> Element:
    indent, text = line
    children: list[Element | str] = []
    at = 0
    for span in sorted(text.spans, key=lambda span: span.start):
        children += [
            text.plain[at : span.start],
            element("span", text.plain[span.start : span.end], class_=str(span.style)),
        ]
        at = span.end
    return element("p", [*children, text.plain[at:]], class_=f"line indent-{indent}")
