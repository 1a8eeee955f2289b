"""The QEMUs of other Debian suites that tests use: installed when they are first asked for."""

from __future__ import annotations

from functools import cache

import pytest

from qemu.vtd import private_cache
from qemu.vtd.errors import InstallError
from qemu.vtd.install import install

SUITES = ("trixie", "sid")
"""QEMU 10.0 and 11.x."""

NOT_TESTED = "NOT TESTED"
UNKNOWN = "departures of a QEMU newer than the last one known"


def qemu_of(suite: str) -> str:
    """The path of a suite's QEMU; skips the test when it can be neither installed nor found in the cache."""
    got = _install(suite)
    if isinstance(got, str):
        return got
    have = private_cache.find(suite)
    if have is not None:
        return have.path
    pytest.skip(f"{NOT_TESTED}: the QEMU of {suite}: {got}")


@cache
def _install(suite: str) -> str | InstallError:
    """The path, or the error after two attempts: a mirror may fail once. Processes that test side by side wait."""
    try:
        return install(suite).path
    except InstallError:
        pass
    try:
        return install(suite).path
    except InstallError as error:
        return error
