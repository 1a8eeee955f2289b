"""The quirks for people and programs: a list with what each means for a driver, one in full, JSON, Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from iommu.errors import MisuseError
from qemu.vtd.quirks.quirk import Quirk, Severity, Version, version_text


def parse_version(text: str) -> Version:
    """A version from text: "10.0" or "10.0.13". Raises MisuseError."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    if found is None:
        raise MisuseError(f"{text!r} is not a version of QEMU, such as 10.0 or 7.2.22")
    major, minor, micro = (int(part or 0) for part in found.groups())
    return major, minor, micro


def print_list(quirks: Sequence[type[Quirk]], version: str, console: Console) -> None:
    """Print the quirks of a version, or of all if it is empty, the most dangerous for a driver first."""
    which = f"QEMU {version}".strip()
    print_wrapped(console, Text(f"{which} departs from VT-d in {len(quirks)} ways.", "bold"))
    for severity in Severity:
        alike = [quirk for quirk in quirks if quirk.severity is severity]
        if alike:
            console.print()
            print_wrapped(console, Text(f"{severity.value}:", "bold"))
        for quirk in alike:
            print_wrapped(console, Text(quirk.driver), indent=5, label=Text(quirk.id, "yellow"))
            gone = f" Gone in {version_text(quirk.gone)}." if quirk.gone and not version else ""
            print_wrapped(console, Text(f"{quirk.title()}{gone}", "dim"), indent=5)


def print_one(quirk: type[Quirk], console: Console) -> None:
    """Print all that is known of a quirk."""
    print_wrapped(console, Text(quirk.title(), "bold"), indent=5, label=Text(quirk.id, "yellow"))
    for name, text in _facts(quirk):
        console.print()
        print_wrapped(console, Text(name, "bold"))
        for paragraph in text:
            print_wrapped(console, Text(paragraph), indent=2)


def print_wrapped(console: Console, text: Text, *, indent: int = 0, label: Text | None = None) -> None:
    """Print an indented text, wrapped to the console's width; `label` is put into the first line's indent.

    Where there is no width, neither a terminal's nor in COLUMNS, a text is one line.
    """
    has_width = console.is_terminal or os.environ.get("COLUMNS", "0") != "0"
    lines = text.wrap(console, console.width - indent) if has_width else [text]
    for number, line in enumerate(lines):
        line.rstrip()
        before = label.copy() if label is not None and number == 0 else Text()
        before.pad_right(indent - len(before))
        console.print(before + line)


def _facts(quirk: type[Quirk]) -> list[tuple[str, list[str]]]:
    """What is known of a quirk: headings, each with its paragraphs."""
    return [
        ("For a driver", [f"{quirk.severity.value}.", quirk.driver]),
        ("QEMU", paragraphs(quirk)),
        ("Hardware", [quirk.hardware]),
        ("Specification", [f"section {quirk.section}"]),
        ("Versions", [f"{quirk.versions()}; observed on {', '.join(quirk.observed())}"]),
        ("Source", [f"hw/i386/intel_iommu.c: {quirk.function}"]),
        ("Scenarios", list(quirk.scenarios)),
    ]


def paragraphs(quirk: type[Quirk]) -> list[str]:
    """What QEMU does: the paragraphs of the docstring, each as one line."""
    return [" ".join(part.split()) for part in quirk.behaviour().split("\n\n")]


def as_dict(quirk: type[Quirk]) -> dict[str, Any]:
    """A quirk as JSON."""
    return {
        "id": quirk.id,
        "title": quirk.title(),
        "severity": quirk.severity.name.lower(),
        "meaning": quirk.severity.value,
        "driver": quirk.driver,
        "qemu": " ".join(paragraphs(quirk)),
        "hardware": quirk.hardware,
        "section": quirk.section,
        "first": version_text(quirk.first),
        "gone": quirk.gone and version_text(quirk.gone),
        "observed": quirk.observed(),
        "function": quirk.function,
        "scenarios": list(quirk.scenarios),
    }


def as_markdown(quirk: type[Quirk]) -> str:
    """A quirk as a section of a page."""
    lines = [f"## {quirk.id}: {quirk.title()}", "", f"**{quirk.severity.value}.** {quirk.driver}", ""]
    lines += [f"- QEMU: {' '.join(paragraphs(quirk))}", f"- Hardware: {quirk.hardware}"]
    lines += [f"- Specification: section {quirk.section}"]
    lines += [f"- Versions: {quirk.versions()}; observed on {', '.join(quirk.observed())}"]
    lines += [f"- Source: `{quirk.function}` in `hw/i386/intel_iommu.c`"]
    lines += [f"- Scenarios: {', '.join(f'`{id_}`' for id_ in quirk.scenarios)}", ""]
    return "\n".join(lines)
