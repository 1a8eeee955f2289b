"""docs/dmar.md: every command in it is run, and prints what the page shows."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iommu.dmar.lint import RULES
from tests.dmar.hand import ROOT

TEXT = (ROOT / "docs" / "dmar.md").read_text()
SESSIONS = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the commands find the repository's fixtures."""
    shutil.copytree(ROOT / "fixtures", tmp_path / "fixtures")
    return tmp_path


def run(command: str, folder: Path) -> str:
    """A command's output, with its exit status at the end unless that is 0."""
    words = shlex.split(command)
    assert words.pop(0) == "vtd"
    target = folder / words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if target else words
    done = subprocess.run(
        [sys.executable, "-m", "iommu.cli.main", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if target:
        target.write_text(done.stdout)
    output = ("" if target else done.stdout) + done.stderr
    return output + (f"[exit status {done.returncode}]\n" if done.returncode else "")


@pytest.mark.parametrize("session", SESSIONS, ids=[session.splitlines()[0] for session in SESSIONS])
def test_commands_print_what_the_page_shows(session: str, folder: Path) -> None:
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        shown = run(command, folder)
        assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in expected.splitlines()]


def test_the_page_has_its_commands() -> None:
    named = set(re.findall(r"^\$ vtd dmar (\w+)", TEXT, re.MULTILINE))
    assert named == {"show", "lint", "topology", "survey", "diff", "build"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program: str, folder: Path) -> None:
    code = program.replace('open("fixtures', f'open("{folder}/fixtures')
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rules_that_the_page_mentions_exist() -> None:
    names = re.findall(r"^(?:error|warning|note) +0x\w+ +(\S+)$", TEXT, re.MULTILINE)
    assert names and set(names) <= set(RULES)
