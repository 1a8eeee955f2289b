"""Every QEMU of this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from qemu.vtd.errors import QemuError
from qemu.vtd.private_cache import PROGRAM, installed
from qemu.vtd.probe import ENVIRONMENT, Build, probe


@dataclass(frozen=True)
class Found:
    """A QEMU of this machine.

    Attributes:
        name: selects it with --qemu.
        where: "VTD_QEMU", "PATH", or the Debian package it was installed from.
        path: the program.
        build: what it offers; None when it is of no use.
        problem: why it is of no use; may be empty.
    """

    name: str
    where: str
    path: str
    build: Build | None
    problem: str = ""


def find_all() -> list[Found]:
    """Every QEMU of this machine: VTD_QEMU, those on PATH, and those in the private cache; each program once."""
    candidates = []
    if named := os.environ.get(ENVIRONMENT):
        candidates.append((named, ENVIRONMENT, shutil.which(named) or named))
    for folder in os.get_exec_path():
        if path := shutil.which(PROGRAM, path=folder):
            candidates.append((path, "PATH", path))
    suites = set()
    for each in installed():
        name = each.path if each.suite in suites else each.suite
        suites.add(each.suite)
        candidates.append((name, f"{each.suite}, {each.version}", each.path))
    found: dict[str, Found] = {}
    for name, where, path in candidates:
        program = os.path.realpath(path)
        if program not in found:
            found[program] = _look(name, where, path)
    return list(found.values())


def _look(name: str, where: str, path: str) -> Found:
    try:
        return Found(name, where, path, probe(path))
    except (QemuError, OSError) as error:
        return Found(name, where, path, None, str(error))
