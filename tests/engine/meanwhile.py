"""Memory that somebody else writes just before the unit exchanges a quadword."""

from __future__ import annotations

from collections.abc import Callable

from iommu import FlatMemory


def nothing(_address: int) -> None:
    """Nothing happens. A function with a name can be pickled."""


class MeanwhileMemory(FlatMemory):
    """Memory in which things happen at an exchange.

    Attributes:
        meanwhile: by the address of the quadword, what happens before its next exchange, once.
        always: the same before every exchange, with the address.
        exchanges: the addresses of all exchanges, in order.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.meanwhile: dict[int, Callable[[], None]] = {}
        self.always: Callable[[int], None] = nothing
        self.exchanges: list[int] = []

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        self.exchanges.append(address)
        self.meanwhile.pop(address, lambda: None)()
        self.always(address)
        return super().compare_exchange(address, expected, new)


class PlainMemory:
    """Memory without a compare-exchange."""

    def __init__(self, behind: FlatMemory) -> None:
        self.behind = behind

    def read(self, address: int, length: int) -> bytes:
        """See Memory."""
        return self.behind.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """See Memory."""
        self.behind.write(address, data)

    def read_u64(self, address: int) -> int:
        """See Memory."""
        return self.behind.read_u64(address)
