"""Every reader and every command is in the registry of tests/fuzz: what reads, and what can be called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from iommu.cli.main import make_app
from tests.fuzz import commands, registry
from tools.house import modules

_FILES = "iommu.files."
_WRITING = {"writing", "text", "limits"}
_READ_NOTHING = {"shown", "NO_RESERVE"}
"""What the modules that read have beside that."""


def all_commands() -> set[str]:
    """Every command of `vtd`, with the words that call it."""

    def below(command: object, words: tuple[str, ...]) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(words)
            return
        for name, each in inner.items():
            yield from below(each, (*words, name))

    return set(below(typer.main.get_command(make_app()), ()))


def readers() -> set[str]:
    """The modules that read inputs: they import what opens, unpacks or parses them."""
    found = set()
    for name, path in modules().items():
        if name.startswith(_FILES):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or {alias.name for alias in node.names} <= _READ_NOTHING:
                continue
            module = node.module or ""
            if module.startswith(_FILES) and module.removeprefix(_FILES) not in _WRITING:
                found.add(name)
    return found


def test_every_command_gets_inputs_or_says_why_not() -> None:
    fuzzed = {
        command for command in all_commands() if any(line.startswith(command + " ") for line in commands.COMMANDS)
    }
    assert fuzzed | set(commands.NOT_FUZZED) == all_commands()
    assert not fuzzed & set(commands.NOT_FUZZED)


def test_every_reader_has_a_way() -> None:
    covered = {module for way in registry.WAYS for module in way.modules} | set(registry.BY_COMMANDS)
    assert readers() == covered


def test_names_are_different() -> None:
    names = [way.name for way in registry.WAYS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("way", registry.WAYS, ids=str)
def test_a_way_accepts_a_seed(way: registry.Way, tmp_path: Path) -> None:
    """Otherwise changed ones would not be nearly right, and only the first check would ever be tried."""
    assert "" in [way.refusal(seed, tmp_path / "input") for seed in way.seeds()]
