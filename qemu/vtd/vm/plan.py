"""What VM is wanted, and QEMU's arguments for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from iommu.dmar.pci import PciAddress
from iommu.errors import MisuseError
from iommu.files.reading import beginning
from qemu.vtd.errors import PropertyMissing
from qemu.vtd.launch import MIB
from qemu.vtd.probe import Build
from qemu.vtd.vm.topologies import named
from qemu.vtd.vm.words import ASSIGNED, UNIT, properties

_QUIET = ["-nodefaults", "-no-user-config", "-display", "none"]
# Under KVM, QEMU can remap interrupts only where the I/O APIC is its own. TCG ignores the property.
_MACHINE = "q35,kernel-irqchip=split"
# On a busy host, Linux under TCG may take its timer for broken, and panic.
APPEND = "console=ttyS0 intel_iommu=on no_timer_check"
"""The parameters of a Linux for which none are given."""
_QCOW2 = b"QFI\xfb"
_UNITS = {"": MIB, "M": MIB, "G": 1 << 30}


@dataclass(frozen=True)
class Plan:
    """A VM that is wanted.

    Attributes:
        topology: the name of its devices; see `topologies`.
        iommu: properties of intel-iommu, by any name a QEMU has had for them; None for no unit.
        memory: RAM in bytes, a multiple of 1 MiB.
        accel: QEMU's accelerator: "tcg" or "kvm".
        kernel, initrd, append: a Linux to boot, its initial RAM disk, its parameters.
        disk: a disk image to boot from. It is read, never written: what the guest writes is dropped at the end.
        host_devices: physical devices to assign.
        extra: further QEMU arguments.

    Raises:
        MisuseError: they exclude each other, or a file is not there.
    """

    topology: str = "plain"
    iommu: Mapping[str, str] | None = field(default_factory=dict)
    memory: int = 512 * MIB
    accel: str = "tcg"
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    disk: Path | None = None
    host_devices: tuple[PciAddress, ...] = ()
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named(self.topology)
        if self.memory < MIB or self.memory % MIB:
            raise MisuseError(f"memory {self.memory:#x} is not a multiple of 1 MiB")
        if self.kernel is None and (self.initrd is not None or self.append):
            raise MisuseError("--initrd and --append go with --kernel")
        if self.extra and not self.extra[0].startswith("-"):
            raise MisuseError(f"{self.extra[0]!r}: what follows -- are options of QEMU, which start with -")
        for file in (self.kernel, self.initrd, self.disk):
            if file is not None and not file.is_file():
                raise MisuseError(f"{file}: no such file")

    @property
    def boots(self) -> bool:
        """Whether firmware runs in it. Otherwise its processor halts, and it is driven from outside."""
        return self.kernel is not None or self.disk is not None or "-bios" in self.extra

    def words(self, build: Build) -> list[str]:
        """QEMU's arguments; what connects it to us is not among them."""
        words = [*_QUIET, "-accel", self.accel, "-m", f"{self.memory // MIB}M", "-M", _MACHINE]
        if self.iommu is not None:
            words += ["-device", ",".join([UNIT, *(f"{name}={value}" for name, value in self._unit(build).items())])]
        topology = named(self.topology).topology
        for bridge in topology.bridges:
            words += bridge.command_line()
        for place in topology.places:
            words += place.device().command_line()
        for address in self.host_devices:
            words += ["-device", f"{ASSIGNED},host={address}"]
        if self.kernel is not None:
            words += ["-kernel", str(self.kernel), "-append", self.append or APPEND]
        if self.initrd is not None:
            words += ["-initrd", str(self.initrd)]
        if self.disk is not None:
            words += ["-drive", f"file={_doubled(self.disk)},format={_format(self.disk)},snapshot=on,if=ide"]
        return [*words, *self.extra]

    def _unit(self, build: Build) -> dict[str, str]:
        """The properties of the unit, as this QEMU spells them. Those that it does not have stay as they are."""
        found: dict[str, str] = {}
        assigned = {"caching-mode": "on"} if self.host_devices else {}
        for name, value in {**assigned, **(self.iommu or {})}.items():
            try:
                found |= build.spelled({name: value})
            except PropertyMissing:
                found[name] = value
        return found


def _doubled(file: Path) -> str:
    return str(file.absolute()).replace(",", ",,")


def _format(file: Path) -> str:
    """The format of a disk image. Letting QEMU find it out would let the guest choose it."""
    return "qcow2" if beginning(file, 4) == _QCOW2 else "raw"


def unit_properties(text: str) -> dict[str, str] | None:
    """Properties of intel-iommu out of "aw-bits=48,caching-mode=on"; None, no unit, for "none"."""
    return None if text == "none" else properties(text)


def size(text: str) -> int:
    """A size in bytes out of "512M", "2G" or a number of MiB. Raises MisuseError."""
    found = re.fullmatch(r"(\d+)([MG]?)", text.upper())
    if found is None:
        raise MisuseError(f"memory {text!r} is not a size such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2]]
