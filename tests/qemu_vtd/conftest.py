"""A QEMU for the tests: the one named by VTD_QEMU, else the one on PATH."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemu.vtd import Machine, find_qemu
from qemu.vtd.devices import Edu, IommuTestdev, Rocker
from qemu.vtd.devices.source import DmaSource
from qemu.vtd.errors import QemuNotFound
from qemu.vtd.probe import Build, probe


@pytest.fixture(scope="session")
def build() -> Build:
    """The QEMU under test."""
    try:
        path = find_qemu()
    except QemuNotFound as error:
        pytest.skip(str(error))
    return probe(path)


@pytest.fixture(scope="module")
def running(build: Build) -> Iterator[Machine]:
    """A machine with every DMA source this QEMU has. It is shared, so its state is undefined."""
    sources: list[DmaSource] = [Edu(4), Rocker(5, options="multifunction=on"), Rocker(5, 1)]
    if IommuTestdev.model in build.devices:
        sources.append(IommuTestdev(6))
    with Machine(iommu={}, devices=sources) as machine:
        yield machine


@pytest.fixture
def machine(running: Machine) -> Machine:
    """The shared machine, reset and with its memory cleared."""
    running.reset()
    running.memory.write(0, bytes(running.memory.size))
    return running


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Write a script, with its shebang line, to an executable file; returns the path."""

    def write(text: str) -> str:
        path = tmp_path / "program"
        path.write_text(text)
        path.chmod(0o700)
        return str(path)

    return write
