"""QMP from ordinary, synchronous code: qemu.qmp behind a private event loop, every wait bounded."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from qemu.vtd.answers import understood
from qemu.vtd.errors import QemuError, QmpError

T = TypeVar("T")
R = TypeVar("R")

_DISCONNECT_SECONDS = 1.0


@contextmanager
def _interrupting(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[None]:
    """Make Ctrl-C cancel the task, then raise KeyboardInterrupt whatever the task's result.

    By default KeyboardInterrupt is raised between any two instructions. In the middle of an event loop that leaves
    tasks which can no longer be cleaned up. A handler that the program installed stays in place, and other threads
    are unaffected: they never receive the signal.
    """
    arrived = threading.Event()

    def cancel(*_: object) -> None:
        arrived.set()
        loop.call_soon_threadsafe(task.cancel)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if arrived.is_set():
            raise KeyboardInterrupt from None


class Peer(Protocol):
    """The QEMU at the other end: what to raise when it does not answer. qemu.vtd.process.Process is one."""

    def died(self) -> QemuError:
        """It broke off the connection."""
        ...

    def hung(self, waited_for: str, seconds: float) -> QemuError:
        """It did not answer in time."""
        ...


class Qmp:
    """The monitor of one QEMU.

    Args:
        connection: our end of the socket pair; owned from here on.
        process: the QEMU process; if it is ours, it is killed when it does not answer.
        timeout: time limit for each command, in seconds.
    """

    def __init__(self, connection: socket.socket, process: Peer, timeout: float) -> None:
        self._process = process
        self._timeout = timeout
        self._connection = connection
        self._client = QMPClient("vtd")
        # We report a lost connection by an exception; the library would also log it.
        self._client.logger.setLevel(logging.CRITICAL)
        # Of the other events, and of this one, any number could come.
        self._client.events.names.add("RESET")
        self._client.events.event_filter = lambda _: self._client.events.empty()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def connect(self) -> None:
        """Wait for QEMU's greeting. Raises QemuDied or QemuTimeout when none comes."""
        self._run(lambda: self._client.connect(self._connection), "QMP greeting")

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """What `command` returns.

        Raises QmpError when it is refused, QemuDied or QemuTimeout when QEMU does not answer.
        """
        return self._run(lambda: self._client.execute(command, arguments), f"QMP {command}")

    def read(self, command: str, reader: Callable[[Any], R], arguments: dict[str, object] | None = None) -> R:
        """What `reader`, one of qemu.vtd.answers, makes of the answer to a command.

        Raises as `execute`, and FalseAnswer.
        """
        return understood(command, self.execute(command, arguments), reader)

    def send_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of a file descriptor, under this name. Raises as `execute`."""
        self._run(lambda: self._send_descriptor(name, descriptor), "QMP getfd")

    async def _send_descriptor(self, name: str, descriptor: int) -> None:
        # The descriptor travels ahead of the command that takes it.
        self._client.send_fd_scm(descriptor)
        await self._client.execute("getfd", {"fdname": name})

    def reset(self) -> None:
        """Reset the machine and wait until every device has been reset."""
        self._run(self._reset, "reset")

    async def _reset(self) -> None:
        self._client.events.clear()
        await self._client.execute("system_reset")
        # The command only requests a reset; the event arrives once the devices have been reset.
        await self._client.events.get()

    def _run(self, conversation: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        try:
            return self._complete(self._bounded(conversation))
        except TimeoutError:
            raise self._process.hung(what, self._timeout) from None
        except ExecuteError as error:
            raise QmpError(what.removeprefix("QMP "), error.error_class, str(error)) from None
        except (QMPError, EOFError, OSError, ValueError, RecursionError):
            # The last two are a line that is too long, and a structure that is too deep.
            raise self._process.died() from None

    def _complete(self, conversation: Coroutine[Any, Any, T]) -> T:
        """Run the event loop until the conversation is over; Ctrl-C cancels it cleanly."""
        loop = self._runner.get_loop()
        task = loop.create_task(conversation)
        with _interrupting(loop, task):
            return loop.run_until_complete(task)

    async def _bounded(self, conversation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with asyncio.timeout(self._timeout):
            return await conversation()

    async def _disconnect(self) -> None:
        # An error on a connection that is being closed has already been reported, or does not matter.
        with suppress(QMPError, EOFError, OSError, TimeoutError, ValueError, RecursionError):
            async with asyncio.timeout(_DISCONNECT_SECONDS):
                await self._client.disconnect()

    def close(self) -> None:
        """Close the connection and the event loop."""
        # After Ctrl-C there may be tasks that nobody awaits.
        self._runner.get_loop().set_exception_handler(lambda _, __: None)
        try:
            if self._client.runstate is not Runstate.IDLE:
                self._complete(self._disconnect())
        finally:
            self._runner.close()
            self._connection.close()
