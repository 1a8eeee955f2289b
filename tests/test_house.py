"""tools/house.py: imports go one way, without circles, in the order of the house; the fast path is one file."""

from __future__ import annotations

import re

import pytest

from tools import house


def test_imports_keep_the_order_of_the_house() -> None:
    assert house.problems(house.imports()) == []


def test_every_module_has_a_part() -> None:
    assert {house.part_of(module) for module in house.modules()} == set(house.PARTS)


@pytest.mark.parametrize(
    ("module", "imported", "said"),
    [
        (
            "iommu.fields",
            "iommu.engine.unit",
            "iommu.fields (errors, fields, lazy, files, html) imports iommu.engine.unit (unit)",
        ),
        ("iommu.memory", "qemu.vtd.machine", "iommu.memory (memory) imports qemu.vtd.machine (qemu: machine)"),
        ("iommu.engine.caches.caches", "iommu.engine.invalidation.registers", "which is listed below it"),
        ("qemu.vtd.quirks.quirk", "qemu.vtd.conformance.runner", "which is listed below it"),
    ],
)
def test_an_import_from_below_is_found(module: str, imported: str, said: str) -> None:
    graph = house.imports()
    graph[module].add(imported)
    assert any(said in problem for problem in house.problems(graph))


def test_a_circle_is_found_within_a_part_too() -> None:
    graph = house.imports()
    assert "iommu.engine.caches.page" in graph["iommu.engine.caches.caches"]
    graph["iommu.engine.caches.page"].add("iommu.engine.caches.caches")
    (circle,) = [problem for problem in house.problems(graph) if problem.startswith("circle")]
    assert "iommu.engine.caches.caches -> iommu.engine.caches.page" in f"{circle} -> {circle}"


def test_imports_for_types_and_inside_functions_count() -> None:
    """iommu/__init__.py imports its names for type checkers only, and cli its parts inside functions."""
    graph = house.imports()
    assert "iommu.engine.unit" in graph["iommu.__init__"]
    assert any(module.startswith("iommu.snapshot") for module in graph["iommu.cli.walk"])


def test_a_new_module_needs_a_part() -> None:
    with pytest.raises(KeyError, match="no part of the house"):
        house.part_of("elsewhere.module")


def test_the_picture_has_every_part_and_no_import_that_follows_from_others() -> None:
    small = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert house.reduced(small) == {"a": {"b"}, "b": {"c"}, "c": set()}
    drawn = house.picture()
    assert drawn.count('["') == len(house.PARTS)


def test_a_rule_is_found_in_one_search() -> None:
    """docs/architecture.md: each search finds the files it names, among at most eight."""
    page = (house.ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([^|`]+)` \| ([^|]+) \|$", page, re.MULTILINE)
    assert len(rows) >= 9
    for searched, where in rows:
        found = {
            str(path.relative_to(house.ROOT / "iommu"))
            for path in (house.ROOT / "iommu").rglob("*.py")
            if searched in path.read_text()
        }
        named = set(re.findall(r"`([\w/]+\.py)`", where))
        assert named and named <= found and len(found) <= 8, (searched, sorted(found))


def test_the_fast_path_is_one_file_and_its_caller_s_line() -> None:
    """It can be taken away without another rule changing: only parts.py makes it, in one statement."""
    mentions = {}
    for name, path in house.modules().items():
        lines = [line for line in path.read_text().splitlines() if re.search(r"fast[ _-]?path", line, re.IGNORECASE)]
        if lines and not name.endswith("fast_path"):
            mentions[name] = lines
    assert set(mentions) == {"iommu.engine.parts"}
    imported, made = mentions["iommu.engine.parts"]
    assert imported.startswith("from iommu.engine.translation.fast_path import")
    assert "FastPath(" in made
