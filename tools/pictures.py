"""The pictures on README's first screen, from a real run of `vtd conform`.

    python -m tools.pictures          draw the terminal from the results recorded in fixtures/conformance/run.json
    python -m tools.pictures --run    run `vtd conform`, record its results, and picture the page in Chromium too

The recorded results have no times and no paths, so that they always make the same picture.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.report.html.page import as_html
from qemu.vtd.conformance.report.summary import print_next, print_summary
from qemu.vtd.conformance.runner import Report, conform
from qemu.vtd.conformance.scenario import Scenario, catalogue
from tools.browser import Browser

ROOT = Path(__file__).parent.parent
RUN = ROOT / "fixtures" / "conformance" / "run.json"
PICTURES = ROOT / "docs" / "pictures"
TERMINAL, PAGE = PICTURES / "terminal.svg", PICTURES / "page.png"

_COLUMNS, _QUIRKS_SHOWN = 100, 3
# What the picture of the page shows: a scenario that is open, and the size of the window.
_OPEN, _WIDTH, _HEIGHT = "cache.iotlb.write-after-read", 1280, 1150


def record(report: Report) -> None:
    """Write the results of a run to fixtures/: for each chapter, how often each verdict was given, and why."""
    counted = Counter((each.scenario.chapter, each.verdict.name, each.why) for each in report.results)
    rows = ",\n  ".join(json.dumps([*row, count]) for row, count in counted.items())
    RUN.write_text(f'{{\n "version": {json.dumps(report.version)},\n "results": [\n  {rows}\n ]\n}}\n')


def recorded() -> Report:
    """The run in fixtures/, as the summary needs it: the scenarios have no more than their chapter."""
    run = json.loads(RUN.read_text())
    return Report("qemu-system-x86_64", tuple(run["version"]), list(_results(run["results"])))


def _results(rows: list[tuple[str, str, str, int]]) -> Iterator[Result]:
    for chapter, verdict, why, count in rows:
        scenario = Scenario("", "", "", _nothing, (), chapter=chapter)
        yield from [Result(scenario, (), (), Verdict[verdict], why)] * count


def _nothing(bench: Bench) -> None:
    """The stimulus of a scenario that is not run."""


def terminal(report: Report) -> str:
    """What `vtd conform` prints for a report, as SVG; of quirks that mean the same for a driver, the first ones."""
    console = _terminal()
    print_summary(report, console)
    print_next([report], console)
    printed = Text.from_ansi(console.file.getvalue()).split("\n")  # type: ignore[attr-defined]
    picture = _terminal(record=True)
    picture.print("$ vtd conform", style="bold")
    for line in _shortened(printed):
        picture.print(line)
    svg = picture.export_svg(title="vtd conform", theme=MONOKAI, unique_id="vtd")
    # Rich has the picture load a font from the network; any monospaced one will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, monospace")
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


def _terminal(*, record: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        record=record,
        width=_COLUMNS,
        force_terminal=True,
        color_system="truecolor",
        soft_wrap=True,
        highlight=False,
    )


def _shortened(lines: Iterable[Text]) -> Iterator[Text]:
    """The lines, with a note in place of all but the first quirks of each group."""
    quirks = left_out = 0
    for line in lines:
        quirks = quirks + 1 if re.match(r"Q\d\d ", line.plain) else quirks if line.plain.startswith("     ") else 0
        if quirks > _QUIRKS_SHOWN:
            left_out += bool(line.plain.strip()) and not line.plain.startswith(" ")
            continue
        if left_out:
            yield Text(f"     ... and {left_out} more", "dim")
            left_out = 0
        yield line


def page(report: Report) -> bytes:
    """The page of a report in a browser, with one scenario open, as PNG."""
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        file = Path(folder) / "report.html"
        file.write_bytes(as_html([report]))
        browser.open(f"{file.as_uri()}#{_OPEN}", width=_WIDTH, height=_HEIGHT)
        return browser.screenshot()


def main(arguments: list[str]) -> int:
    """Make the pictures. Returns the exit status."""
    if arguments not in ([], ["--run"]):
        print("usage: python -m tools.pictures [--run]", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    RUN.parent.mkdir(exist_ok=True)
    if arguments:
        report = conform(catalogue(), None)
        record(report)
        PAGE.write_bytes(page(report))
    TERMINAL.write_text(terminal(recorded()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
