"""A VM that runs for its user: QEMU, its sockets, and what is in it.

    with Vm(Plan(topology="ports")) as vm:
        print(vm.sockets["qmp"], vm.devices)
        vm.wait()

Nothing is left after the block: no process, no socket, no directory. When we are killed, the guard ends QEMU and
removes the directory with the sockets. Should the guard be killed too, the next VM that starts removes it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu.vtd import answers, firmware, probe
from qemu.vtd.errors import QemuDied, QemuUnsuitable
from qemu.vtd.launch import sealed_memory
from qemu.vtd.pci import Pci
from qemu.vtd.private_cache import PROGRAM
from qemu.vtd.process import Process
from qemu.vtd.qmp import Qmp
from qemu.vtd.qtest import Qtest
from qemu.vtd.vm.check import host_obstacles, missing_models
from qemu.vtd.vm.functions import Function, functions, numbered
from qemu.vtd.vm.plan import Plan
from qemu.vtd.vm.run_directory import RunDirectory
from qemu.vtd.vm.topologies import named

SOCKETS = ("qmp", "qtest", "console")
_ANSWER_SECONDS = 20.0
# How long firmware may take to number the buses, and how often that is looked at.
_FIRMWARE_SECONDS = 20.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Ready:
    """A VM that runs.

    Attributes:
        sockets: the paths of its UNIX sockets: "qmp", "qtest" and "console".
        register_base: the address of the remapping unit's registers; None when there is no unit.
        devices: its PCI functions; empty when firmware has not numbered the buses in time.
    """

    sockets: dict[str, Path]
    register_base: int | None
    devices: list[Function]


class Vm:
    """A VM, from start to guaranteed end. Use it in a with-block.

    Args:
        plan: what is wanted.
        qemu: the program; see `find_qemu`.

    Attributes:
        build: the QEMU that is used.
        ready: what there is to talk to.

    Raises:
        QemuUnsuitable: a physical device cannot be assigned, or this QEMU lacks a device.
        QemuDied: on entering the block, when QEMU refuses its arguments; the message is QEMU's own.
    """

    def __init__(self, plan: Plan, qemu: str | None = None) -> None:
        self.plan = plan
        self.build = probe.probe(probe.find_qemu(qemu))
        self._resources = ExitStack()
        self._process: Process | None = None

    def __enter__(self) -> Self:
        refused = [*missing_models(self.plan, self.build), *host_obstacles(self.plan)]
        if refused:
            raise QemuUnsuitable(f"{refused[0].what}; {refused[0].remedy}")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU and remove the sockets and their directory. Does nothing when that has been done."""
        try:
            if self._process is not None:
                self._process.end()
        finally:
            self._resources.close()

    def wait(self) -> None:
        """Wait until QEMU ends by itself. Raises QemuDied when that is a failure."""
        process = self._running()
        if process.running:
            process.wait()
        if process.status:
            raise process.died()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running().pid

    def _running(self) -> Process:
        assert self._process is not None, "used inside the with-block"
        return self._process

    def _start(self) -> None:
        directory = self._resources.enter_context(RunDirectory())
        self.directory = directory.path
        sockets = {name: directory.socket(name) for name in SOCKETS}
        ours, theirs = socket.socketpair()
        with ours, ExitStack() as child_side:
            listening = {name: child_side.enter_context(_listen(path)) for name, path in sockets.items()}
            words = [self.build.path, *self.build.sandbox, *self.plan.words(self.build), *_connections(listening)]
            descriptors = [theirs.fileno(), *(each.fileno() for each in listening.values())]
            if not self.plan.boots:
                bios = sealed_memory("vtd-bios", firmware.SIZE, child_side)
                os.pwrite(bios, firmware.halting(), 0)
                words += ["-bios", f"/proc/self/fd/{bios}"]
                descriptors.append(bios)
            words += ["-chardev", f"socket,id=vtd,fd={theirs.fileno()}", "-mon", "chardev=vtd,mode=control"]
            child_side.enter_context(theirs)
            self._process = Process(words, descriptors, remove=directory.path)
            child_side.close()
            self.ready = self._look(ours, sockets)

    def _look(self, connection: socket.socket, sockets: dict[str, Path]) -> Ready:
        """What is in the machine, over a monitor of our own, which is closed again."""
        process = self._running()
        qmp = Qmp(connection, process, _ANSWER_SECONDS)
        try:
            qmp.connect()
            if not self.plan.boots:
                self._set_up_pci(sockets["qtest"])
            regions = qmp.read("human-monitor-command", answers.text, {"command-line": "info mtree"})
            base = re.search(r"([0-9a-f]+)-[0-9a-f]+ \(.*\): intel_iommu\s", regions)
            return Ready(sockets, int(base[1], 16) if base else None, _functions(qmp))
        finally:
            qmp.close()

    def _set_up_pci(self, path: Path) -> None:
        """Number the buses and place the BARs, as firmware would have done, over the socket that others use later."""
        connection = socket.socket(socket.AF_UNIX)
        with connection:
            connection.connect(str(path))
            qtest = Qtest(connection, self._running(), _ANSWER_SECONDS)
            Pci(qtest, named(self.plan.topology).topology.root_buses).set_up()


def _listen(path: Path) -> socket.socket:
    """A UNIX socket that QEMU inherits: it takes connections from the moment its path exists."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def _connections(listening: dict[str, socket.socket]) -> list[str]:
    words = []
    for name, each in listening.items():
        words += ["-chardev", f"socket,id=vtd-{name},fd={each.fileno()},server=on,wait=off"]
    words += ["-mon", "chardev=vtd-qmp,mode=control", "-serial", "chardev:vtd-console"]
    return [*words, "-object", "qtest,id=vtd-qtest-server,chardev=vtd-qtest,log=none"]


def _functions(qmp: Qmp) -> list[Function]:
    """The functions of the VM, once all buses have numbers; none when firmware takes too long."""
    deadline = time.monotonic() + _FIRMWARE_SECONDS
    while time.monotonic() < deadline:
        if qmp.read("query-pci", numbered):
            return qmp.read("query-pci", functions)
        time.sleep(_POLL_SECONDS)
    return []


def refusal(plan: Plan, build: probe.Build) -> str | None:
    """What QEMU itself says against these arguments; None when it starts. Its processors never run."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            monitor = ["-chardev", f"socket,id=vtd,fd={theirs.fileno()}", "-mon", "chardev=vtd,mode=control", "-S"]
            process = Process([build.path, *build.sandbox, *plan.words(build), *monitor], [theirs.fileno()])
        qmp = Qmp(ours, process, _ANSWER_SECONDS)
        try:
            qmp.connect()
            qmp.execute("query-status")
        except QemuDied as error:
            return _complaint(error)
        finally:
            qmp.close()
            process.end()
    return None


def _complaint(error: QemuDied) -> str:
    """What QEMU wrote before it ended: its last message that is not a warning, without its name in front."""
    named = re.compile(rf"{PROGRAM}: (?!warning: )(.*)")
    said = [found[1] for found in map(named.match, error.stderr) if found]
    return said[-1] if said else str(error)
