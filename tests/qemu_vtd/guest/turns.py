"""Guests run one after another: two side by side on a small machine time out."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

from qemu.vtd.errors import QemuNotFound
from qemu.vtd.guest import kernel
from qemu.vtd.guest.errors import NothingToBoot
from qemu.vtd.private_cache import private, root
from qemu.vtd.probe import find_qemu
from tests.qemu_vtd.suites import NOT_TESTED, qemu_of


@pytest.fixture
def turn() -> Iterator[None]:
    """No other test runs a guest meanwhile. Skips, loudly, where there is no kernel for one."""
    try:
        kernel.of_package()
        kernel.busybox()
    except NothingToBoot as error:
        pytest.skip(f"{NOT_TESTED}: guests: {error}")
    with (private(private(root()) / "guest") / ".turn").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def qemu_for_guests(name: str) -> str:
    """The path of "system" QEMU, or of a Debian suite's; skips where there is none."""
    if name != "system":
        return qemu_of(name)
    try:
        return find_qemu()
    except QemuNotFound as error:
        pytest.skip(str(error))
