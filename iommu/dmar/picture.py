"""A machine's topology as a picture (SVG) or a page (HTML): one block for each unit, its functions inside.

No scripts, no fonts, nothing fetched from elsewhere: the files can be mailed and opened anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from iommu.dmar.kinds import Drhd
from iommu.dmar.pci import PciAddress, PciFunction, PciTree
from iommu.dmar.table import Table
from iommu.dmar.topology import Placement, place

_CLASSES = {
    0x0101: "IDE", 0x0106: "SATA", 0x0107: "SAS", 0x0108: "NVMe", 0x0104: "RAID", 0x01: "storage",
    0x0200: "Ethernet", 0x0280: "network", 0x02: "network", 0x03: "graphics", 0x0403: "audio", 0x04: "multimedia",
    0x0500: "memory", 0x05: "memory", 0x0600: "host bridge", 0x0601: "ISA bridge", 0x0604: "PCI bridge",
    0x06: "bridge", 0x0700: "serial port", 0x0780: "communication", 0x0800: "I/O APIC", 0x0880: "system",
    0x0C03: "USB", 0x0C05: "SMBus", 0x0C80: "serial bus", 0x11: "signal processing", 0x12: "accelerator",
}  # fmt: skip
_COLOURS = {"yes": "#2e7d32", "with others": "#b26a00", "no": "#b71c1c", "bridge": "#607d8b"}
# In pixels; letters are monospace.
_WIDTH, _LINE, _INDENT, _LETTER = 640, 22, 22, 8


@dataclass(frozen=True, slots=True)
class Row:
    """A function in its unit's block. `depth` is the number of bridges above it in the same block."""

    depth: int
    placement: Placement
    status: str
    text: str
    notes: str


def class_name(function: PciFunction) -> str:
    """A short name of a function's class."""
    both = function.class_code >> 8
    return _CLASSES.get(both) or _CLASSES.get(both >> 8) or f"class {both:04x}"


def status_of(placement: Placement) -> str:
    """Whether it can be assigned: yes, with others, no; or it is a bridge."""
    if placement.function.is_bridge:
        return "bridge"
    return "no" if placement.obstacles else "with others" if placement.together else "yes"


def blocks(table: Table, tree: PciTree) -> Iterator[tuple[Drhd | None, list[Row]]]:
    """Each unit with its functions, top down; then the functions that no unit remaps, if any."""
    placed = place(table, tree)
    remapped: defaultdict[int, set[PciAddress]] = defaultdict(set)
    for address, placement in placed.items():
        remapped[id(placement.unit)].add(address)
    for unit in [*table.units, None]:
        mine = remapped[id(unit)]
        if unit is not None or mine:
            yield unit, [_row(placed[address], mine, tree) for address in _top_down(tree, mine)]


def _top_down(tree: PciTree, mine: set[PciAddress]) -> list[PciAddress]:
    def key(address: PciAddress) -> list[PciAddress]:
        return [*(bridge.address for bridge in reversed(tree.ancestors(address))), address]

    return sorted(mine, key=key)


def _row(placement: Placement, mine: set[PciAddress], tree: PciTree) -> Row:
    function = placement.function
    depth = sum(bridge.address in mine for bridge in tree.ancestors(function.address))
    notes = [*placement.obstacles] if not function.is_bridge else []
    if placement.together and not placement.obstacles:
        notes.append("only together with " + ", ".join(map(str, placement.together)))
    if placement.regions and not placement.obstacles and not function.is_bridge:
        notes.append("its RMRR is dropped (USB and graphics)")
    group = "" if placement.group is None else f"  group {placement.group}{'?' if placement.estimated else ''}"
    ids = f"{function.vendor:04x}:{function.device:04x}"
    text = f"{function.address}  {class_name(function)}  {ids}{group}"
    return Row(depth, placement, status_of(placement), text, "; ".join(notes))


def svg(table: Table, tree: PciTree) -> str:
    """The picture, as wide as its longest line."""
    drawn = list(blocks(table, tree))
    longest = max((_INDENT * r.depth + _LETTER * len(r.text + r.notes) for _, rows in drawn for r in rows), default=0)
    width = max(_WIDTH, longest + 80)
    body: list[str] = []
    y = 10
    for unit, rows in drawn:
        height = _LINE * (len(rows) + 1) + 16
        body.append(
            f'<rect x="10" y="{y}" width="{width - 20}" height="{height}" rx="8" fill="#f7f9fb" stroke="#90a4ae"/>'
        )
        body.append(f'<text x="22" y="{y + 22}" font-weight="bold">{escape(unit_title(unit))}</text>')
        for number, row in enumerate(rows):
            body += _svg_row(row, y + 22 + _LINE * (number + 1))
        y += height + 12
    style = 'font-family="monospace" font-size="13"'
    size = f'width="{width}" height="{y}" viewBox="0 0 {width} {y}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(body) + "\n</svg>\n"


def _svg_row(row: Row, y: int) -> Iterator[str]:
    x = 34 + _INDENT * row.depth
    yield f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{_COLOURS[row.status]}"><title>{row.status}</title></circle>'
    notes = f'  <tspan fill="{_COLOURS["no"]}">{escape(row.notes)}</tspan>' if row.notes else ""
    yield f'<text x="{x + 12}" y="{y}" xml:space="preserve">{escape(row.text)}{notes}</text>'


def unit_title(unit: Drhd | None) -> str:
    """The title of a block."""
    if unit is None:
        return "remapped by no unit"
    rest = ", and all else of its segment" if unit.include_all else ""
    return f"unit at {unit.base:#x}, segment {unit.segment}{rest}"


def html(table: Table, tree: PciTree, title: str) -> str:
    """The picture with a legend, as a page."""
    marks = "".join(
        f'<li><span style="color:{colour}">\u25cf</span> {escape(text)}</li>'
        for text, colour in zip(
            ("can be assigned to a guest", "only with its group", "cannot", "bridge"), _COLOURS.values(), strict=True
        )
    )
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
    style = '<body style="font-family:sans-serif;margin:2em">'
    legend = f'<ul style="list-style:none;padding:0">{marks}</ul>'
    return f"{head}{style}<h1>{escape(title)}</h1>{legend}{svg(table, tree)}</body></html>\n"
