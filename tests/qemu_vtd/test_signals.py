"""Signals at random moments leave nothing behind; see tests.qemu_vtd.signals.

Both are slow tests: what they find depends on the moment, so `make test` would not do the same twice.
"""

import shutil

import pytest

from tests.qemu_vtd.signals import attack

TOOLS = ("apt-get", "dpkg-deb", "gpg", "gpgv")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"a mirror needs {', '.join(TOOLS)}")
def test_some_signals() -> None:
    """One to each command that needs no guest."""
    assert attack(7, 12, guests=False) == []


@pytest.mark.slow
@pytest.mark.usefixtures("turn")
def test_many_signals() -> None:
    assert attack(200, 2026) == []
