"""QMP from ordinary, synchronous code: qemu.qmp behind a private event loop, every wait bounded."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from qemu.vtd.errors import QmpError
from qemu.vtd.process import Process

T = TypeVar("T")

_DISCONNECT_SECONDS = 1.0


@contextmanager
def _interrupting(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[None]:
    """Have Ctrl-C cancel the task, and raise KeyboardInterrupt afterwards instead of whatever came of the task.

    Left alone it is raised between any two instructions; in the middle of an event loop it leaves tasks that
    cannot be tidied up any more. A handler of the program's own is left alone, and so are other threads, which never
    see the signal.
    """
    arrived = threading.Event()

    def cancel(*_: object) -> None:
        arrived.set()
        loop.call_soon_threadsafe(task.cancel)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if arrived.is_set():
            raise KeyboardInterrupt from None


class Qmp:
    """The monitor of one QEMU.

    Args:
        connection: our end of the socket pair; owned from here on.
        process: who is asked, and ended when it does not answer.
        timeout: seconds each command may take.
    """

    def __init__(self, connection: socket.socket, process: Process, timeout: float) -> None:
        self._process = process
        self._timeout = timeout
        self._connection = connection
        self._client = QMPClient("vtd")
        # A lost connection is reported by the exception we raise; the library would print it as well.
        self._client.logger.setLevel(logging.CRITICAL)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def connect(self) -> None:
        """Wait for QEMU's greeting. Raises QemuDied or QemuTimeout when none comes."""
        self._run(lambda: self._client.connect(self._connection), "QMP greeting")

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """What `command` returns. Raises QmpError when it is refused, QemuDied or QemuTimeout when QEMU is lost."""
        return self._run(lambda: self._client.execute(command, arguments), f"QMP {command}")

    def reset(self) -> None:
        """Reset the machine and wait until every device has been reset."""
        self._run(self._reset, "reset")

    async def _reset(self) -> None:
        self._client.events.clear()
        await self._client.execute("system_reset")
        # The command only asks for a reset; the event comes once the devices have gone through it.
        while (await self._client.events.get())["event"] != "RESET":
            pass

    def _run(self, conversation: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        try:
            return self._complete(self._bounded(conversation))
        except TimeoutError:
            raise self._process.hung(what, self._timeout) from None
        except ExecuteError as error:
            raise QmpError(what.removeprefix("QMP "), error.error_class, str(error)) from None
        except (QMPError, EOFError, OSError):
            raise self._process.died() from None

    def _complete(self, conversation: Coroutine[Any, Any, T]) -> T:
        """Run the event loop until the conversation is over; Ctrl-C ends it early, in good order."""
        loop = self._runner.get_loop()
        task = loop.create_task(conversation)
        with _interrupting(loop, task):
            return loop.run_until_complete(task)

    async def _bounded(self, conversation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with asyncio.timeout(self._timeout):
            return await conversation()

    async def _disconnect(self) -> None:
        # Whatever is wrong with a connection that is being given up has been reported already, or no longer matters.
        with suppress(QMPError, EOFError, OSError, TimeoutError):
            async with asyncio.timeout(_DISCONNECT_SECONDS):
                await self._client.disconnect()

    def close(self) -> None:
        """Give up the connection and the event loop."""
        # After a Ctrl-C there may be tasks whose end nobody waits for any more.
        self._runner.get_loop().set_exception_handler(lambda _, __: None)
        try:
            if self._client.runstate is not Runstate.IDLE:
                self._complete(self._disconnect())
        finally:
            self._runner.close()
            self._connection.close()
