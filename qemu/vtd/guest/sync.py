"""Guests for programs without an event loop: each call returns when it is done.

with SyncGuest(Guest(iommu={"caching-mode": True})) as guest:
    print(guest.run("dmesg | grep DMAR"))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from iommu.errors import MisuseError
from iommu.memory import FlatMemory
from qemu.vtd.guest.guest import Guest

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _done(
    method: Callable[Concatenate[Guest, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SyncGuest, _P], _T]:
    """The method of SyncGuest that waits for one of Guest."""

    @wraps(method)
    def call(self: SyncGuest, /, *words: _P.args, **options: _P.kwargs) -> _T:
        return self.wait(method(self.guest, *words, **options))

    return call


def _block(
    method: Callable[Concatenate[Guest, _P], AbstractAsyncContextManager[_T]],
) -> Callable[Concatenate[SyncGuest, _P], AbstractContextManager[_T]]:
    """The method of SyncGuest for a `with` block, made of one of Guest for an `async with` block."""

    @wraps(method)
    @contextmanager
    def call(self: SyncGuest, /, *words: _P.args, **options: _P.kwargs) -> Iterator[_T]:
        manager = method(self.guest, *words, **options)
        entered = self.wait(manager.__aenter__())
        try:
            yield entered
        finally:
            self.wait(manager.__aexit__(None, None, None))

    return call


class SyncGuest:
    """A guest in a `with` block. Its methods are those of Guest, and raise the same errors.

    What the guest prints and what QEMU reports between two calls is read by the next one.

    Args:
        guest: not yet started, such as `Guest(...)` or `guest_of(variant(...))`.

    Attributes:
        guest: the same.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._runner: asyncio.Runner | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            resources.callback(setattr, self, "_runner", None)
            self._runner = resources.enter_context(asyncio.Runner())
            self.wait(self.guest.__aenter__())
            resources.callback(lambda: self.wait(self.guest.close()))
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What a coroutine returns, such as `guest.guest.console.wait_for("ready", 10)`; Ctrl-C ends it.

        Raises MisuseError outside the block.
        """
        if self._runner is None:
            work.close()
            raise MisuseError("the guest is not running: use it inside its with block")
        return self._runner.run(work)

    run, ask, qmp = _done(Guest.run), _done(Guest.ask), _done(Guest.qmp)
    assign, give_to_vfio = _done(Guest.assign), _done(Guest.give_to_vfio)
    map, unmap, copy = _done(Guest.map), _done(Guest.unmap), _done(Guest.copy)
    registers, physical, up = _done(Guest.registers), _done(Guest.physical), _done(Guest.up)
    paused, unit, snapshot = _block(Guest.paused), _block(Guest.unit), _block(Guest.snapshot)

    @property
    def memory(self) -> FlatMemory:
        """See Guest."""
        return self.guest.memory

    @property
    def events(self) -> Sequence[str]:
        """See Guest."""
        return self.guest.events

    def dmar(self) -> bytes:
        """See Guest."""
        return self.guest.dmar()
