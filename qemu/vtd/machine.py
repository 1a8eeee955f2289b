"""One QEMU with a remapping unit, from its start to its certain end.

    with Machine(iommu={"aw-bits": 48}, devices=[Rocker(4), Edu(5)]) as machine:
        machine.memory.write(0x1000, tables)
        machine.qtest.write(machine.register_base + 0x20, 0x1000, 8)
        machine.reset()

Inside the block the machine runs; after it nothing of it is left.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from iommu.dmar import Dmar
from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from qemu.vtd import acpi, firmware, probe
from qemu.vtd.devices.source import DmaSource
from qemu.vtd.errors import DeviceError, QemuError, QemuUnsuitable
from qemu.vtd.launch import MIB, DeviceSpec, Inherited, Shape, sealed_memory
from qemu.vtd.pci import Pci
from qemu.vtd.process import Process
from qemu.vtd.qmp import Qmp
from qemu.vtd.qtest import Qtest

# Beyond it q35 moves part of the RAM above 4 GiB, and an offset in it would no longer be an address.
LARGEST_MEMORY = 2048 * MIB


class Machine:
    """A q35 machine whose processor halts at once and whose devices are driven from outside.

    Use it in a with-block: on every way out the process is killed and collected, the sockets are closed and the
    memory is given up. It also ends when the thread that entered the block ends, even by SIGKILL (where util-linux's
    setpriv exists). Nothing is written to disk and there is no network.

    Args:
        qemu: the program; see `find_qemu`.
        memory: RAM in bytes, a multiple of 1 MiB up to 2 GiB. From 0xa0000 to 0xfffff the machine does not see it.
        iommu: properties of intel-iommu by their QEMU name (`build.iommu_properties` has them); None for no unit.
        devices: what to plug in, in this order.
        accel: QEMU's accelerator: "tcg" or "kvm".
        skip_idle_time: let virtual time jump to the next timer whenever the processor idles, so that a device that
            takes its time costs none of ours. Only under tcg; it slows code that the processor runs.
        bios: the firmware, see `firmware.image`; by default it halts.
        extra: further arguments for QEMU.
        timeout: seconds any single answer may take.

    Attributes:
        build: the QEMU there is: version, properties, devices.
        devices: what is plugged in.

    Raises:
        MisuseError: an argument is out of its range.
        QemuNotFound, QemuUnsuitable: no QEMU that can do what is asked.
        QemuDied, QemuTimeout: on entering, when it does not start.
    """

    def __init__(
        self,
        qemu: str | os.PathLike[str] | None = None,
        *,
        memory: int = 32 * MIB,
        iommu: Mapping[str, str | int | bool] | None = None,
        devices: Sequence[DeviceSpec] = (),
        accel: str = "tcg",
        skip_idle_time: bool = True,
        bios: bytes | None = None,
        extra: Sequence[str] = (),
        timeout: float = 10.0,
    ) -> None:
        if not MIB <= memory <= LARGEST_MEMORY or memory % MIB:
            raise MisuseError(f"memory {memory:#x} is not a multiple of 1 MiB from 1 MiB to 2 GiB")
        self.build = probe.probe(probe.find_qemu(qemu))
        self.devices = list(devices)
        self._shape = Shape(memory, iommu, self.devices, accel, skip_idle_time, list(extra))
        self._bios = firmware.halting() if bios is None else bios
        self._timeout = timeout
        self._check_abilities()
        self._running: _Running | None = None

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version: major, minor, micro."""
        return self.build.version

    def _check_abilities(self) -> None:
        """Say what this QEMU lacks before it is started: its own words for that are many and version-dependent."""
        which = f"QEMU {'.'.join(map(str, self.version))}"
        for name in self._shape.iommu or ():
            if name not in self.build.iommu_properties:
                offered = ", ".join(sorted(self.build.iommu_properties))
                raise QemuUnsuitable(f"{which}: intel-iommu has no property {name!r}; it has {offered}")
        known = self.build.devices
        for device in self.devices:
            if isinstance(device, DmaSource) and device.model in probe.MODELS and device.model not in known:
                raise QemuUnsuitable(f"{which} has no device {device.model}")

    def __enter__(self) -> Self:
        if self._running is not None:
            raise MisuseError("the machine is running already")
        self._running = _Running()
        try:
            self._start(self._running)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and give everything up. Does nothing when there is nothing."""
        running, self._running = self._running, None
        for device in self.devices:
            if isinstance(device, DmaSource):
                device.detach()
        if running is not None:
            running.close()

    def _start(self, running: _Running) -> None:
        with ExitStack() as child_side:
            ram = sealed_memory("vtd-ram", self._shape.memory, child_side)
            bios = sealed_memory("vtd-bios", len(self._bios), child_side)
            os.pwrite(bios, self._bios, 0)
            ends = [socket.socketpair() for _ in range(2)]
            for ours, theirs in ends:
                running.resources.enter_context(ours)
                child_side.enter_context(theirs)
            (qtest, their_qtest), (qmp, their_qmp) = ends
            running.memory = FlatMemory(mmap.mmap(ram, self._shape.memory))
            inherited = Inherited(ram, bios, their_qtest.fileno(), their_qmp.fileno())
            process = running.process = Process(self._shape.command_line(self.build, inherited), inherited.all())
        running.qmp = Qmp(qmp, process, self._timeout)
        running.resources.callback(running.qmp.close)
        running.qmp.connect()
        running.qtest = Qtest(qtest, process, self._timeout)
        running.pci = Pci(running.qtest)
        running.pci.set_up()
        for device in self.devices:
            if isinstance(device, DmaSource):
                device.attach(self)
                device.setup()

    def _alive(self) -> _Running:
        if self._running is None:
            raise QemuError("the machine is not running")
        return self._running

    def _process(self) -> Process:
        process = self._alive().process
        assert process is not None, "a machine that has been entered has a process"
        return process

    @property
    def memory(self) -> FlatMemory:
        """The machine's RAM, shared both ways."""
        return self._alive().memory

    @property
    def qtest(self) -> Qtest:
        """Ports, memory-mapped registers, the clock."""
        return self._alive().qtest

    @property
    def pci(self) -> Pci:
        """Configuration space, and where the BARs are."""
        return self._alive().pci

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._process().pid

    def stderr(self) -> list[str]:
        """The last lines QEMU wrote, oldest first."""
        return self._process().stderr()

    def qmp(self, command: str, exact: Mapping[str, object] | None = None, /, **arguments: object) -> Any:
        """What a QMP command returns.

        Args:
            exact: arguments under the very names QEMU gives them.
            arguments: more of them; an underscore in a name stands for a hyphen.

        Raises QmpError when the command is refused, QemuDied or QemuTimeout when QEMU is lost.
        """
        renamed = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._alive().qmp.execute(command, {**(exact or {}), **renamed})

    def hmp(self, text: str) -> str:
        """What a command of the human monitor prints."""
        return str(self.qmp("human-monitor-command", command_line=text))

    def reset(self) -> None:
        """Reset the machine as its button would, and set PCI and the devices up again. RAM keeps its content."""
        running = self._alive()
        running.qmp.reset()
        running.pci.set_up()
        for device in self.devices:
            if isinstance(device, DmaSource):
                device.setup()

    def bus_number(self, bus: str) -> int:
        """The number of the bus behind the port or bridge with that QEMU id.

        Raises DeviceError when there is no such port or bridge.
        """
        buses = self._alive().buses
        if not buses:
            buses |= _secondary_buses([device for root in self.qmp("query-pci") for device in root["devices"]])
        if bus not in buses:
            raise DeviceError(f"there is no port or bridge {bus!r}; there are: {', '.join(buses) or 'none'}")
        return buses[bus]

    def acpi_tables(self) -> dict[str, list[bytes]]:
        """The ACPI tables QEMU built, by signature; see `acpi.tables`."""
        return acpi.tables(self.qtest, self.memory)

    def dmar(self) -> bytes:
        """The DMAR table QEMU built, its checksum blank. Raises DeviceError when there is no remapping unit."""
        return acpi.dmar(self.qtest, self.memory)

    @property
    def register_base(self) -> int:
        """Where the remapping unit's registers are, from the DMAR. Raises DeviceError when there is no unit."""
        running = self._alive()
        if running.register_base is None:
            running.register_base = Dmar.parse(self.dmar(), strict=False).units[0].base
        return running.register_base


class _Running:
    """What exists only while the process does."""

    memory: FlatMemory
    qmp: Qmp
    qtest: Qtest
    pci: Pci

    def __init__(self) -> None:
        self.process: Process | None = None
        self.resources = ExitStack()
        self.buses: dict[str, int] = {}
        self.register_base: int | None = None

    def close(self) -> None:
        """End the process first: once it is gone, nothing else can block."""
        try:
            if self.process is not None:
                self.process.end()
        finally:
            # An exception that is still being looked at refers to us; the memory need not wait for that.
            vars(self).pop("memory", None)
            self.resources.close()


def _secondary_buses(devices: list[dict[str, Any]]) -> dict[str, int]:
    """Bus numbers by the id of the port or bridge they are behind, from what `query-pci` says of a bus's devices."""
    found: dict[str, int] = {}
    for device in devices:
        if "pci_bridge" in device:
            found[device["qdev_id"]] = device["pci_bridge"]["bus"]["secondary"]
            found |= _secondary_buses(device["pci_bridge"].get("devices", []))
    return found
