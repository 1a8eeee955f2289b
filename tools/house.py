"""The house: which part of the project may import which, and a picture of it.

    python -m tools.house       what breaks the order, if anything; exit status 1 then

A part may import from those listed above it, never from one below; within a part, modules form no circle. All imports
count, those for types and inside functions too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent

Graph = dict[str, set[str]]
"""Modules, or parts, each with those it imports."""

PARTS: dict[str, tuple[str, ...]] = {
    "errors, fields, lazy, files, html": (
        "iommu.errors",
        "iommu.fields",
        "iommu.lazy",
        "iommu.files",
        "iommu.html",
    ),
    "memory": ("iommu.memory",),
    "registers": ("iommu.registers",),
    "structures": ("iommu.structures",),
    "dmar": ("iommu.dmar",),
    "dmar/lint": ("iommu.dmar.lint",),
    "dmar/verdicts": ("iommu.dmar.verdicts",),
    "dmar (whole)": ("iommu.dmar.survey_workers", "iommu.dmar.survey", "iommu.dmar.dmar", "iommu.dmar.__init__"),
    "request, reasons, attributes, ats": (
        "iommu.engine.reasons",
        "iommu.engine.attributes",
        "iommu.engine.request",
        "iommu.engine.ats",
    ),
    "capabilities, policy": (
        "iommu.engine.declaration",
        "iommu.engine.presets",
        "iommu.engine.capabilities",
        "iommu.engine.policy",
    ),
    "formats": ("iommu.engine.entry_format", "iommu.engine.formats"),
    "register_file": ("iommu.engine.register_file",),
    "table_access": ("iommu.engine.table_access",),
    "invalidation/selector": ("iommu.engine.invalidation.selector",),
    "caches": ("iommu.engine.caches",),
    "faults": ("iommu.engine.faults",),
    "invalidation": ("iommu.engine.invalidation",),
    "interrupts": ("iommu.engine.interrupts",),
    "translation": ("iommu.engine.translation",),
    "page_requests": ("iommu.engine.page_requests",),
    "steps": ("iommu.engine.steps",),
    "listeners": ("iommu.engine.listeners",),
    "audit, trace, mappings": (
        "iommu.engine.audit",
        "iommu.engine.trace",
        "iommu.engine.quiet",
        "iommu.engine.mapped_pages",
        "iommu.engine.mappings",
    ),
    "state": (
        "iommu.engine.state_format",
        "iommu.engine.state_caches",
        "iommu.engine.state_ledger",
        "iommu.engine.state",
    ),
    "unit": ("iommu.engine.parts", "iommu.engine.unit"),
    "device": ("iommu.engine.device",),
    "present": ("iommu.engine.present",),
    "system": ("iommu.system",),
    "iommu (public names)": ("iommu.engine.__init__", "iommu.__init__"),
    "batch": ("iommu.batch",),
    "explain": ("iommu.explain",),
    "snapshot": ("iommu.snapshot",),
    "testing": ("iommu.testing",),
    "cli": ("iommu.cli",),
    "qemu: processes": (
        "qemu.vtd.errors",
        "qemu.vtd.private_cache",
        "qemu.vtd.pipeline",
        "qemu.vtd.answers",
        "qemu.vtd.guard_program",
        "qemu.vtd.guard",
        "qemu.vtd.process",
        "qemu.vtd.crew",
        "qemu.vtd.apt",
        "qemu.vtd.install",
        "qemu.vtd.qmp",
        "qemu.vtd.qtest",
        "qemu.vtd.ram",
        "qemu.vtd.probe",
        "qemu.vtd.found",
        "qemu.vtd.launch",
        "qemu.vtd.firmware",
        "qemu.vtd.acpi",
        "qemu.vtd.pci",
    ),
    "qemu: live": ("qemu.vtd.live",),
    "qemu: devices": ("qemu.vtd.devices",),
    "qemu: machine": ("qemu.vtd.machine",),
    "qemu: agent": ("qemu.vtd.agent",),
    "qemu: platform, driver": (
        "qemu.vtd.presets",
        "qemu.vtd.topology",
        "qemu.vtd.platform",
        "qemu.vtd.qemu_platform",
        "qemu.vtd.driver",
    ),
    "qemu: quirks": ("qemu.vtd.quirks",),
    "qemu: conformance": ("qemu.vtd.conformance",),
    "qemu: fuzz/lane": ("qemu.vtd.fuzz.lane",),
    "qemu: fuzz": ("qemu.vtd.fuzz",),
    "qemu: guest": ("qemu.vtd.guest",),
    "qemu: vm": ("qemu.vtd.vm",),
    "qemu: cli": (
        "qemu.vtd.__init__",
        "qemu.vtd.qemu_cli",
        "qemu.vtd.guest_cli",
        "qemu.vtd.vm_cli",
        "qemu.vtd.fuzz_cli",
        "qemu.vtd.cli",
    ),
}
"""The parts in their order, each with the modules it has: names, or packages with all that is in them."""


def modules() -> dict[str, Path]:
    """The modules of the project; a package by the name of its `__init__`."""
    found = {}
    for top in ("iommu", "qemu"):
        for path in sorted((ROOT / top).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


def imports() -> Graph:
    """Each module with those of the project that it imports."""
    files = modules()
    return {name: set(_imported(name, ast.parse(path.read_text()), files)) - {name} for name, path in files.items()}


def _imported(name: str, tree: ast.Module, files: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            wanted = [each if each in files or f"{each}.__init__" in files else node.module for each in wanted]
        else:
            continue
        for each in wanted:
            for module in (each, f"{each}.__init__"):
                if module in files:
                    yield module


def part_of(module: str) -> str:
    """The part that a module is in: the one that names it most closely. Raises KeyError for a module without one."""
    best = max(
        ((len(own), part) for part, names in PARTS.items() for own in names if (module + ".").startswith(own + ".")),
        default=None,
    )
    if best is None:
        raise KeyError(f"{module} is in no part of the house: tools/house.py lists them")
    return best[1]


def circles(graph: Graph) -> list[str]:
    """A circle among the modules, if there is one."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def problems(graph: Graph) -> list[str]:
    """What breaks the order, a line each."""
    order = {part: number for number, part in enumerate(PARTS)}
    found = [f"circle: {circle}" for circle in circles(graph)]
    for module, imported in graph.items():
        for other in sorted(imported):
            above, below = part_of(other), part_of(module)
            if order[above] > order[below]:
                found.append(f"{module} ({below}) imports {other} ({above}), which is listed below it")
    return found


def parts(graph: Graph) -> Graph:
    """The parts, each with those it imports."""
    found: Graph = {part: set() for part in PARTS}
    for module, imported in graph.items():
        found[part_of(module)] |= {part_of(other) for other in imported}
    return {part: others - {part} for part, others in found.items()}


def reduced(graph: Graph) -> Graph:
    """The same without the imports that follow from others, for a picture that can be read."""
    reach: Graph = {}
    for part in TopologicalSorter(graph).static_order():
        reach[part] = set().union(*({other} | reach[other] for other in graph[part]))
    return {
        part: {other for other in others if not any(other in reach[step] for step in others)}
        for part, others in graph.items()
    }


def picture() -> str:
    """The house as a Mermaid diagram: every part, with arrows to what it imports and not yet gets through another."""
    names = {part: f"p{number}" for number, part in enumerate(PARTS)}
    lines = ["```mermaid", "flowchart TB"]
    for title, of_room in (
        ("iommu", lambda part: not part.startswith(("qemu", *_ENGINE))),
        ("iommu/engine", lambda part: part.startswith(_ENGINE)),
        ("qemu/vtd", lambda part: part.startswith("qemu")),
    ):
        lines.append(f'    subgraph "{title}"')
        lines += [f'        {names[part]}["{part.removeprefix("qemu: ")}"]' for part in PARTS if of_room(part)]
        lines.append("    end")
    for part, others in reduced(parts(imports())).items():
        lines += [f"    {names[part]} --> {names[other]}" for other in PARTS if other in others]
    return "\n".join([*lines, "```", ""])


_ENGINE = tuple(
    part for part, names in PARTS.items() if names[0].startswith("iommu.engine.") and "public" not in part
)


def main() -> int:
    """Print what breaks the order. Returns the exit status."""
    found = problems(imports())
    for line in found:
        print(line)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
