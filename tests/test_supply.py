"""What the project is made from: lock files with hashes, an sdist that carries its tests, one version everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_phrases import files

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"run": (), "test": ("test",), "release": ("release",)}
"""Each lock file with the extras it holds."""


def locked(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """The packages of a lock file, each with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            stated, *hashes = line.split(" --hash=")
            requirement = Requirement(stated.strip())
            found[canonicalize_name(requirement.name)] = requirement, [each.strip() for each in hashes]
    return found


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(each) for listed in lists for each in listed]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_has_hashes_and_no_host(name: str) -> None:
    packages = locked(name)
    assert len(packages) > len(wanted(LOCKS[name]))
    for requirement, hashes in packages.values():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement
        assert requirement.url is None
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_has_what_the_project_asks_for(name: str) -> None:
    packages = locked(name)
    for requirement in wanted(LOCKS[name]):
        found, _ = packages[canonicalize_name(requirement.name)]
        (pinned,) = found.specifier
        assert requirement.specifier.contains(pinned.version), f"{found} is not {requirement}: make lock"


def test_this_environment_is_the_locked_one() -> None:
    if Path(sys.prefix).name != ".venv":
        pytest.skip(f"this environment, {Path(sys.prefix).name}, is not the locked one")
    packages = locked("test")
    installed: dict[str, str] = {
        canonicalize_name(each.name): each.version for each in distributions(path=_folders())
    }
    for name, (requirement, _) in packages.items():
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(installed[name], prereleases=True), f"{requirement}: make"


def _folders() -> list[str]:
    return [each for each in sys.path if each.startswith(sys.prefix) and each.endswith("site-packages")]


def test_the_version_is_the_same_everywhere() -> None:
    stated = PROJECT["project"]["version"]
    printed = subprocess.run(
        [sys.executable, "-m", "iommu.cli.main", "--version"], capture_output=True, check=True, text=True
    )
    assert printed.stdout == f"vtd {stated}\n"
    assert version("vtdlab") == stated
    headings = re.findall(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == stated


def test_the_sdist_is_the_whole_project_and_its_tests_run(tmp_path: Path) -> None:
    """Some of its tests, those that need least; .ci/sdist runs them all."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("vtdlab-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    inside = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert set(files()) <= inside
    tests = ["tests/test_fields.py", "tests/structures"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:]


@pytest.mark.slow
def test_a_release_is_built_and_described(tmp_path: Path) -> None:
    """In a copy, so that dist/ here stays as it is. The workflows are checked on the way."""
    copy = tmp_path / "copy"
    for name in files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    subprocess.run(["make", "-s", "release"], cwd=copy, check=True)
    stated = PROJECT["project"]["version"]
    names = sorted(path.name for path in (copy / "dist").iterdir())
    assert names == [f"vtdlab-{stated}-py3-none-any.whl", f"vtdlab-{stated}.cdx.json", f"vtdlab-{stated}.tar.gz"]
    described = json.loads((copy / "dist" / f"vtdlab-{stated}.cdx.json").read_text())
    assert described["metadata"]["component"]["name"] == "vtdlab"
    components = {canonicalize_name(each["name"]): each["version"] for each in described["components"]}
    assert components == {name: str(each.specifier).removeprefix("==") for name, (each, _) in locked("run").items()}
