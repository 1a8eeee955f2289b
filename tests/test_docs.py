"""The documentation is true: every command and Python block is run, and its output compared with what is shown."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from iommu import Policy
from iommu.snapshot import Snapshot
from iommu.snapshot.memory import ranges_of
from qemu.vtd.conformance.scenario import _CATALOGUE, catalogue
from qemu.vtd.errors import QemuNotFound
from qemu.vtd.probe import Build, find_qemu
from tests.qemu_vtd.conftest import build
from tests.qemu_vtd.live.strangers import IOMMU, stranger

__all__ = ["build"]

ROOT = Path(__file__).parent.parent
# dmar.md has a test of its own, tests/dmar/test_dmar_docs.py.
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "dmar.md")]
NEEDS_QEMU = ("vtd conform", "vtd vm", "vtd fuzz", "vtd replay", "timeout ")
NEEDS_GUEST = ("vtd guest run", "vtd guest shell")
NEEDS_VM = "--qmp vm.qmp"
NEEDS_MIRROR = ("vtd qemu install",)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.M | re.S):
            yield page.name, text


def commands() -> dict[str, list[str]]:
    """Each command with the lines shown below it on all pages: a command that several pages show is run once."""
    found: dict[str, list[str]] = {}
    for _, text in blocks("console"):
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            found.setdefault(command, []).extend(shown)
    return found


@pytest.fixture
def vm(build: Build, tmp_path: Path) -> Iterator[None]:
    """A running QEMU whose QMP socket is vm.qmp, with a page at 0x5000 for device 00:03.0."""
    with stranger(build.path, tmp_path, *IOMMU, socket="vm.qmp") as found:
        found.translate_for_device()
        yield


@pytest.mark.parametrize(("command", "shown"), commands().items(), ids=commands())
def test_command(command: str, shown: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if any(each in command for each in NEEDS_GUEST):
        request.getfixturevalue("turn")
    if command.startswith(NEEDS_QEMU):
        try:
            find_qemu()
        except QemuNotFound as error:
            pytest.skip(str(error))
    if NEEDS_VM in command:
        request.getfixturevalue("vm")
    # A reader runs the commands at the top of the repository; they only need its fixtures.
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
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
    if command.startswith(NEEDS_MIRROR) and "cannot be reached" in ran.stderr:
        pytest.skip(ran.stderr)
    assert ran.returncode == 0, ran.stderr
    for line in shown:
        # "..." stands for any text, and a space for any number of spaces.
        words = (re.escape(piece).replace(r"\ ", r"\s+") for piece in line.strip().split("..."))
        assert re.search(".*".join(words), ran.stdout), f"not printed: {line}"


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_python(page: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    """The blocks of a page are one program."""
    if any("Guest(" in text for where, text in blocks("python") if where == page):
        request.getfixturevalue("turn")
    catalogue()
    known, names = dict(_CATALOGUE), dict[str, object](__name__="example")
    for text in [text for where, text in blocks("python") if where == page]:
        exec(compile(text, page, "exec"), names)
        printed = capsys.readouterr().out
        for line in re.findall(r"^print\(.*\)  # (.*?)(?::.*)?$", text, re.M):
            assert line in printed
    added = [_CATALOGUE.pop(id_) for id_ in set(_CATALOGUE) - set(known)]
    for scenario in added:
        from qemu.vtd.conformance.judge import on_model

        assert on_model(scenario) == scenario.expect


def test_links_lead_to_existing_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_policy_is_documented() -> None:
    text = (ROOT / "docs" / "engine.md").read_text()
    assert [field.name for field in fields(Policy) if f"| `{field.name}` |" not in text] == []


def test_snapshots_in_fixtures_are_those_of_make_py(tmp_path: Path) -> None:
    folder = ROOT / "fixtures" / "snapshots"
    subprocess.run([sys.executable, folder / "make.py", tmp_path], check=True)
    for made in tmp_path.iterdir():
        new, old = Snapshot.open(made), Snapshot.open(folder / made.name)
        assert [unit.registers for unit in new.units] == [unit.registers for unit in old.units]
        assert ranges_of(new.memory) == ranges_of(old.memory)
        for each in ranges_of(new.memory):
            assert new.memory.read(each.start, len(each)) == old.memory.read(each.start, len(each))
