"""The host's side of the agent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qemu.vtd.agent.image import number
from qemu.vtd.agent.script import OPERATION
from qemu.vtd.errors import DeviceError
from qemu.vtd.machine import Machine

_WORDS = number("MAILBOX_SIZE") // 4
_SEQ, _DONE = number("MAILBOX_SEQ") // 4, number("MAILBOX_DONE") // 4
_SCRIPT, _STOPPED = number("MAILBOX_SCRIPT") // 4, number("MAILBOX_STOPPED") // 4


class Agent:
    """The agent in a running machine, which was started with `firmware_with(mailbox)`.

    Args:
        machine: the machine.
        mailbox: the address of the mailbox.
        address: where scripts are placed.
        capacity: the number of operations that there is room for.

    Attributes:
        operations: that room, as an array of `OPERATION`s. Operations that read change in it.
    """

    def __init__(self, machine: Machine, mailbox: int, address: int, capacity: int) -> None:
        self._machine, self._address = machine, address
        ram = machine.ram.mapping
        self._mailbox: NDArray[np.uint32] = np.frombuffer(ram, "<u4", _WORDS, mailbox)
        self.operations: NDArray[np.void] = np.frombuffer(ram, OPERATION, capacity, address)

    def start(self, first: int = 0) -> None:
        """Let the script run that begins with this operation; see `wait`. Raises QemuDied, QemuTimeout."""
        self._mailbox[_SCRIPT] = self._address + first * OPERATION.itemsize
        self._mailbox[_SEQ] = self._mailbox[_DONE] + np.uint32(1)
        self._machine.qmp("inject-nmi")

    @property
    def running(self) -> bool:
        """Whether a script has been started that has not ended."""
        return bool(self._mailbox[_SEQ] != self._mailbox[_DONE])

    def wait(self, what: str) -> None:
        """Wait until the script has ended.

        Raises:
            QemuDied, QemuTimeout: QEMU has ended, or did not get to the end in time; `what` says what it was doing.
            DeviceError: the script holds an operation that does not exist.
        """
        self._machine.wait_until(lambda: not self.running, what)
        if stopped := int(self._mailbox[_STOPPED]):
            self._mailbox[_STOPPED] = 0
            position = (stopped - self._address) // OPERATION.itemsize
            raise DeviceError(f"the agent found no operation in step {position} of {what}")

    def run(self, what: str) -> None:
        """Run the script at the start of `operations` to its end; raises as `wait` does."""
        self.start()
        self.wait(what)

    def release(self) -> None:
        """Let go of the machine's memory."""
        self._mailbox = self.operations = np.empty(0, np.uint32)
