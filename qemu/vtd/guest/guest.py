"""A Linux guest under one QEMU, with a device of its own behind a remapping unit.

    async with Guest(iommu={"caching-mode": True}) as guest:
        print(await guest.run("dmesg | grep DMAR"))
        await guest.assign("0000:00:03.0")
        frames = await guest.map(0x1000000, 0x2000)

Nothing is left running after the block, however it is left.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from iommu.dmar import Dmar
from iommu.dmar.images import Image
from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from iommu.snapshot import UnitSnapshot
from qemu.vtd import probe
from qemu.vtd.errors import PropertyMissing, QemuError, QemuUnsuitable, QmpError
from qemu.vtd.guest import initramfs
from qemu.vtd.guest import kernel as kernels
from qemu.vtd.guest.console import Console
from qemu.vtd.guest.errors import GuestEnded, GuestError, GuestTimeout
from qemu.vtd.guest.kernel import Kernel
from qemu.vtd.launch import MIB, option, sealed_memory
from qemu.vtd.probe import Build
from qemu.vtd.process import Process
from qemu.vtd.quirks import POLICY, profile
from qemu.vtd.ram import Ram

EDU = "edu,dma_mask=0xffffffffffff,addr=3"
"""The device that guests own, by default: it copies memory, and needs no driver."""

NO_HELPER = "etc/no-helper"
"""A file of the root file system: where it is, the helper is not started."""

REGISTERS = 0xFED9_0000
_WINDOW = 0x1000
_COMMAND_LINE = "console=ttyS0 quiet loglevel=1 intel_iommu=on panic=-1 hugepages=8 no_timer_check"
_BOOT_SECONDS = 60.0
_QMP_SECONDS = 10.0


class Guest:
    """A Linux guest, from start to guaranteed end. Use it in an `async with` block.

    Args:
        qemu: the program; see `find_qemu`.
        kernel: what to boot; by default Debian's cloud kernel.
        iommu: properties of intel-iommu, by any name a QEMU has had for them; None for no unit.
        devices: `-device` arguments, besides the remapping unit.
        command_line: kernel parameters besides those that every guest gets.
        memory: RAM in bytes, a multiple of 1 MiB up to 2 GiB.
        processors: how many the guest has.
        processor: QEMU's model of them.
        accel: QEMU's accelerator: "tcg" or "kvm".
        added: further files of the root file system, by path; with NO_HELPER the second serial line is free.
        extra: further QEMU arguments.
        refuse: says why a QEMU cannot run such a guest; None when it can.
        boot_seconds: time limit for booting; single answers get `seconds`.

    Attributes:
        console: the first serial line: the kernel's console, and a shell.
        second: the second serial line: the helper's.
        events: the names of the QMP events that came, oldest first: RESET, STOP, GUEST_PANICKED ...
        build: the QEMU; kernel_name: what it booted; booted: after how many seconds.

    Raises:
        NothingToBoot: on entering the block, without a kernel, busybox, cpio or compiler.
        GuestError: it panics, ends or hangs; the message says what it was doing.
    """

    def __init__(
        self,
        qemu: str | None = None,
        *,
        kernel: Kernel | None = None,
        iommu: Mapping[str, str | int | bool] | None = None,
        devices: Sequence[str] = (EDU,),
        command_line: str = "",
        memory: int = 512 * MIB,
        processors: int = 1,
        processor: str = "qemu64",
        accel: str = "tcg",
        added: Mapping[str, bytes] | None = None,
        extra: Sequence[str] = (),
        refuse: Callable[[Build], str | None] = lambda _: None,
        boot_seconds: float = _BOOT_SECONDS,
        seconds: float = 20.0,
    ) -> None:
        if not 128 * MIB <= memory <= 2048 * MIB or memory % MIB:
            raise MisuseError(f"memory {memory:#x} is not a multiple of 1 MiB from 128 MiB to 2 GiB")
        self.accel, self.size = accel, memory
        self._program = probe.find_qemu(qemu)
        self._iommu, self._devices = iommu, tuple(devices)
        self._kernel, self._added = kernel, dict(added or {})
        self._machine = ["-smp", str(processors), "-cpu", processor, *extra]
        self._command_line = f"{_COMMAND_LINE} {command_line}".strip()
        self._boot_seconds, self._seconds = boot_seconds, seconds
        self._step = "starting QEMU"
        self._refuse = refuse
        self.events: list[str] = []
        self.kernel_name, self.booted = "", 0.0
        self._listener: asyncio.Task[None] | None = None
        self._resources = ExitStack()
        self._process: Process | None = None
        self._ram: Ram | None = None
        self._dmar: bytes | None = None

    def _device_words(self) -> list[str]:
        """The `-device` arguments. Raises PropertyMissing for a property that this QEMU does not have."""
        devices = list(self._devices)
        if self._iommu is not None:
            spelled = self.build.spelled(self._iommu)
            devices.insert(0, ",".join(["intel-iommu", *(f"{name}={option(spelled[name])}" for name in spelled)]))
        return [word for each in devices for word in ("-device", each)]

    # From start to end.

    async def __aenter__(self) -> Self:
        try:
            with self.doing("preparing its kernel and root file system"):
                # These may take seconds, and probing has an event loop of its own.
                self.build = await asyncio.to_thread(probe.probe, self._program)
                if (why := self._refuse(self.build)) is not None:
                    raise QemuUnsuitable(why)
                kernel = await asyncio.to_thread(kernels.of_package) if self._kernel is None else self._kernel
                busybox = await asyncio.to_thread(kernels.busybox)
                archive = await asyncio.to_thread(initramfs.build, kernel, busybox, self._added)
                self.kernel_name, started = kernel.name, time.monotonic()
            with self.doing("starting QEMU"):
                await self._launch(["-kernel", str(kernel.image), "-initrd", str(archive)])
            with self.doing("booting"):
                await self.up()
                self.booted = time.monotonic() - started
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _launch(self, boot: Sequence[str]) -> None:
        with ExitStack() as child_side:
            ram = sealed_memory("vtd-ram", self.size, child_side)
            self._ram = Ram(ram, self.size)
            pairs = {name: socket.socketpair() for name in ("console", "agent", "qmp")}
            for ours, theirs in pairs.values():
                self._resources.enter_context(ours)
                child_side.enter_context(theirs)
            words = [self.build.path, *self.build.sandbox, "-nodefaults", "-no-user-config", "-display", "none"]
            words += ["-accel", self.accel, "-m", f"{self.size // MIB}M", "-M", "q35,kernel-irqchip=split"]
            backend = f"memory-backend-file,id=ram,size={self.size},mem-path=/proc/self/fd/{ram},share=on"
            words += ["-object", backend, "-M", "memory-backend=ram", *self._machine, *self._device_words()]
            for name, (_, theirs) in pairs.items():
                words += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
            words += ["-serial", "chardev:console", "-serial", "chardev:agent", "-qmp", "chardev:qmp"]
            words += [*boot, "-append", self._command_line]
            descriptors = [ram, *(theirs.fileno() for _, theirs in pairs.values())]
            self._process = Process(words, descriptors)
        self.console = Console("console", pairs["console"][0], lambda: self._step)
        self.second = Console("second serial line", pairs["agent"][0], lambda: self._step)
        await self.console.open()
        await self.second.open()
        await self._connect(pairs["qmp"][0])

    async def _connect(self, connection: socket.socket) -> None:
        self._client = QMPClient("vtd-guest")
        # We report a lost connection by an exception; the library would also log it.
        self._client.logger.setLevel(logging.CRITICAL)
        try:
            async with asyncio.timeout(_QMP_SECONDS):
                await self._client.connect(connection)
        except (QMPError, EOFError, OSError, TimeoutError):
            assert self._process is not None, "a guest that is launched has a process"
            raise self._process.died() from None
        self._listener = asyncio.create_task(self._listen(), name="guest events")

    async def _listen(self) -> None:
        async for event in self._client.events:
            self.events.append(str(event["event"]))

    async def close(self) -> None:
        """End QEMU and release everything. Does nothing when that has been done."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.end()
        finally:
            if self._listener is not None:
                self._listener.cancel()
                await asyncio.gather(self._listener, return_exceptions=True)
            if "_client" in vars(self) and self._client.runstate is not Runstate.IDLE:
                with suppress(QMPError, EOFError, OSError):
                    await self._client.disconnect()
            for line in (vars(self).get("console"), vars(self).get("second")):
                if line is not None:
                    await line.close()
            self._resources.close()
            ram, self._ram = self._ram, None
            if ram is not None:
                ram.close()

    @contextmanager
    def doing(self, step: str) -> Iterator[None]:
        """Name what the guest is doing meanwhile, for the messages of errors."""
        before, self._step = self._step, step
        try:
            yield
        finally:
            self._step = before

    @asynccontextmanager
    async def within(self, seconds: float, waited_for: str) -> AsyncIterator[None]:
        """Bound what is waited for inside the block. Raises GuestTimeout."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise GuestTimeout(waited_for, seconds, self._step, self.console.last_lines()) from None

    # Conversations.

    async def run(self, command: str, seconds: float | None = None) -> str:
        """What a shell command prints. Raises GuestError when it fails or does not end."""
        with self.doing(f"running {command!r}"):
            return await self.console.run(command, seconds or self._seconds)

    async def ask(self, command: str, seconds: float | None = None) -> list[int]:
        """What the helper on the second serial line answers to a command; see initramfs/vfio.c.

        Raises GuestError when it refuses.
        """
        with self.doing(f"its helper did {command!r}"):
            await self.second.send(command + "\n")
            found = await self.second.wait_for(r"^(ok|error)\b ?(.*)\n", seconds or self._seconds, "an answer")
            if found[1] == "error":
                raise GuestError(f"the guest's helper refuses {command!r}: {found[2]}", "", [])
        return [int(word, 16) for word in found[2].split()]

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """What a QMP command returns; underscores in names of arguments become hyphens. Raises QmpError."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            async with asyncio.timeout(_QMP_SECONDS):
                return await self._client.execute(command, named)
        except ExecuteError as error:
            raise QmpError(command, error.error_class, str(error)) from None
        except (QMPError, EOFError, OSError, TimeoutError):
            raise GuestEnded("QEMU ended", self._step, self.console.last_lines()) from None

    # Its device.

    async def assign(self, address: str) -> None:
        """Give a PCI device to vfio-pci, and to the helper, inside the guest. Raises GuestError."""
        await self.give_to_vfio(address)
        with self.doing(f"assigning {address}"):
            await self.ask(f"open {address}")

    async def give_to_vfio(self, address: str) -> None:
        """Give a PCI device to vfio-pci, for any program inside the guest to own. Raises GuestError."""
        device = f"/sys/bus/pci/devices/{address}"
        with self.doing(f"giving {address} to vfio-pci"):
            await self.run(f"[ ! -e {device}/driver ] || echo {address} > {device}/driver/unbind")
            await self.run(f"echo vfio-pci > {device}/driver_override; echo {address} > /sys/bus/pci/drivers_probe")

    async def map(self, address: int, size: int, *, access: str = "rw", large: bool = False) -> list[int]:
        """Map new memory for the device; the physical address of each page of 4 KiB, or of 2 MiB if `large`."""
        return await self.ask(f"map {address:x} {size:x} {access} {'2m' if large else '4k'}")

    async def unmap(self, address: int, size: int) -> None:
        """Take a mapping away."""
        await self.ask(f"unmap {address:x} {size:x}")

    async def copy(self, source: int, destination: int, length: int) -> None:
        """Have edu read `length` bytes, at most 4096, at one address and write them to another."""
        await self.ask(f"copy {source:x} {destination:x} {length:x}")

    # From outside.

    @property
    def memory(self) -> FlatMemory:
        """Its RAM, shared with QEMU."""
        return self._shared().memory

    def _shared(self) -> Ram:
        if self._ram is None:
            raise QemuError("the guest is not running")
        return self._ram

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """The guest stands still inside the block."""
        await self.qmp("stop")
        try:
            yield
        finally:
            await self.qmp("cont")

    @asynccontextmanager
    async def unit(self, *, strict: bool = False) -> AsyncIterator[RemappingUnit]:
        """A unit of the model with the registers and tables of the guest's, which stands still meanwhile.

        It has nothing cached, and what it writes to memory the guest does not see. It departs from the specification
        as this QEMU does, unless it is `strict`.
        """
        async with self.snapshot() as snapshot:
            yield snapshot.unit() if strict else snapshot.unit(POLICY, profile(self.build.version))

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[UnitSnapshot]:
        """The registers of its remapping unit, and its memory. It stands still meanwhile; writes stay with us."""
        async with self.paused():
            registers = await self.registers()
            with self._shared().private() as memory:
                table = Dmar.parse(self.dmar())
                yield UnitSnapshot("guest", registers, memory, table.header.width, table.units[0].base)

    def dmar(self) -> bytes:
        """The DMAR that its firmware left in memory. Raises QemuError when there is none."""
        if self._dmar is None:
            found = next(Image(self._shared().mapping).dmars(), None)
            if found is None:
                raise QemuError("the guest's memory holds no DMAR: it has no remapping unit")
            self._dmar = found[1]
        return self._dmar

    async def registers(self) -> bytes:
        """The register window of the remapping unit, read without effect on it."""
        if self._iommu is None:
            raise PropertyMissing("intel-iommu", "the guest has no remapping unit")
        return await self.physical(REGISTERS, _WINDOW)

    async def physical(self, address: int, size: int) -> bytes:
        """What a processor would read at a physical address: memory, or registers of a device; quadwords."""
        text = str(await self.qmp("human-monitor-command", command_line=f"xp /{size // 8}gx {address:#x}"))
        words = re.findall(r"0x([0-9a-f]{16})(?!:)", text)
        return b"".join(int(word, 16).to_bytes(8, "little") for word in words)

    async def up(self) -> None:
        """Wait until it has booted, for the first time or again. Raises GuestError."""
        await self.console.wait_for(r"^init: ready$", self._boot_seconds, '"init: ready"')
        await self.run("PS1=")
