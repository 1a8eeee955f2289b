"""One serial line of a guest: what it prints, line by line, and every wait for it bounded."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qemu.vtd.guest.errors import GuestEnded, GuestError, GuestTimeout

_LINES_KEPT = 400
_CHUNK = 1 << 16
# As printf of a shell has it: what it prints is not in what we send, should the line be echoed.
_SHELL_MARK = "\\1"
_PANIC = "Kernel panic - not syncing"


class Console:
    """A conversation over one serial line.

    Args:
        name: of the line, for messages.
        connection: our end of the socket; owned from here on.
        step: called when an error is reported; says what the guest was doing.

    Attributes:
        lines: the last lines that came, oldest first, without their ends.
        panic: what the kernel said when it panicked; None while it has not.
    """

    def __init__(self, name: str, connection: socket.socket, step: Callable[[], str]) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self.panic: str | None = None
        self._connection, self._step = connection, step
        self._unread, self._part = "", ""
        self._changed = asyncio.Condition()
        self._ended = self._panic_wanted = False
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watcher: Callable[[str], None] = lambda _: None

    async def open(self) -> None:
        """Start to read."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._reader = asyncio.create_task(self._read(reader), name=f"console {self.name}")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._received(data.decode("utf-8", "replace"))
        except OSError:
            pass
        finally:
            self._ended = True
            async with self._changed:
                self._changed.notify_all()

    async def _received(self, text: str) -> None:
        self._watcher(text)
        text = text.replace("\r", "")
        *whole, self._part = (self._part + text).split("\n")
        self.lines.extend(whole)
        found = next((line for line in whole if _PANIC in line), None)
        if not self._panic_wanted:
            self.panic = self.panic or found
        async with self._changed:
            self._unread += text
            self._changed.notify_all()

    async def send(self, text: str) -> None:
        """Write to the line; `text` holds its own line ends."""
        if self._writer is None:
            raise GuestEnded(f"the {self.name} is not open", self._step(), [])
        self._writer.write(text.encode())
        try:
            await self._writer.drain()
        except OSError:
            raise self._over() from None

    async def run(self, command: str, seconds: float) -> str:
        """What a command prints, in the shell that listens here. Raises GuestError when it fails or does not end."""
        await self.send(f"printf '{_SHELL_MARK}<\\n'; {{ {command}\n}} 2>&1; printf '{_SHELL_MARK}%d>\\n' $?\n")
        found = await self.wait_for("\x01<\n((?:.|\n)*?)\x01(\\d+)>\n", seconds, "the end of the command")
        if found[2] != "0":
            raise GuestError(f"{command!r} ended with status {found[2]}", "", found[1].splitlines())
        return found[1]

    async def wait_for(self, pattern: str, seconds: float, what: str = "") -> re.Match[str]:
        """The first match in what has come since the last match; `what` names it in messages.

        Raises GuestTimeout after `seconds`, GuestEnded when the line is closed or the kernel panics before.
        """
        compiled = re.compile(pattern, re.MULTILINE)
        try:
            async with asyncio.timeout(seconds), self._changed:
                while (found := compiled.search(self._unread)) is None:
                    if self._ended or self.panic is not None:
                        raise self._over()
                    await self._changed.wait()
        except TimeoutError:
            lines = self.last_lines()
            waited_for = f"{what or repr(pattern)} on its {self.name}{'' if lines else ', which has printed nothing'}"
            raise GuestTimeout(waited_for, seconds, self._step(), lines) from None
        self._unread = self._unread[found.end() :]
        return found

    def _over(self) -> GuestEnded:
        why = "the guest's kernel panicked" if self.panic is not None else f"the guest closed its {self.name}"
        return GuestEnded(why, self._step(), self.last_lines())

    @contextmanager
    def watched(self, watcher: Callable[[str], None]) -> Iterator[None]:
        """Call `watcher` with all that comes meanwhile."""
        self._watcher = watcher
        try:
            yield
        finally:
            self._watcher = lambda _: None

    @contextmanager
    def panicking(self) -> Iterator[None]:
        """A panic is wanted meanwhile: it ends no wait."""
        self._panic_wanted = True
        try:
            yield
        finally:
            self._panic_wanted = False

    async def ended(self) -> None:
        """Wait until the guest closes the line."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended)

    def last_lines(self) -> list[str]:
        """The last lines that came, and the one that has no end yet."""
        return [line for line in (*self.lines, self._part) if line.strip()]

    async def close(self) -> None:
        """Close the line."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        self._connection.close()
