"""Physical memory, as remapping units and devices access it."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any, Protocol

from iommu.errors import MemoryAccessError, MisuseError
from iommu.files.mapped import NO_RESERVE

_PAGE, _CHUNK = 1 << 12, 1 << 20


class Memory(Protocol):
    """The memory interface of the engine: byte-addressed, little-endian; MemoryAccessError where there is no memory.

    The engine turns that error into the fault that the specification names; it does not reach the caller.
    """

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`; nothing is written if not all of it fits."""
        ...

    def read_u64(self, address: int) -> int:
        """The 64-bit number at `address`."""
        ...


class AtomicMemory(Memory, Protocol):
    """A memory that others write at the same time, and that can exchange an aligned quadword atomically.

    A unit uses `compare_exchange` where hardware updates memory atomically: for the accessed and dirty bits of paging
    entries (spec 3.6.2, 3.7.2), and for posted-interrupt descriptors, one quadword at a time (5.2.3). Over a memory
    without it, a unit reads, compares and writes: what others write in between is lost.
    """

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """Store the 64-bit number `new` at `address`, a multiple of 8, if `expected` is there (LOCK CMPXCHG).

        Returns whether it was stored. MemoryAccessError where there is no memory, or none that can be written.
        """
        ...


Exchange = Callable[[int, int, int], bool]
"""See AtomicMemory.compare_exchange."""


def exchange_of(memory: Memory) -> Exchange:
    """The `compare_exchange` of a memory; for a memory without it, a read and a write, which are not atomic."""
    offered: Exchange | None = getattr(memory, "compare_exchange", None)
    if offered is not None:
        return offered

    def exchange(address: int, expected: int, new: int) -> bool:
        if memory.read_u64(address) != expected:
            return False
        memory.write(address, new.to_bytes(8, "little"))
        return True

    return exchange


class FlatMemory:
    """Contiguous memory from address 0 to `size`, over a buffer or over pages that are allocated when touched.

    Args:
        source: a size in bytes (a multiple of 8) for zeroed memory, which takes no space until it is written; or a
            bytearray, mmap or memoryview to use in place. A read-only buffer cannot be written.

    Units in several threads that share it lose none of each other's exchanges. They may lose what `write` stores in
    another thread, or another process in the same buffer.

    Raises:
        MisuseError: the size is not a positive multiple of 8 bytes.
    """

    def __init__(self, source: int | bytearray | mmap.mmap | memoryview) -> None:
        if isinstance(source, int):
            if source <= 0 or source % 8:
                raise MisuseError(f"memory size {source:#x} is not a positive multiple of 8 bytes")
            source = mmap.mmap(-1, source, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        self._bytes = memoryview(source).cast("B")
        # Aligned words are read a million times a second; "Q" is the host's byte order.
        self.size = len(self._bytes)
        if self.size == 0 or self.size % 8:
            raise MisuseError(f"memory size {self.size:#x} is not a positive multiple of 8 bytes")
        self._words = self._bytes.cast("Q")
        self._aligned = self.size if sys.byteorder == "little" else 0
        # It may be taken again: a `write` that a subclass overrides may lead to another exchange.
        self._exchanging = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the pages that are not all zeroes. A copy has a buffer of its own."""
        pages = {}
        for chunk in self._nonzero(0, self.size, _CHUNK):
            for start in self._nonzero(chunk, min(chunk + _CHUNK, self.size), _PAGE):
                pages[start] = self._bytes[start : start + _PAGE].tobytes()
        own = vars(FlatMemory(8))
        more = {name: value for name, value in vars(self).items() if name not in own}
        return {"size": self.size, "readonly": self._bytes.readonly, "pages": pages, "more": more}

    def _nonzero(self, start: int, end: int, size: int) -> Iterator[int]:
        """The first address of each piece of this size that is not all zeroes."""
        zeroes = bytes(size)
        for address in range(start, end, size):
            piece = self._bytes[address : address + size].tobytes()
            if piece != zeroes[: len(piece)]:
                yield address

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`."""
        FlatMemory.__init__(self, state["size"])
        vars(self).update(state["more"])
        for start, page in state["pages"].items():
            self._bytes[start : start + len(page)] = page
        if state["readonly"]:
            self._bytes = self._bytes.toreadonly()

    @property
    def view(self) -> memoryview:
        """All bytes, in place. `release` fails as long as something else uses them."""
        return self._bytes

    def _check(self, address: int, length: int) -> None:
        if address < 0 or length < 0 or address + length > self.size:
            raise MemoryAccessError(address, length)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises MemoryAccessError beyond the end."""
        self._check(address, length)
        return self._bytes[address : address + length].tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`.

        Raises MemoryAccessError, before anything is written, when it does not fit or the buffer is read-only.
        """
        self._check(address, len(data))
        if self._bytes.readonly:
            raise MemoryAccessError(address, len(data))
        self._bytes[address : address + len(data)] = data

    def release(self) -> None:
        """Give the buffer up, so that its owner can close it. No access is possible after that."""
        self._words.release()
        self._bytes.release()

    def read_u32(self, address: int) -> int:
        """The little-endian 32-bit number at `address`."""
        return int.from_bytes(self.read(address, 4), "little")

    def write_u32(self, address: int, value: int) -> None:
        """Store a little-endian 32-bit number."""
        self.write(address, value.to_bytes(4, "little"))

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at `address`."""
        if 0 <= address < self._aligned and not address & 7:
            return self._words[address >> 3]
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 64-bit number."""
        self.write(address, value.to_bytes(8, "little"))

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """See AtomicMemory."""
        with self._exchanging:
            if self.read_u64(address) != expected:
                return False
            self.write(address, new.to_bytes(8, "little"))
            return True


class _Sized(Memory, Protocol):
    """Memory of a known size in bytes."""

    size: int


class _HeldWrites:
    """Memory in front of which writes are held, in lines, until they are flushed.

    Attributes:
        behind: the memory without the lines that are held.
        size: in bytes.

    Raises:
        MisuseError: the memory size is not a multiple of the line size, 64 bytes.
    """

    LINE = 64

    def __init__(self, behind: _Sized) -> None:
        if behind.size % self.LINE:
            raise MisuseError(f"memory size {behind.size:#x} is not a multiple of {self.LINE} bytes")
        self.behind: Memory = behind
        self.size = behind.size
        self._lines: dict[int, bytearray] = {}

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`, with unflushed writes. Raises MemoryAccessError beyond the end."""
        found = bytearray(self.behind.read(address, length))
        for line in self._lines_of(address, length):
            kept = self._lines.get(line)
            if kept is not None:
                first, last = max(line, address), min(line + self.LINE, address + length)
                found[first - address : last - address] = kept[first - line : last - line]
        return bytes(found)

    def write(self, address: int, data: bytes) -> None:
        """Store `data`, which is held. Raises MemoryAccessError, before anything is written, when it does not fit."""
        self.behind.read(address, len(data))
        for line in self._lines_of(address, len(data)):
            kept = self._lines.setdefault(line, bytearray(self.behind.read(line, self.LINE)))
            first, last = max(line, address), min(line + self.LINE, address + len(data))
            kept[first - line : last - line] = data[first - address : last - address]

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at `address`."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 64-bit number."""
        self.write(address, value.to_bytes(8, "little"))

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """See AtomicMemory; in the caches, as processors do it. For one thread at a time."""
        if self.read_u64(address) != expected:
            return False
        self.write_u64(address, new)
        return True

    def flush(self, address: int, length: int) -> None:
        """Write the lines that hold any of these bytes to the memory behind, and hold them no longer."""
        for line in self._lines_of(address, length):
            kept = self._lines.pop(line, None)
            if kept is not None:
                self.behind.write(line, bytes(kept))

    def flush_all(self) -> None:
        """Write all lines to the memory behind, and hold them no longer."""
        for line, kept in self._lines.items():
            self.behind.write(line, bytes(kept))
        self._lines.clear()

    def _lines_of(self, address: int, length: int) -> range:
        return range(address & -self.LINE, address + length, self.LINE) if length else range(0)


class WriteBuffer(_HeldWrites):
    """Memory behind the write buffer of an old chipset, which table walks do not see (spec 6.8).

        buffer = WriteBuffer(FlatMemory(1 << 20))
        unit = RemappingUnit(buffer, Capabilities(write_buffer_flush=True))
        buffer.write_u64(entry, value)                    a walk does not see this write
        unit.mmio_write(GCMD.offset, GCMD.make(WBF=1), 4)     now it does

    A unit with CAP.RWBF reads its tables behind the buffer. It flushes the buffer when GCMD.WBF completes, and before
    it invalidates its context cache, its IOTLB or its interrupt-entry cache. Processors, the invalidation queue and
    everything else read through the buffer; so do the table walks of a unit without CAP.RWBF. Nothing leaves the
    buffer on its own, as it may on hardware: this is the worst case for software.

    The processors' caches can stand in front: `ProcessorCache(WriteBuffer(memory))`. A line that they flush is in the
    buffer then.
    """

    def __init__(self, behind: FlatMemory) -> None:
        if isinstance(behind, _HeldWrites):
            raise MisuseError(f"a WriteBuffer stands before the memory itself, not before a {type(behind).__name__}")
        super().__init__(behind)


class ProcessorCache(_HeldWrites):
    """Memory behind processor caches: what processors write stays in their caches until they flush it.

        cpu = ProcessorCache(FlatMemory(1 << 20))
        unit = RemappingUnit(cpu, Capabilities(coherent=False))
        cpu.write_u64(entry, value)      the unit does not snoop its tables: it does not see this write
        cpu.flush(entry, 8)              now it does: CLFLUSH; `flush_all` is WBINVD

    Coherent accesses of a unit (ECAP.C, PWSNP) snoop these caches; other accesses read the memory behind them. Lines
    are never written back on their own, as a processor may do: this is the worst case for software.
    """

    def __init__(self, behind: FlatMemory | WriteBuffer) -> None:
        super().__init__(behind)

    def past(self, buffer: WriteBuffer) -> Memory:
        """What a snooped access sees that does not see the write buffer behind these caches."""
        view = _HeldWrites(buffer)
        view.behind, view._lines = buffer.behind, self._lines
        return view


def write_buffer(memory: Memory) -> WriteBuffer | None:
    """The write buffer that `memory`, as processors see it, goes through; None if there is none."""
    behind = memory.behind if isinstance(memory, ProcessorCache) else memory
    return behind if isinstance(behind, WriteBuffer) else None


def walked(memory: Memory, *, behind_buffer: bool) -> tuple[Memory, Memory]:
    """What table walks see of `memory`, as processors see it: those that snoop, and those that do not.

    Args:
        behind_buffer: walks do not see what is in the write buffer.
    """
    unsnooped = memory.behind if isinstance(memory, ProcessorCache) else memory
    if not (behind_buffer and isinstance(unsnooped, WriteBuffer)):
        return memory, unsnooped
    snooped = memory.past(unsnooped) if isinstance(memory, ProcessorCache) else unsnooped.behind
    return snooped, unsnooped.behind
