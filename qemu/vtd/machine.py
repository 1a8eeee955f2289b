"""One QEMU with a remapping unit, from start to guaranteed cleanup.

    with Machine(iommu={"aw-bits": 48}, devices=[Rocker(4), Edu(5)]) as machine:
        machine.memory.write(0x1000, tables)
        machine.qtest.write(machine.register_base + 0x20, 0x1000, 8)
        machine.reset()

The machine runs inside the block; nothing is left running after it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

from iommu.dmar import Dmar
from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from qemu.vtd import acpi, answers, firmware, probe
from qemu.vtd.devices.source import DmaSource
from qemu.vtd.errors import DeviceError, PropertyMissing, QemuError, QemuUnsuitable
from qemu.vtd.launch import MIB, DeviceSpec, Inherited, Shape, sealed_memory
from qemu.vtd.pci import Pci, source_id
from qemu.vtd.process import Process
from qemu.vtd.qmp import Qmp
from qemu.vtd.qtest import Qtest
from qemu.vtd.ram import Ram

# Above this size q35 places part of the RAM above 4 GiB, and RAM offsets no longer equal physical addresses.
LARGEST_MEMORY = 2048 * MIB

# How often the progress of a migration, which takes some 20 ms, is looked at.
_POLL_SECONDS = 0.002
# How often memory is looked at for what the guest leaves there.
_GUEST_POLL_SECONDS = 50e-6


class Machine:
    """A q35 machine whose processor halts at reset and whose devices are driven from outside.

    Use it in a with-block: however the block is left, the process is ended and reaped, the sockets are closed and
    the memory is released. QEMU also ends, with all that it has started, when this process ends, even by SIGKILL.
    Nothing is written to disk and there is no network.

    Args:
        qemu: the program; see `find_qemu`.
        memory: RAM in bytes, a multiple of 1 MiB up to 2 GiB. The machine does not see 0xa0000 to 0xfffff of it.
        iommu: properties of intel-iommu by their QEMU name (see `build.iommu_properties`); None for no unit.
        devices: the devices to add, in this order.
        root_buses: numbers of root buses besides bus 0: those of pxb-pcie host bridges among the devices.
        accel: QEMU's accelerator: "tcg" or "kvm".
        skip_idle_time: let virtual time jump to the next timer whenever the processor is idle, so that waiting for a
            device takes no real time. Only under tcg; guest code runs more slowly.
        bios: the firmware image, see `firmware.image`; by default one that halts.
        trace: names of trace events to record; see `trace_lines`.
        extra: further QEMU arguments.
        timeout: time limit for any single answer, in seconds.

    Attributes:
        build: the QEMU that is used: version, properties, devices.
        devices: the devices of the machine.

    Raises:
        MisuseError: an argument is out of range.
        QemuNotFound, QemuUnsuitable: no suitable QEMU.
        QemuDied, QemuTimeout: on entering the block, when QEMU does not start.
    """

    def __init__(
        self,
        qemu: str | os.PathLike[str] | None = None,
        *,
        memory: int = 32 * MIB,
        iommu: Mapping[str, str | int | bool] | None = None,
        devices: Sequence[DeviceSpec] = (),
        root_buses: Sequence[int] = (),
        accel: str = "tcg",
        skip_idle_time: bool = True,
        bios: bytes | None = None,
        trace: Sequence[str] = (),
        extra: Sequence[str] = (),
        timeout: float = 10.0,
    ) -> None:
        if not MIB <= memory <= LARGEST_MEMORY or memory % MIB:
            raise MisuseError(f"memory {memory:#x} is not a multiple of 1 MiB from 1 MiB to 2 GiB")
        self.build = probe.probe(probe.find_qemu(qemu))
        self.devices = list(devices)
        self._shape = Shape(memory, iommu, self.devices, accel, skip_idle_time, list(extra), list(trace))
        self._bios = firmware.halting() if bios is None else bios
        self._timeout = timeout
        self._root_buses = tuple(root_buses)
        self._check_features()
        self._running: _Running | None = None

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version: major, minor, micro."""
        return self.build.version

    def arguments(self) -> list[str]:
        """QEMU's arguments for such a machine; its firmware and what connects it to us are not among them."""
        return self._shape.arguments()

    def _check_features(self) -> None:
        """Report missing features before QEMU is started: its own messages depend on the version."""
        qemu = f"QEMU {'.'.join(map(str, self.version))}"
        for property_name in self._shape.iommu or ():
            if property_name not in self.build.iommu_properties:
                offered = ", ".join(sorted(self.build.iommu_properties))
                what = f"{qemu}: intel-iommu has no property {property_name!r}; it has {offered}"
                raise PropertyMissing(property_name.removeprefix("x-"), what)
        known = self.build.devices
        for device in self.devices:
            if isinstance(device, DmaSource) and device.model in probe.MODELS and device.model not in known:
                raise QemuUnsuitable(f"{qemu} has no device {device.model}")

    def __enter__(self) -> Self:
        if self._running is not None:
            raise MisuseError("the machine is running already")
        self._running = _Running()
        try:
            self._launch(self._running)
            self._plug(self._running)
            for device in self._sources:
                device.attach(self)
                device.setup()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and release everything. Does nothing when the machine is not running."""
        running, self._running = self._running, None
        for device in self._sources:
            device.detach()
        if running is not None:
            running.close()

    @property
    def _sources(self) -> list[DmaSource]:
        return [device for device in self.devices if isinstance(device, DmaSource)]

    def _launch(self, running: _Running, incoming: socket.socket | None = None) -> None:
        """Start the process, and connect to it. With `incoming`, it waits for another QEMU's state from there."""
        with ExitStack() as child_side:
            ram = sealed_memory("vtd-ram", self._shape.memory, child_side)
            bios = sealed_memory("vtd-bios", len(self._bios), child_side)
            os.pwrite(bios, self._bios, 0)
            running.trace = os.memfd_create("vtd-trace")
            running.resources.callback(os.close, running.trace)
            ends = [socket.socketpair() for _ in range(2)]
            for ours, theirs in ends:
                running.resources.enter_context(ours)
                child_side.enter_context(theirs)
            (qtest, their_qtest), (qmp, their_qmp) = ends
            running.ram = Ram(ram, self._shape.memory)
            state = None if incoming is None else incoming.fileno()
            inherited = Inherited(ram, bios, their_qtest.fileno(), their_qmp.fileno(), running.trace, state)
            process = running.process = Process(self._shape.command_line(self.build, inherited), inherited.all())
        running.qmp = Qmp(qmp, process, self._timeout)
        running.resources.callback(running.qmp.close)
        running.qmp.connect()
        running.qtest = Qtest(qtest, process, self._timeout)

    def _plug(self, running: _Running) -> None:
        """Set up PCI."""
        running.pci = Pci(running.qtest, self._root_buses)
        running.pci.set_up()

    def migrate(self) -> None:
        """Move to a second QEMU, started alike, that goes on where this one stops; this one then ends.

        `memory`, `qtest` and `pci` are other objects afterwards. Not all devices can be migrated, nor all of their
        state; see `DmaSource.resume`.

        Raises QmpError when QEMU refuses, QemuDied or QemuTimeout when either QEMU fails. This one is kept then; it
        is stopped if its state had been sent already.
        """
        old, new = self._started(), _Running()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                self._launch(new, theirs)
                old.qmp.send_descriptor("migration", ours.fileno())
                ours.close()
                old.qmp.execute("migrate", {"uri": "fd:migration"})
                self._await(old, "query-migrate", "completed")
                self._await(new, "query-status", "running")
            except BaseException:
                new.close()
                raise
        self._running = new
        old.close()
        self._plug(new)
        for device in self._sources:
            device.resume(self)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float | None = None) -> None:
        """Wait until a condition is met that the guest brings about, by looking again and again.

        Args:
            what: what is waited for, for the message.
            seconds: the time limit, by default that of any answer.

        Raises QemuDied when QEMU has ended, QemuTimeout when the time is over; it is ended then.
        """
        process, limit = self._process(), self._timeout if seconds is None else seconds
        deadline = time.monotonic() + limit
        look_at_process = time.monotonic() + _POLL_SECONDS
        while not condition():
            time.sleep(_GUEST_POLL_SECONDS)
            if (now := time.monotonic()) < look_at_process:
                continue
            look_at_process = now + _POLL_SECONDS
            if not process.running:
                if condition():
                    return
                raise process.died()
            if now > deadline:
                raise process.hung(what, limit)

    def _await(self, running: _Running, query: str, status: str) -> None:
        """Repeat a query until it returns this status. Raises QemuTimeout; QemuError when migration has failed."""
        deadline = time.monotonic() + self._timeout
        while (found := running.qmp.read(query, answers.progress)).status != status:
            if found.status == "failed":
                raise QemuError(f"migration failed: {found.error or 'no reason given'}")
            if time.monotonic() > deadline:
                assert running.process is not None, "a machine that is running has a process"
                raise running.process.hung(f"QMP {query}: {status}", self._timeout)
            time.sleep(_POLL_SECONDS)

    def _started(self) -> _Running:
        if self._running is None:
            raise QemuError("the machine is not running")
        return self._running

    def _process(self) -> Process:
        process = self._started().process
        assert process is not None, "a machine that is running has a process"
        return process

    @property
    def memory(self) -> FlatMemory:
        """The machine's RAM, shared with QEMU."""
        return self.ram.memory

    @property
    def ram(self) -> Ram:
        """The same, with ways to clear it and to find what has changed."""
        return self._started().ram

    @property
    def qtest(self) -> Qtest:
        """Ports, memory-mapped registers, the clock."""
        return self._started().qtest

    @property
    def pci(self) -> Pci:
        """PCI configuration space, and the addresses of the BARs."""
        return self._started().pci

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process().pid

    def stderr(self) -> list[str]:
        """The last lines QEMU wrote, oldest first."""
        return self._process().stderr()

    def qmp(self, command: str, exact: Mapping[str, object] | None = None, /, **arguments: object) -> Any:
        """What a QMP command returns.

        Args:
            exact: arguments under exactly these names.
            arguments: further arguments; underscores in their names become hyphens.

        Raises QmpError when the command is refused, QemuDied or QemuTimeout when QEMU does not answer.
        """
        renamed = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._started().qmp.execute(command, {**(exact or {}), **renamed})

    def hmp(self, text: str) -> str:
        """What a human monitor command prints."""
        return self._started().qmp.read("human-monitor-command", answers.text, {"command-line": text})

    def trace_lines(self) -> list[str]:
        """The trace events recorded since the last call. Those of every access that has been answered are there."""
        running = self._started()
        size = os.fstat(running.trace).st_size
        text = os.pread(running.trace, size - running.traced, running.traced).decode("latin-1")
        running.traced = size
        return text.splitlines()

    def reset(self) -> None:
        """Reset the machine (`system_reset`), then set up PCI and the devices again. RAM keeps its contents."""
        running = self._started()
        running.qmp.reset()
        running.pci.set_up()
        running.buses.clear()
        for device in self._sources:
            device.setup()

    def bus_number(self, bus: str) -> int:
        """The number of the bus behind the port or bridge with this QEMU id.

        Raises DeviceError when there is no such port or bridge.
        """
        return self._bus(bus).number

    def renumber_bus(self, bus: str, number: int) -> None:
        """Give the bus behind a port or bridge another number, until the next reset. No other bus may have it.

        Raises DeviceError when there is no such port or bridge.
        """
        found = self._bus(bus)
        self.pci.renumber(found.bridge, number)
        self._started().buses[bus] = _Bus(found.bridge, number)

    def _bus(self, bus: str) -> _Bus:
        buses = self._started().buses
        if not buses:
            buses |= self._started().qmp.read("query-pci", _all_buses)
        if bus not in buses:
            raise DeviceError(f"no port or bridge {bus!r}; there are: {', '.join(buses) or 'none'}")
        return buses[bus]

    def acpi_tables(self) -> dict[str, list[bytes]]:
        """The ACPI tables QEMU built, by signature; see `acpi.tables`."""
        return acpi.tables(self.qtest, self.memory)

    def dmar(self) -> bytes:
        """The DMAR table QEMU built, its checksum still zero. Raises DeviceError when there is no remapping unit."""
        return acpi.dmar(self.qtest, self.memory)

    @property
    def register_base(self) -> int:
        """Address of the remapping unit's registers, from the DMAR. Raises DeviceError when there is no unit."""
        running = self._started()
        if running.register_base is None:
            running.register_base = Dmar.parse(self.dmar(), strict=False).units[0].base
        return running.register_base


class _Bus(NamedTuple):
    """A bus: the source-id of the port or bridge above it, and its number."""

    bridge: int
    number: int


class _Running:
    """The resources that exist only while the process runs."""

    ram: Ram
    qmp: Qmp
    qtest: Qtest
    pci: Pci

    def __init__(self) -> None:
        self.process: Process | None = None
        self.resources = ExitStack()
        self.buses: dict[str, _Bus] = {}
        self.register_base: int | None = None
        self.trace = -1
        self.traced = 0

    def close(self) -> None:
        """End the process first: once it has ended, nothing else can block."""
        try:
            if self.process is not None:
                self.process.end()
        finally:
            if "ram" in vars(self):
                self.ram.close()
            self.resources.close()


def _all_buses(roots: list[dict[str, Any]]) -> dict[str, _Bus]:
    """Buses by the id of the port or bridge above them, from the answer to `query-pci`."""
    return _buses([device for root in roots for device in root["devices"]])


def _buses(devices: list[dict[str, Any]]) -> dict[str, _Bus]:
    """Buses by the id of the port or bridge above them, from the devices that `query-pci` lists for a bus."""
    found: dict[str, _Bus] = {}
    for device in devices:
        if "pci_bridge" in device:
            numbers = device["pci_bridge"]["bus"]
            bridge = source_id(numbers["number"], device["slot"], device["function"])
            found[device["qdev_id"]] = _Bus(bridge, numbers["secondary"])
            found |= _buses(device["pci_bridge"].get("devices", []))
    return found
