"""qtest over a serial line: a guest's second line, which a QEMU inside the guest has taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from qemu.vtd.errors import QtestError
from qemu.vtd.guest.console import Console
from qemu.vtd.guest.errors import GuestTimeout
from qemu.vtd.pipeline import Pipeline

_TRIES, _TRY_SECONDS = 20, 1.0
_MARK = "in-step"


class SerialQtest:
    """The protocol of `qemu.vtd.qtest`, where every byte passes the guest's serial driver.

    Args:
        line: the guest's serial line.
        seconds: time limit for one exchange.
    """

    def __init__(self, line: Console, seconds: float = 30.0) -> None:
        self._line, self._seconds = line, seconds

    async def synchronize(self) -> None:
        """Wait until it answers. Raises GuestTimeout."""
        # What is sent while the line is being opened is lost, so the question is repeated; an empty line, which the
        # rest of a cut one may be, would abort QEMU: the caller waits until the line is open.
        for left in reversed(range(_TRIES)):
            await self._line.send("endianness\n")
            try:
                await self._line.wait_for(r"^OK little\n", _TRY_SECONDS)
                break
            except GuestTimeout:
                if not left:
                    raise
        # The answers to the other repetitions come before this one.
        await self._line.send(f"{_MARK}\n")
        await self._line.wait_for(f"^FAIL Unknown command '{_MARK}'\n", self._seconds)

    async def exchange(self, lines: Sequence[str]) -> list[str]:
        """Send command lines; what follows "OK" in each answer. Raises QtestError, GuestTimeout."""
        await self._line.send("".join(f"{line}\n" for line in lines))
        answers = []
        for line in lines:
            answer = (await self._line.wait_for(r"^(.*)\n", self._seconds))[1]
            if not answer.startswith("OK"):
                raise QtestError(line[:80], answer[:80])
            answers.append(answer[3:])
        return answers

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Pipeline]:
        """Collect commands in a with-block; they are sent at its end, unless an exception leaves it."""
        pipeline = Pipeline(_unused)
        yield pipeline
        lines, fill = pipeline.take()
        fill(await self.exchange(lines))


def _unused(lines: Sequence[str]) -> list[str]:
    raise NotImplementedError("the block's end sends the commands")
