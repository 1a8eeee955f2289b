"""guest/console.py: waits that end, and what their messages say."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from qemu.vtd.guest.console import Console
from qemu.vtd.guest.errors import GuestEnded, GuestError, GuestTimeout

pytestmark = pytest.mark.asyncio


class Line:
    """A console, and the guest's end of it."""

    def __init__(self) -> None:
        ours, self.guest = socket.socketpair()
        self.guest.setblocking(False)
        self.console = Console("console", ours, lambda: "booting")

    async def prints(self, text: str) -> None:
        """The guest prints."""
        await asyncio.get_running_loop().sock_sendall(self.guest, text.encode())


@pytest_asyncio.fixture
async def line() -> AsyncIterator[Line]:
    found = Line()
    await found.console.open()
    yield found
    await found.console.close()
    found.guest.close()


async def test_a_wait_ends_with_the_first_match_and_goes_on_after_it(line: Line) -> None:
    await line.prints("one: 1\none: 2\n")
    assert (await line.console.wait_for(r"one: (\d)\n", 5))[1] == "1"
    assert (await line.console.wait_for(r"one: (\d)\n", 5))[1] == "2"


async def test_a_match_may_come_in_pieces(line: Line) -> None:
    waiting = asyncio.create_task(line.console.wait_for(r"^init: ready$", 5))
    for piece in ("ini", "t: rea", "dy\r\n"):
        await line.prints(piece)
        await asyncio.sleep(0)
    assert (await waiting)[0] == "init: ready"


async def test_a_wait_is_bounded_and_says_what_was_printed_last(line: Line) -> None:
    await line.prints("Loading ...\nstill loading")
    with pytest.raises(
        GuestTimeout, match=r"no answer from the guest within 0\.1 s .*ready.*, while booting"
    ) as raised:
        await line.console.wait_for("ready", 0.1)
    assert raised.value.lines == ["Loading ...", "still loading"]
    assert raised.value.console() == "    Loading ...\n    still loading\n"


async def test_a_panic_ends_every_wait(line: Line) -> None:
    await line.prints("[    0.1] Kernel panic - not syncing: No working init found.\n")
    with pytest.raises(GuestEnded, match="the guest's kernel panicked, while booting") as raised:
        await line.console.wait_for("ready", 5)
    assert "No working init found" in raised.value.console()


async def test_a_panic_that_is_wanted_ends_no_wait_then_or_later(line: Line) -> None:
    with line.console.panicking():
        await line.prints("[    9.1] Kernel panic - not syncing: sysrq triggered crash\nready\n")
        assert await line.console.wait_for("ready", 5)
    await line.prints("ready again\n")
    assert await line.console.wait_for("ready again", 5)
    await line.prints("[    9.2] Kernel panic - not syncing: Fatal exception\n")
    with pytest.raises(GuestEnded, match="the guest's kernel panicked"):
        await line.console.wait_for("ready", 5)


async def test_a_closed_line_ends_every_wait(line: Line) -> None:
    waiting = asyncio.create_task(line.console.wait_for("ready", 5))
    await line.prints("going down\n")
    line.guest.shutdown(socket.SHUT_RDWR)
    with pytest.raises(GuestEnded, match="the guest closed its console"):
        await waiting


async def test_writing_to_a_closed_line_is_an_error_of_the_guest(line: Line) -> None:
    line.guest.close()
    with pytest.raises(GuestError):
        for _ in range(100):
            await line.console.send("x" * 65536)


async def test_bytes_that_are_no_text_do_no_harm(line: Line) -> None:
    await asyncio.get_running_loop().sock_sendall(line.guest, b"\xff\xfe\x00ready\n")
    assert await line.console.wait_for("ready", 5)
