"""The quirks for people and programs: a list with what each means for a driver, one in full, JSON, Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from qemu.vtd.conformance.report.words import print_hanging
from qemu.vtd.quirks import Quirk, Severity, version_text


def print_list(quirks: Sequence[type[Quirk]], version: str, console: Console) -> None:
    """Print the quirks of a version, or of all if it is empty, the most dangerous for a driver first."""
    which = f"QEMU {version}".strip()
    ways = "1 way" if len(quirks) == 1 else f"{len(quirks)} ways"
    print_hanging(console, "", f"{which} departs from VT-d in {ways}.", "bold")
    for severity in Severity:
        alike = [quirk for quirk in quirks if quirk.severity is severity]
        if alike:
            console.print()
            print_hanging(console, "", f"{severity.value}:", "bold")
        for quirk in alike:
            print_hanging(console, f"{quirk.id}  ", quirk.driver)
            gone = f" Gone in {version_text(quirk.gone)}." if quirk.gone and not version else ""
            print_hanging(console, " " * 5, f"{quirk.title()}{gone}", "dim")


def print_one(quirk: type[Quirk], console: Console) -> None:
    """Print all that is known of a quirk."""
    print_hanging(console, f"{quirk.id}  ", quirk.title(), "bold")
    for name, text in _facts(quirk):
        console.print()
        print_hanging(console, "", name, "bold")
        for paragraph in text:
            print_hanging(console, "  ", paragraph)


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
