"""Run directories of their own for the tests, and every QEMU at hand."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from qemu.vtd.probe import Build, probe
from tests.qemu_vtd.guest.turns import qemu_for_guests
from tests.qemu_vtd.suites import SUITES


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty XDG_RUNTIME_DIR; tmp_path is too long for sockets."""
    with TemporaryDirectory(prefix="vtd") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        left = Path(folder, "vtdlab", "vm")
        assert not left.exists() or [each.name for each in left.iterdir()] == [".lock"]


@pytest.fixture(params=["system", *SUITES])
def qemu(request: pytest.FixtureRequest) -> Build:
    """Each QEMU: the one under test, and those of other suites."""
    return probe(qemu_for_guests(request.param))
