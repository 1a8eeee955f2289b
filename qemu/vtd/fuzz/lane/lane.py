"""The fast lane: thousands of random worlds at once, run by the agent in a QEMU and compared with the engine.

with FastLane("sid", "legacy", seed=1) as lane:
    result = lane.run(0)
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from iommu import Access, Capabilities, DmaRequest, FlatMemory, RemappingUnit
from iommu.dmar import Dmar
from iommu.errors import MisuseError
from iommu.registers import CAP, ECAP, GCMD, RTADDR
from qemu.vtd import probe
from qemu.vtd.agent import OPERATION, Agent, firmware_with
from qemu.vtd.devices import Rocker
from qemu.vtd.fuzz.lane.areas import MAILBOX, RAM_SIZE, SCRIPT, SCRIPT_SIZE
from qemu.vtd.fuzz.lane.batch import LENGTH, SLOT, SOURCE_ID, Batch, Side, Target
from qemu.vtd.fuzz.lane.compare import Comparison
from qemu.vtd.fuzz.lane.judge import TAKE_ROOT
from qemu.vtd.fuzz.lane.modes import MODES
from qemu.vtd.fuzz.lane.result import BatchResult
from qemu.vtd.fuzz.lane.shared import SharedRam
from qemu.vtd.fuzz.lane.worlds import Maker
from qemu.vtd.machine import Machine
from qemu.vtd.quirks import POLICY, profile
from qemu.vtd.quirks.quirk import Version

CASES = 4096
"""In a batch, if the mode allows as many."""
# Memory enough for one world.
_SMALL = 1 << 20


class FastLane:
    """One QEMU, fed with batches.

    Use it in a with-block; QEMU ends with the block.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.
        mode: the kind of worlds, one of `MODES`.
        seed: with the number of a batch it decides all that is random in it.
        timeout: how long a batch may take, in seconds.

    Attributes:
        machine: the QEMU.
        ram: its memory.

    Raises:
        MisuseError: the mode is not one of those.
        PropertyMissing: this QEMU does not offer it.
    """

    def __init__(
        self, qemu: str | None = None, mode: str = "legacy", seed: int = 0, *, timeout: float = 60.0
    ) -> None:
        if mode not in MODES:
            raise MisuseError(f"the fast lane has no mode {mode!r}; it has {', '.join(MODES)}")
        self.mode, self.seed = mode, seed
        build = probe.probe(probe.find_qemu(qemu))
        self.machine = Machine(
            build.path,
            memory=RAM_SIZE,
            iommu=build.spelled(MODES[mode].properties),
            devices=[Rocker(SLOT)],
            # The processor works all the time; and if a stray write makes it fail, it must not start anew.
            skip_idle_time=False,
            bios=firmware_with(MAILBOX),
            extra=["-no-reboot"],
            timeout=timeout,
        )
        self._next: Batch | None = None

    def __enter__(self) -> Self:
        self.machine.__enter__()
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the QEMU. Does nothing when it has ended."""
        for part in ("_agent", "ram"):
            if part in vars(self):
                getattr(self, part).release()
        self._next = None
        self.machine.close()

    def _set_up(self) -> None:
        machine, kind = self.machine, MODES[self.mode]
        base, (device,) = machine.register_base, machine.devices
        assert isinstance(device, Rocker)
        host_width = Dmar.parse(machine.dmar(), strict=False).header.host_address_width + 1
        cap, ecap = machine.qtest.read(base + CAP.offset, 8), machine.qtest.read(base + ECAP.offset, 8)
        capabilities = Capabilities.from_registers(cap, ecap, host_width)
        unit = RemappingUnit(FlatMemory(8), capabilities, POLICY)
        made = kind.made(unit, SOURCE_ID)
        makers = Maker(made, roots_too=False), Maker(made, roots_too=True)
        units = _units(machine.version, capabilities, makers[0], kind.table_mode)
        seed = self.seed, kind.number
        target = Target(machine.version, capabilities, base, device.registers, kind.table_mode, makers, units, seed)
        self._sides = Side(target), Side(target)
        self._comparison = Comparison(self.mode, self.seed, self._culprit)
        self.ram = SharedRam(machine.ram)
        self._agent = Agent(machine, MAILBOX, SCRIPT, SCRIPT_SIZE // OPERATION.itemsize)
        self._finished = time.perf_counter()

    def run(self, number: int, cases: int = 0) -> BatchResult:
        """Run a batch and compare it; the next one is made meanwhile.

        Args:
            number: of the batch.
            cases: in it; 0 for as many as are usual.

        Raises:
            MisuseError: there can be no such batch.
            QemuDied, QemuTimeout: QEMU has ended in the middle, or has not got to the end in time.
        """
        most = MODES[self.mode].cases
        cases = cases or min(most, CASES)
        if not 0 < cases <= most or number < 0:
            raise MisuseError(f"a batch has 1 to {most} cases and a number from 0 on, not {cases} and {number}")
        batch = self._take(number, cases)
        operations = batch.steps.operations
        self.ram.load(batch.side.image, operations.view(np.uint64))
        self._start()
        self._next = self._sides[(number + 1) % 2].make(number + 1, cases)
        done = self._agent.operations[: len(operations)]
        self._finish(f"batch {number} of seed {self.seed}", done)
        result = self._comparison.compare(batch, batch.steps.take(done), self.ram)
        now = time.perf_counter()
        result.seconds, self._finished = now - self._finished, now
        return result

    def _culprit(self, batch: Batch, place: int) -> int:
        """Find the case that writes this word, by running the batch again up to one case or another.

        In the end all of it has run, and the memory is as before.
        """
        batch = batch.side.make(batch.number, len(batch.worlds))
        image = batch.side.image

        def writes_by(count: int) -> bool:
            operations = batch.steps.first(count)
            self.ram.clear()
            self.ram.load(image, operations.view(np.uint64))
            self._start()
            self._finish(f"batch {batch.number} again", self._agent.operations[: len(operations)])
            return bool(self.ram.words[place] != image.words[place])

        least, most = 0, len(batch.worlds)
        if not writes_by(most):
            return -1
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (least, middle) if writes_by(middle) else (middle, most)
        writes_by(len(batch.worlds))
        return least

    def _start(self) -> None:
        """Let the operations be carried out."""
        self._agent.start()

    def _finish(self, what: str, operations: NDArray[np.void]) -> None:
        """Wait until they are. They are in the guest's memory, where those that read change."""
        self._agent.wait(what)

    def _take(self, number: int, cases: int) -> Batch:
        """The batch: the one made last, if it is that."""
        batch, self._next = self._next, None
        if batch is not None and (batch.number, len(batch.worlds)) == (number, cases):
            return batch
        return self._sides[number % 2].make(number, cases)


def _units(
    version: Version, capabilities: Capabilities, maker: Maker, mode: int
) -> tuple[RemappingUnit, RemappingUnit]:
    """Two units like the QEMU's: one in which the device has no tables, and one in which it has used some."""
    memory, unit = FlatMemory(_SMALL), profile(version)
    with_tables, without = unit(memory, capabilities, POLICY), unit(FlatMemory(8), capabilities, POLICY)
    rng = np.random.default_rng(0)
    choices = maker.choose(1, rng)
    choices.edits.clear()
    world = maker.alone(choices, LENGTH, _SMALL // 2, _SMALL // 8 - 1, 0)
    for place, word in zip(*world.contents(), strict=True):
        memory.write(int(place) * 8, int(word).to_bytes(8, "little"))
    for each in (with_tables, without):
        each.mmio_write(RTADDR.offset, int(world.roots[0]) | RTADDR.make(TTM=mode), 8)
        each.mmio_write(GCMD.offset, TAKE_ROOT, 4)
    with_tables.translate(DmaRequest(SOURCE_ID, int(world.addresses[0]), Access.READ))
    return without, with_tables
