"""The private cache: where QEMUs of other Debian suites are installed, and what a run leaves for the next.

~/.cache/vtdlab/qemu/trixie-10.0.13+ds-0+deb13u1/qemu-system-x86_64
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from qemu.vtd.errors import InstallError

PROGRAM = "qemu-system-x86_64"
# A package's version starts with a digit, and no part of a suite's name does.
_FOLDER = re.compile(r"([a-z][a-z0-9.-]*?)-([0-9].*)")


@dataclass(frozen=True)
class Installed:
    """A QEMU in the private cache.

    Attributes:
        suite: the Debian suite it comes from.
        version: of the Debian package, without its epoch.
        path: the program to run.
    """

    suite: str
    version: str
    path: str


def root() -> Path:
    """The project's directory below XDG_CACHE_HOME, or ~/.cache; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "vtdlab"


def private(folder: Path) -> Path:
    """Make a directory of the cache and those above it, for this user alone. Raises InstallError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise InstallError(f"{folder}: {error.strerror}") from error
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a directory of the cache; waits until they are."""
    with (folder / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def folder_of(suite: str, version: str) -> Path:
    """Where the QEMU of a suite, with that version of the package, is installed."""
    return root() / "qemu" / f"{suite}-{version}"


def installed() -> list[Installed]:
    """Every QEMU in the cache, by suite, the newest of each first."""
    found = []
    if (root() / "qemu").is_dir():
        for folder in (root() / "qemu").iterdir():
            named = _FOLDER.fullmatch(folder.name)
            if named is not None and (folder / PROGRAM).is_file():
                found.append(Installed(named[1], named[2], str(folder / PROGRAM)))
    found.sort(key=lambda each: _numbers(each.version), reverse=True)
    return sorted(found, key=lambda each: each.suite)


def find(suite: str) -> Installed | None:
    """The newest installed QEMU of that suite; None when there is none."""
    return next((each for each in installed() if each.suite == suite), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
