"""The chart: host addresses from left to right, a row for each group of requesters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from iommu.batch.reach_domains import Space
from iommu.batch.reach_hosts import Hosts
from iommu.cli.output import bytes_size
from iommu.cli.reaching.found import MachineReach, UnitReach, Wanted
from iommu.cli.reaching.show import domains, names, sentence
from iommu.files.text import safe
from iommu.html import element

_LABEL, _WIDTH, _ROW, _BAR, _TOP, _GAP = 250, 1250, 24, 14, 48, 10
_SEGMENTS = 10
_LONGEST_LABEL = 34
_ROWS = 200


class _Segment(NamedTuple):
    """A stretch of the axis: host addresses, and where they are drawn."""

    addresses: range
    left: int
    width: int


class Row(NamedTuple):
    """A row: its label, and sets of addresses that are drawn one over the other, each with its class and a text.

    `background`: it says nothing about which addresses are worth a place on the axis.
    """

    label: str
    layers: list[tuple[str, Hosts, str]]
    background: bool = False


def chart(found: MachineReach, unit: UnitReach, wanted: Wanted) -> Element | None:
    """The chart of a unit; None if there is nothing to draw."""
    about = f"Host memory that the devices of the unit at {unit.register_base:#x} reach"
    return drawing(list(_rows(found, unit, wanted)), about)


def drawing(rows: Sequence[Row], about: str) -> Element | None:
    """Rows drawn over the same axis; None if there is nothing to draw. `about`: the picture in words."""
    segments = _axis([hosts for row in rows if not row.background for _, hosts, _ in row.layers])
    if not segments:
        return None
    height = _TOP + _ROW * min(len(rows), _ROWS)
    drawn = [_scale(segments, height)]
    for number, row in enumerate(rows[:_ROWS]):
        drawn.append(_drawn(row, segments, _TOP + _ROW * number))
    return element(
        "svg",
        drawn,
        viewBox=f"0 0 {_WIDTH} {height + 4}",
        role="img",
        aria_label=about,
    )


def _rows(found: MachineReach, unit: UnitReach, wanted: Wanted) -> Iterator[Row]:
    if found.ram is not None:
        ram = Hosts.of_ranges(found.ram)
        yield Row("RAM", [("ram", ram, f"{bytes_size(ram.size)} of RAM")], background=True)
    own = [("own", hosts, what) for what, hosts in unit.own if hosts]
    if own:
        yield Row("tables, registers", own)
    for space in unit.spaces:
        if any(map(wanted.shows, space.requesters)):
            yield _space(space, unit)


def _space(space: Space, unit: UnitReach) -> Row:
    label = names(space.requesters)
    reached, writable = Hosts.reached(space.reach), Hosts.reached(space.reach, writable=True)
    about = f"{names(space.requesters)}: {domains(space)}{space.kind}"
    if space.passes:
        return Row(label, [("bad", reached, f"{about}: everything is reached")], background=True)
    layers = [
        ("r", reached, f"{about}; {bytes_size(reached.size)} reached"),
        ("w", writable, f"{about}; {bytes_size(writable.size)} can be written"),
    ]
    ours = set(space.requesters)
    for each in unit.findings.found:
        if not ours.isdisjoint(each.requesters):
            layers.append(("bad", reached.within(each.reached), sentence(each)))
    return Row(label, layers)


def _axis(sets: Sequence[Hosts]) -> list[_Segment]:
    """The stretches of host memory that have anything in them, those with little between them joined."""
    every = Hosts.united(sets)
    if not every:
        return []
    gaps = every.firsts[1:] - every.lasts[:-1]
    widest = np.sort(np.argsort(gaps, kind="stable")[-(_SEGMENTS - 1) :]) if len(gaps) else np.zeros(0, np.int64)
    firsts = every.firsts[np.concatenate((np.zeros(1, np.int64), widest + 1))]
    lasts = every.lasts[np.append(widest, len(every.lasts) - 1)]
    ranges = [range(int(one), int(other) + 1) for one, other in zip(firsts, lasts, strict=True)]
    # The width grows with the number of digits: all of 1 GiB is as wide as twice all of 32 KiB.
    weights = [max((each.stop - each.start).bit_length() - 8, 4) for each in ranges]
    room = _WIDTH - _LABEL - 2 - _GAP * (len(ranges) - 1)
    segments, left = [], _LABEL
    for each, weight in zip(ranges, weights, strict=True):
        width = room * weight // sum(weights)
        segments.append(_Segment(each, left, width))
        left += width + _GAP
    return segments


def _scale(segments: Sequence[_Segment], height: int) -> Element:
    marks: list[Element] = []
    for number, each in enumerate(segments):
        first, last = each.addresses.start, each.addresses.stop - 1
        label = element("text", f"{first:#x}", x=str(each.left), y=str(14 + 15 * (number % 2)))
        label.append(element("title", f"{first:#x}-{last:#x}, {bytes_size(last - first + 1)}"))
        line = {"x1": str(each.left), "x2": str(each.left), "y1": str(16 + 15 * (number % 2)), "y2": str(height)}
        back = element(
            "rect",
            x=str(each.left),
            y=str(_TOP - 12),
            width=str(each.width),
            height=str(height - _TOP + 12),
            class_="segment",
        )
        marks += [back, element("line", **line, class_="tick"), label]
    return element("g", marks)


def _drawn(row: Row, segments: Sequence[_Segment], top: int) -> Element:
    label = safe(row.label)
    shown = label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
    text = element("text", shown, x="0", y=str(top + 11), class_="label")
    text.append(element("title", label))
    bars: list[Element] = [text]
    for kind, hosts, about in row.layers:
        for segment in segments:
            for left, width in _columns(hosts, segment):
                where = {"x": str(left), "y": str(top), "width": str(width), "height": str(_BAR)}
                bars.append(element("rect", element("title", safe(about)), **where, class_=kind))
    return element("g", bars)


def _columns(hosts: Hosts, segment: _Segment) -> Iterator[tuple[int, int]]:
    """Where a set is in a segment: left edges and widths, in columns."""
    start, size = segment.addresses.start, segment.addresses.stop - segment.addresses.start
    count = min(segment.width, size)
    edges = [start + size * number // count for number in range(count + 1)]
    firsts = np.array(edges[:-1], np.uint64)
    lasts = np.array([edge - 1 for edge in edges[1:]], np.uint64)
    filled = np.searchsorted(hosts.firsts, lasts, side="right") > np.searchsorted(hosts.lasts, firsts, side="left")
    changes = np.flatnonzero(np.diff(np.concatenate(([0], filled.astype(np.int8), [0]))))
    for begin, end in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        left, right = segment.left + begin * segment.width // count, segment.left + end * segment.width // count
        yield left, right - left
