"""QEMU's command line, and the memory it inherits."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from qemu.vtd.probe import Build

MIB = 1 << 20

# No periodic timers: when the clock skips idle time, each tick would cost processor time.
_MACHINE = "q35,pit=off,hpet=off,sata=off,smbus=off,vmport=off"
_QUIET = ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "none"]


class DeviceSpec(Protocol):
    """Anything that adds arguments to QEMU's command line: a DMA source, a port, a bridge."""

    def command_line(self) -> list[str]:
        """The arguments."""
        ...


@dataclass(frozen=True)
class Inherited:
    """The file descriptors QEMU inherits.

    Attributes:
        ram: guest memory.
        bios: the firmware image.
        qtest: QEMU's end of the qtest connection.
        qmp: QEMU's end of the monitor connection.
        trace: where QEMU writes its trace events.
        incoming: where it receives another QEMU's state, before it starts; None for a machine that starts afresh.
    """

    ram: int
    bios: int
    qtest: int
    qmp: int
    trace: int
    incoming: int | None = None

    def all(self) -> list[int]:
        """All of the descriptors."""
        always = [self.ram, self.bios, self.qtest, self.qmp, self.trace]
        return always if self.incoming is None else [*always, self.incoming]


@dataclass(frozen=True)
class Shape:
    """The configuration of a machine; see `Machine` for the meaning of each part."""

    memory: int
    iommu: Mapping[str, str | int | bool] | None
    devices: Sequence[DeviceSpec]
    accel: str
    skip_idle_time: bool
    extra: Sequence[str]
    trace: Sequence[str] = ()

    def arguments(self) -> list[str]:
        """The arguments that make the machine; the firmware and what connects it to us are not among them."""
        words = [*_QUIET, "-accel", self.accel]
        if self.accel == "tcg" and self.skip_idle_time:
            words += ["-icount", "shift=0,sleep=off"]
        words += ["-m", f"{self.memory // MIB}M", "-M", _MACHINE]
        if self.iommu is not None:
            properties = [f"{name}={option(value)}" for name, value in self.iommu.items()]
            words += ["-device", ",".join(["intel-iommu", *properties])]
        for device in self.devices:
            words += device.command_line()
        return [*words, *self.extra]

    def command_line(self, build: Build, inherited: Inherited) -> list[str]:
        """The program and all its arguments."""
        words = [build.path, *build.sandbox, *self.arguments()]
        size = f"{self.memory // MIB}M"
        backend = f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{inherited.ram},share=on"
        words += ["-object", backend, "-M", "memory-backend=ram", "-bios", f"/proc/self/fd/{inherited.bios}"]
        words += ["-chardev", f"socket,id=qtest,fd={inherited.qtest}"]
        words += ["-object", "qtest,id=qtest0,chardev=qtest,log=none"]
        words += ["-chardev", f"socket,id=qmp,fd={inherited.qmp}", "-qmp", "chardev:qmp"]
        if inherited.incoming is not None:
            words += ["-incoming", f"fd:{inherited.incoming}"]
        if self.trace:
            words += ["-D", f"/proc/self/fd/{inherited.trace}"]
            words += [word for event in self.trace for word in ("-trace", event)]
        return words


def sealed_memory(name: str, size: int, owner: ExitStack) -> int:
    """A memfd of fixed size. If QEMU could shrink it, an access through our mapping would raise SIGBUS."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    owner.callback(os.close, descriptor)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


def option(value: str | int | bool) -> str:
    """A property's value in QEMU's command-line syntax."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")
