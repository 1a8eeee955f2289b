"""What QEMU's command line says, as far as remapping and assigned devices depend on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iommu.errors import InputError
from iommu.files.documents import parse_json

UNIT = "intel-iommu"
ASSIGNED = "vfio-pci"
_COUNTED = ("sockets", "dies", "clusters", "modules", "cores", "threads")


class Device(NamedTuple):
    """A `-device`: its model, and its properties as they are written."""

    model: str
    properties: dict[str, str]

    def has(self, name: str) -> bool:
        """Whether a property is on, under its name or the name with "x-"."""
        return any(is_on(self.properties.get(each, "off")) for each in (name, f"x-{name}"))


@dataclass(frozen=True)
class Words:
    """The parts of a command line that the checks read.

    Attributes:
        machine: the properties of -M, those that were given last.
        accel: the first accelerator named: "tcg" or "kvm".
        processors: the largest number of processors that the machine can have.
        devices: every `-device`, in order.
    """

    machine: dict[str, str]
    accel: str
    processors: int
    devices: tuple[Device, ...]

    @property
    def unit(self) -> Device | None:
        """The remapping unit; None when there is none."""
        return next((each for each in self.devices if each.model == UNIT), None)

    @property
    def assigned(self) -> list[Device]:
        """The physical devices that are assigned."""
        return [each for each in self.devices if each.model == ASSIGNED]

    @property
    def has_split_irqchip(self) -> bool:
        """Whether KVM leaves the I/O APIC to QEMU, which can then remap its interrupts."""
        return self.machine.get("kernel-irqchip") == "split"


def parse(words: Sequence[str]) -> Words:
    """Read QEMU's arguments."""
    machine: dict[str, str] = {}
    accels: list[str] = []
    processors = 1
    devices = []
    for option, value in _pairs(words):
        if option in {"M", "machine"}:
            machine |= properties(value, "type")
        elif option == "accel":
            accels.append(value.split(",", maxsplit=1)[0])
        elif option == "enable-kvm":
            accels.append("kvm")
        elif option == "smp":
            processors = _processors(properties(value, "cpus"))
        elif option == "device":
            devices.append(_device(value))
    accel = (accels or machine.get("accel", "tcg").split(":"))[0]
    return Words(machine, accel, processors, tuple(devices))


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Options without their dashes, each with the word that follows."""
    return [
        (word.lstrip("-"), words[at + 1] if at + 1 < len(words) else "")
        for at, word in enumerate(words)
        if word.startswith("-")
    ]


def _device(value: str) -> Device:
    if value.startswith("{"):
        try:
            found = {name: _json_text(each) for name, each in parse_json(value.encode(), "-device").items()}
        except InputError:
            return Device("", {})  # QEMU says what is wrong with it
    else:
        found = properties(value, "driver")
    return Device(found.pop("driver", ""), found)


def _json_text(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def properties(text: str, first: str = "") -> dict[str, str]:
    """ "name=value,name" as a dictionary. A name alone means "on"; `first` names a value alone in front.

    A comma in a value is doubled, as in QEMU.
    """
    found = {}
    for number, part in enumerate(re.split(r"(?<!,),(?!,)", text)):
        name, equals, value = part.replace(",,", ",").partition("=")
        if not equals and not number and first:
            name, value = first, name
        elif not equals:
            value = "on"
        if name:
            found[name] = value
    return found


def is_on(value: str) -> bool:
    """Whether QEMU takes a value as true."""
    return value.lower() in {"on", "yes", "true", "y"}


def number(value: str) -> int | None:
    """A number as QEMU reads it; None for anything else."""
    try:
        return int(value, 0)
    except ValueError:
        return None


def _processors(given: dict[str, str]) -> int:
    counts = {name: number(value) or 1 for name, value in given.items()}
    product = 1
    for name in _COUNTED:
        product *= counts.get(name, 1)
    return max(counts.get("cpus", 1), counts.get("maxcpus", 1), product)
