"""Memory whose accesses raise what only an embedding program can know."""

from __future__ import annotations

from tests.engine.scalable_world import CountingMemory


class Unplugged(Exception):
    """An exception of the embedding program."""


class FailingMemory(CountingMemory):
    """Memory of which one access raises, as `arm` says. Nothing is read or written by that access."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._left: int | None = None
        self._error: BaseException = Unplugged()

    def arm(self, access: int, error: BaseException) -> None:
        """Access number `access` from now on, 0 for the next, raises `error`; those after it work."""
        self._left, self._error = access, error

    def disarm(self) -> bool:
        """No access fails from now on. Returns whether one has failed."""
        failed, self._left = self._left is not None and self._left < 0, None
        return failed

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == -1:
                raise self._error

    def read(self, address: int, length: int) -> bytes:
        self._count()
        return super().read(address, length)

    def read_u64(self, address: int) -> int:
        self._count()
        return super().read_u64(address)

    def write(self, address: int, data: bytes) -> None:
        self._count()
        super().write(address, data)
