"""Installs the QEMU of another Debian suite into the private cache, with libraries of its own and without root."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from qemu.vtd.apt import Apt, Plan, Progress
from qemu.vtd.errors import InstallError, QemuError
from qemu.vtd.private_cache import PROGRAM, Installed, folder_of, locked, private, root
from qemu.vtd.probe import probe
from qemu.vtd.process import run

# Unpacked, the packages take about five times their size; both are on the disk at once.
_UNPACKED = 6
_PART = ".part-"

# The dynamic loader of the suite is run by name, for the kernel would take the one of this system.
_WRAPPER = """\
#!/bin/sh
# QEMU of another Debian suite, with that suite's loader, libraries, modules and firmware.
root=$(dirname -- "$(readlink -f -- "$0")")/root
QEMU_MODULE_DIR=$root/usr/lib/{triple}/qemu
export QEMU_MODULE_DIR
exec "$root/{loader}" --library-path "{libraries}" "$root/usr/bin/{program}" {data} "$@"
"""


def install(suite: str, progress: Progress = lambda *_: None) -> Installed:
    """Install the QEMU of a Debian suite; it is left alone when that version is installed already.

    It appears in the cache whole or not at all. Raises InstallError when the suite has no QEMU that runs here, the
    mirror cannot be reached, a signature is wrong, or the disk is full.
    """
    cache = private(private(root()) / "qemu")
    with locked(cache):
        try:
            # What was left by a process that was killed; nobody else works here now.
            for left in cache.glob(f"{_PART}*"):
                shutil.rmtree(left)
            apt = Apt(private(cache / ".apt"), suite)
            apt.update(progress)
            version = apt.last_version()
            if version is None or not _program(suite, version).is_file():
                version = _fetch(apt, suite, progress)
                apt.record_version(version)
        except OSError as error:
            raise InstallError(f"{error.filename or cache}: {error.strerror}") from error
    return Installed(suite, version, str(_program(suite, version)))


def _program(suite: str, version: str) -> Path:
    return folder_of(suite, version) / PROGRAM


def _fetch(apt: Apt, suite: str, progress: Progress) -> str:
    """Install what the package lists offer, unless it is installed; returns its version."""
    plan = apt.plan()
    if not _program(suite, plan.version).is_file():
        _install(apt, plan, folder_of(suite, plan.version), progress)
    return plan.version


def _install(apt: Apt, plan: Plan, folder: Path, progress: Progress) -> None:
    need, free = plan.size * _UNPACKED, shutil.disk_usage(folder.parent).free
    if free < need:
        raise InstallError(
            f"{folder.parent}: {free >> 20} MiB free; to install QEMU {plan.version} takes {need >> 20} MiB"
        )
    part = Path(mkdtemp(prefix=_PART, dir=folder.parent))
    try:
        packages = apt.download(part / "packages", progress)
        _unpack(packages, part / "root", progress)
        shutil.rmtree(part / "packages")
        _write_wrapper(part)
        try:
            probe(str(part / PROGRAM))
        except QemuError as error:
            raise InstallError(f"QEMU {plan.version} does not run here: {error}") from error
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(packages: Sequence[Path], into: Path, progress: Progress) -> None:
    into.mkdir()
    for done, package in enumerate(packages):
        progress("unpack", done / len(packages))
        status, said = run(["dpkg-deb", "-x", str(package), str(into)])
        if status:
            raise InstallError(f"dpkg-deb cannot unpack {package.name}: {said[0] if said else 'it printed nothing'}")
    # Nothing here is to run with another user's rights, and the user must be able to delete it.
    for path in (into, *into.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o777 | (0o700 if path.is_dir() else 0o600))


def loading(top: Path) -> tuple[Path, list[Path]]:
    """The dynamic loader of an unpacked suite and the directories of its libraries.

    Raises InstallError when it lacks a loader or a QEMU.
    """
    loaders = [path for library in ("usr/lib", "lib") for path in top.glob(f"{library}/*-linux-gnu*/ld-linux*.so.*")]
    if not loaders or not (top / "usr/bin" / PROGRAM).exists():
        raise InstallError(f"the packages have no {PROGRAM}" if loaders else "the packages have no dynamic loader")
    triple = loaders[0].parent.name
    folders = (f"usr/lib/{triple}", f"lib/{triple}", f"usr/lib/{triple}/pulseaudio")
    return loaders[0], [top / folder for folder in folders if (top / folder).is_dir()]


def _write_wrapper(part: Path) -> None:
    """Write the script that runs the QEMU in `part`/root. Raises InstallError when that lacks what it needs."""
    top = part / "root"
    loader, folders = loading(top)
    wrapper = part / PROGRAM
    wrapper.write_text(
        _WRAPPER.format(
            triple=loader.parent.name,
            loader=loader.relative_to(top),
            libraries=":".join(f"$root/{folder.relative_to(top)}" for folder in folders),
            program=PROGRAM,
            data=" ".join(f'-L "$root/usr/share/{name}"' for name in ("qemu", "seabios")),
        )
    )
    wrapper.chmod(0o700)
