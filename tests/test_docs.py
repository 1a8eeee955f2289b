"""What the documentation shows is run: every command and every Python block, and what they are said to print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.vtd.conformance.scenario import _CATALOGUE, catalogue
from qemu.vtd.errors import QemuNotFound
from qemu.vtd.probe import find_qemu

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "conformance.md"]
NEEDS_QEMU = ("vtd conform",)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.M | re.S):
            yield page.name, text


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines shown below it."""
    for _, text in blocks("console"):
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


@pytest.mark.parametrize(("command", "shown"), list(commands()))
def test_command(command: str, shown: list[str], tmp_path: Path) -> None:
    if command.startswith(NEEDS_QEMU):
        try:
            find_qemu()
        except QemuNotFound as error:
            pytest.skip(str(error))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for line in shown:
        # "..." stands for anything; blanks for any number of blanks.
        words = (re.escape(piece).replace(r"\ ", r"\s+") for piece in line.strip().split("..."))
        assert re.search(".*".join(words), ran.stdout), f"not printed: {line}"


@pytest.mark.parametrize("text", [text for _, text in blocks("python")])
def test_python(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue()
    known = dict(_CATALOGUE)
    exec(compile(text, "documentation", "exec"), {})
    for line in re.findall(r"^print\(.*\)  # (.*?)(?::.*)?$", text, re.M):
        assert line in capsys.readouterr().out
    added = [_CATALOGUE.pop(id_) for id_ in set(_CATALOGUE) - set(known)]
    for scenario in added:
        from qemu.vtd.conformance.runner import on_model

        assert on_model(scenario) == scenario.expect


def test_every_page_that_is_linked_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
