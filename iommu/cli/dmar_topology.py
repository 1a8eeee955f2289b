"""`vtd dmar topology`: the unit that remaps each device, as a tree, a picture, a page, or JSON."""

from pathlib import Path
from typing import Any

from rich.text import Text

from iommu.cli.dmar_show import scope_name
from iommu.cli.output import bytes_size, console, print_json
from iommu.dmar import Dmar, Drhd, Rmrr
from iommu.dmar.pci import PciTree
from iommu.dmar.picture import blocks, html, status_of, svg, unit_title
from iommu.dmar.topology import place
from iommu.dmar.verdicts import Effect, verdicts
from iommu.files.writing import write_file

_STYLES = {"yes": "green", "with others": "yellow", "no": "red", "bridge": "dim"}


def print_scopes(table: Dmar) -> None:
    """Print what is known from the table alone: units, and the devices that scopes name."""
    lines: list[tuple[int, Text]] = []
    for structure in table.structures:
        if isinstance(structure, Rmrr):
            size = bytes_size(max(0, structure.limit - structure.base + 1))
            title = f"memory {structure.base:#x} to {structure.limit:#x} ({size}), mapped one to one for"
        elif isinstance(structure, Drhd):
            title = unit_title(structure)
        else:
            continue
        lines.append((0, Text(title, "bold")))
        lines += [(1, Text(f"{scope_name(scope)}  {scope}")) for scope in structure.scopes]
    _print_lines(lines)


def print_tree(table: Dmar, tree: PciTree) -> None:
    """Print each unit with the devices it remaps, and whether each can be assigned to a guest."""
    for verdict in verdicts(table.build()):
        if verdict.effect is not None and verdict.effect >= Effect.NO_DMA_REMAPPING:
            console().print(Text(f"{verdict.system} {verdict.effect} with this table: see vtd dmar lint", "red"))
    lines: list[tuple[int, Text]] = []
    for unit, rows in blocks(table, tree):
        lines.append((0, Text(unit_title(unit), "bold" if unit else "bold red")))
        for row in rows:
            text = Text.assemble((f"{row.text}  ", _STYLES[row.status]), row.notes or _remark(row.status))
            lines.append((row.depth + 1, text))
    _print_lines(lines)


def _print_lines(lines: list[tuple[int, Text]]) -> None:
    """Print (level, text) lines as a tree; long lines are not cut."""
    guides: list[str] = []
    goes_on: set[int] = (
        set()
    )  # levels at which another line follows; the lines are visited from the last to the first
    for level, _ in reversed(lines):
        before = ["\u2502  " if above in goes_on else "   " for above in range(1, level)]
        last = ["\u251c\u2500 " if level in goes_on else "\u2514\u2500 "] if level else []
        guides.append("".join(before + last))
        goes_on = {above for above in goes_on if above < level} | {level}
    out = console()
    for guide, (_, text) in zip(reversed(guides), lines, strict=True):
        out.print(Text(guide) + text)


def _remark(status: str) -> str:
    return "can be assigned" if status == "yes" else ""


def topology_to_list(table: Dmar, tree: PciTree) -> list[dict[str, Any]]:
    """Every function's placement as plain data."""
    names = {address: str(address) for address in tree.functions}
    return [
        {
            "address": names[address],
            "class": f"{placement.function.class_code:06x}",
            "unit": None if placement.unit is None else placement.unit.base,
            "scope": None if placement.scope is None else str(placement.scope),
            "group": placement.group,
            "group_estimated": placement.estimated,
            "regions": [[region.base, region.limit] for region in placement.regions],
            "assignable": status_of(placement),
            "obstacles": list(placement.obstacles),
            "together": [names[mate] for mate in placement.together],
        }
        for address, placement in place(table, tree).items()
    ]


def print_topology(table: Dmar, tree: PciTree, as_json: bool, svg_file: Path | None, html_file: Path | None) -> None:
    """Print, and write the pictures that are wanted."""
    if svg_file is not None:
        write_file(svg_file, svg(table, tree).encode())
    if html_file is not None:
        write_file(html_file, html(table, tree, "DMA remapping topology").encode())
    if as_json:
        print_json(topology_to_list(table, tree))
    elif svg_file is None and html_file is None:
        print_tree(table, tree)
