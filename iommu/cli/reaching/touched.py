"""Who touched what, as one page that needs nothing else."""

from __future__ import annotations

from iommu.batch.trace_touched import Touched
from iommu.cli.output import bytes_size, counted
from iommu.cli.reaching.chart import Row, drawing
from iommu.cli.reaching.page import AXIS, legend, whole
from iommu.html import element

_KEY = (("w", "written"), ("r", "read"))


def touched_page(found: Touched, name: str) -> bytes:
    """The page. `name`: of the trace."""
    rows, lines = [], []
    for device, count in sorted(found.requests.items()):
        layers = []
        for kind, what, sets in (("r", "read", found.reads), ("w", "written", found.writes)):
            if (hosts := sets.get(device)) is not None and hosts:
                layers.append((kind, hosts, f"{device}: {bytes_size(hosts.size)} {what}"))
        rows.append(Row(str(device), layers))
        said = [about for _, _, about in layers] or [f"{device}: no memory reached"]
        lines.append(element("p", f"{'; '.join(said)}; {counted(count, 'request')}", class_="line"))
        faults = sorted((reason, times) for (who, reason), times in found.faults.items() if who == device)
        lines += [element("p", f"{times} times {reason}", class_="line indent-4 red") for reason, times in faults]
    drawn = drawing(rows, "Host memory that each device of the trace has touched")
    parts = [
        element(
            "section",
            element("p", legend(_KEY), class_="legend"),
            element("p", "No request has reached memory.")
            if drawn is None
            else element("div", drawn, class_="chart"),
            element("p", AXIS, class_="small"),
        ),
        element("section", element("h2", "In words"), lines, class_="part"),
    ]
    return whole(f"VT-d: who touched what in {name}", parts)
