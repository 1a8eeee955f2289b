"""Memory in a snapshot file: pages that are not all zeroes, in compressed frames that are unpacked when read.

A frame holds 256 pages, the last one the rest, in order of address. Nothing is unpacked before it is needed, and
never more than a frame is expected to hold: what a file claims about its size costs no memory.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import zstandard

from iommu.errors import FormatError
from iommu.snapshot.memory import PAGE, OverlaidMemory

PAGES_IN_FRAME = 256
RUN, FRAME = struct.Struct("<QQ"), struct.Struct("<I")
_KEPT = 64
_LAST_PAGE = 1 << 52


class PackedMemory(OverlaidMemory):
    """Physical memory in compressed frames. What is written to it stays in this process.

    Args:
        ranges: the addresses at which there is memory, ascending; pages there that no run has are zero.
        runs: pages in a row, as (number of the first page, how many), ascending; a number is an address >> 12.
        sizes: the size in bytes of each frame.
        frames: the frames, one behind the other.

    Raises:
        FormatError: they contradict each other.
    """

    def __init__(
        self,
        ranges: Sequence[range],
        runs: Sequence[tuple[int, int]],
        sizes: Sequence[int],
        frames: memoryview | bytes,
    ) -> None:
        super().__init__(ranges)
        self._runs = list(runs)
        self._frames, self._sizes = memoryview(frames), list(sizes)
        self._firsts = [first for first, _ in self._runs]
        self._before, self._offsets = [0], [0]
        end = 0
        for n, (first, count) in enumerate(self._runs):
            if first < end or not 0 < count <= _LAST_PAGE - first:
                raise _wrong("runs", n * RUN.size, "page", first, "the pages are not in order")
            end = first + count
            self._before.append(self._before[-1] + count)
        for size in self._sizes:
            self._offsets.append(self._offsets[-1] + size)
        if len(self._sizes) != -(-self._before[-1] // PAGES_IN_FRAME):
            raise _wrong("frames", 0, "count", len(self._sizes), f"{self._before[-1]} pages need another number")
        if self._offsets[-1] != len(self._frames):
            raise _wrong("frames", 0, "size", self._offsets[-1], f"there are {len(self._frames)} bytes of frames")
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which do not need the file."""
        return vars(self) | {"_frames": self._frames.tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse."""
        vars(self).update(state, _frames=memoryview(state["_frames"]))

    def stored(self) -> Iterator[range]:
        """See OverlaidMemory."""
        return (range(first * PAGE, (first + count) * PAGE) for first, count in self._runs)

    def stretch(self, number: int, count: int) -> bytes:
        """See OverlaidMemory. Raises FormatError where the frames are damaged."""
        found, end = bytearray(count * PAGE), number + count
        for index in range(max(bisect_right(self._firsts, number) - 1, 0), len(self._runs)):
            first, pages = self._runs[index]
            if first >= end:
                break
            page, stop = max(first, number), min(first + pages, end)
            while page < stop:
                frame, at = divmod(self._before[index] + page - first, PAGES_IN_FRAME)
                size = min(stop - page, PAGES_IN_FRAME - at)
                where = (page - number) * PAGE
                found[where : where + size * PAGE] = self._frame(frame)[at * PAGE : (at + size) * PAGE]
                page += size
        return bytes(found)

    def _frame(self, number: int) -> bytes:
        if number in self._unpacked:
            self._unpacked.move_to_end(number)
            return self._unpacked[number]
        start, size = self._offsets[number], self._sizes[number]
        expected = min(PAGES_IN_FRAME, self._before[-1] - number * PAGES_IN_FRAME) * PAGE
        data = self._frames[start : start + size]
        try:
            stated = zstandard.get_frame_parameters(data).content_size
            if stated != expected:
                raise _wrong("pages", start, f"frame {number}", stated, f"it has to unpack to {expected} bytes")
            unpacked = zstandard.ZstdDecompressor().decompress(data, max_output_size=expected)
        except zstandard.ZstdError as error:
            raise _wrong("pages", start, f"frame {number}", None, f"damaged: {error}") from None
        self._unpacked[number] = unpacked
        if len(self._unpacked) > _KEPT:
            self._unpacked.popitem(last=False)
        return unpacked


def _wrong(where: str, offset: int, field: str, value: int | None, message: str) -> FormatError:
    return FormatError(message, offset=offset, where=f"memory/{where}", field=field, value=value)
