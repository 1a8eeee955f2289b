"""The user's terminal at a guest's console."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from iommu.files.text import beneath
from qemu.vtd.guest.console import Console

_SCRIPT_SECONDS = 60.0
LEAVE = b"\x1d"
"""Ctrl-]: leaves the console, and ends the guest."""


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Pass every key on as it is, Ctrl-C too; nothing changes where there is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def connect(console: Console) -> None:
    """Pass keys to the console and its output to stdout, until Ctrl-], the end of stdin, or the end of the guest."""
    loop, keys = asyncio.get_running_loop(), asyncio.Queue[bytes]()
    source, into = sys.stdin.fileno(), beneath(sys.stdout).buffer

    def show(text: str) -> None:
        into.write(text.encode())
        into.flush()

    with raw(source), console.watched(show):
        reader = _reader(loop, source, keys)
        ended = asyncio.create_task(console.ended())
        try:
            await _pass_on(console, keys, ended)
        finally:
            ended.cancel()
            reader()


async def _pass_on(console: Console, keys: asyncio.Queue[bytes], ended: asyncio.Task[None]) -> None:
    while not ended.done():
        key = asyncio.create_task(keys.get())
        await asyncio.wait((key, ended), return_when=asyncio.FIRST_COMPLETED)
        if not key.done():
            key.cancel()
            return
        data = key.result()
        before, leave, _ = data.partition(LEAVE)
        if before:
            await console.send(before.decode("utf-8", "replace"))
        if leave:
            return
        if not data:
            # The end of a script: the guest does what it was told before, then ends.
            await console.send("poweroff -f\n")
            await asyncio.wait((ended,), timeout=_SCRIPT_SECONDS)
            return


def _reader(loop: asyncio.AbstractEventLoop, source: int, keys: asyncio.Queue[bytes]) -> Callable[[], object]:
    """Queue what comes from `source`; returns what stops that. A file cannot be waited for, and is read at once."""
    try:
        loop.add_reader(source, lambda: keys.put_nowait(os.read(source, 4096)))
    except PermissionError:
        while data := os.read(source, 4096):
            keys.put_nowait(data)
        keys.put_nowait(b"")
        return lambda: None
    return lambda: loop.remove_reader(source)
