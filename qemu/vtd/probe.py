"""Find a QEMU and query the program itself for its features: properties are renamed between versions."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from qemu.vtd import answers, private_cache
from qemu.vtd.errors import (
    FalseAnswer,
    PropertyMissing,
    QemuDied,
    QemuNotFound,
    QemuTimeout,
    QemuUnsuitable,
    QmpError,
)
from qemu.vtd.private_cache import PROGRAM
from qemu.vtd.process import Process
from qemu.vtd.qmp import Qmp

T = TypeVar("T")

ENVIRONMENT = "VTD_QEMU"
OLDEST = (7, 0, 0)
# QEMU needs no new privileges, child processes or scheduling changes for what we do.
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")

# The device models that are queried. Listing all models would make QEMU load every module it finds, and abort on one
# from a different build.
MODELS = (
    "edu",
    "e1000",
    "i82801b11-bridge",
    "iommu-testdev",
    "nvme",
    "pcie-pci-bridge",
    "pcie-root-port",
    "pxb-pcie",
    "rocker",
    "rtl8139",
    "vfio-pci",
)

# The names of each property of intel-iommu that was renamed, without "x-".
_RENAMED = (("flts", "fsts"),)

_PROBE_SECONDS = 15.0
_HELP = f"install the Debian package qemu-system-x86, or name one with --qemu or {ENVIRONMENT}"


@dataclass(frozen=True)
class Build:
    """One QEMU program.

    Attributes:
        path: its path.
        version: major, minor, micro.
        iommu_properties: the properties of `-device intel-iommu`.
        devices: those of `MODELS` it has.
        sandbox: the arguments that turn on its sandbox; empty when it was built without seccomp.
        machine: the name of its newest q35 machine: "pc-q35-11.1".
    """

    path: str
    version: tuple[int, int, int]
    iommu_properties: frozenset[str]
    devices: frozenset[str]
    sandbox: tuple[str, ...]
    machine: str = ""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to believe the version: the newest machine of each release has that release's number.

        A development version, with a micro number from 50 on, has the machine of the release to come.
        """
        number = re.fullmatch(r"pc-q35-(\d+)\.(\d+)", self.machine)
        major, minor, micro = self.version
        right = {(major, minor), (major, minor + 1), (major + 1, 0)} if micro >= 50 else {(major, minor)}
        if number is None or (int(number[1]), int(number[2])) in right:
            return ()
        return (f"it says that it is QEMU {version_text(self.version)}, but its newest machine is {self.machine}",)

    def spelled(self, properties: Mapping[str, T]) -> dict[str, T]:
        """The same properties of intel-iommu as this QEMU spells them: some were renamed, or lost their "x-".

        Raises PropertyMissing for one that it has under no name.
        """
        return {self._spelling(name): value for name, value in properties.items()}

    def _spelling(self, name: str) -> str:
        plain = name.removeprefix("x-")
        for known in next((names for names in _RENAMED if plain in names), (plain,)):
            for spelling in (known, f"x-{known}"):
                if spelling in self.iommu_properties:
                    return spelling
        shown = version_text(self.version)
        offered = ", ".join(sorted(self.iommu_properties))
        raise PropertyMissing(name, f"QEMU {shown}: intel-iommu has no property {name!r}; it has {offered}")


def version_text(version: tuple[int, int, int]) -> str:
    """A version as text: "7.2.22"."""
    return ".".join(map(str, version))


def find_qemu(argument: str | os.PathLike[str] | None = None) -> str:
    """The QEMU to use: `argument`, else the environment variable VTD_QEMU, else qemu-system-x86_64 on PATH.

    It is named by its path, or by the Debian suite that `vtd qemu install` got it from.

    Raises QemuNotFound when there is no such program.
    """
    wanted = os.fspath(argument) if argument is not None else os.environ.get(ENVIRONMENT) or PROGRAM
    found = shutil.which(wanted)
    if found is not None:
        return found
    installed = private_cache.find(wanted)
    if installed is not None:
        return installed.path
    raise QemuNotFound(f"no QEMU: {wanted!r} is not a program, and no Debian suite whose QEMU is installed; {_HELP}")


def probe(path: str) -> Build:
    """The features of the QEMU at `path`. A short-lived process queries them, once per version of the file.

    Raises:
        QemuUnsuitable: it is not a QEMU, is older than 7.0, or has no intel-iommu.
        QemuNotFound: it cannot be executed.
    """
    file = Path(path).stat()
    return _probe(path, file.st_mtime_ns, file.st_size)


@cache
def _probe(path: str, changed: int, size: int) -> Build:
    try:
        try:
            return _query(path, SANDBOX)
        except QemuDied as error:
            if not any("sandbox" in line or "seccomp" in line for line in error.stderr):
                raise
            return _query(path, ())
    except (FalseAnswer, QemuDied, QemuTimeout, QemuNotFound, QmpError) as error:
        raise QemuUnsuitable(f"{path} does not behave like a QEMU: {error}") from None


def _query(path: str, sandbox: tuple[str, ...]) -> Build:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            monitor = ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-qmp", "chardev:qmp"]
            options = ["-M", "none", "-nodefaults", "-no-user-config", "-display", "none", *monitor, *sandbox]
            process = Process([path, *options], [theirs.fileno()])
        try:
            qmp = Qmp(ours, process, _PROBE_SECONDS)
            try:
                qmp.connect()
                return _describe(path, sandbox, qmp)
            finally:
                qmp.close()
        finally:
            process.end()


def _describe(path: str, sandbox: tuple[str, ...], qmp: Qmp) -> Build:
    version = qmp.read("query-version", answers.version)
    shown = version_text(version)
    if version < OLDEST:
        raise QemuUnsuitable(f"{path} is QEMU {shown}; 7.0 or later is needed")
    iommu = _properties(qmp, "intel-iommu")
    if iommu is None:
        raise QemuUnsuitable(f"{path} (QEMU {shown}) has no intel-iommu; {_HELP}")
    devices = frozenset(model for model in MODELS if _properties(qmp, model) is not None)
    machines = qmp.read("query-machines", answers.aliases)
    return Build(path, version, iommu, devices, sandbox, machines.get("q35", ""))


def _properties(qmp: Qmp, model: str) -> frozenset[str] | None:
    """The properties of a device model; None when there is no such model."""
    try:
        return qmp.read("device-list-properties", answers.names, {"typename": model})
    except QmpError as error:
        if error.error_class != "DeviceNotFound":
            raise
        return None
