"""Signals at random moments leave nothing behind; see tests.qemu_vtd.signals.

Both tests are slow ones: what they find depends on the moment, so that a run of `make test` cannot be repeated with them.
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
