"""QEMU's trace events, recorded while a guest runs: witnesses of what its devices and its remapping unit did."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class Trace:
    """Trace events of one QEMU, in memory. Enter its block before the guest's; the guest gets its `arguments`.

        with Trace("vtd_ir_remap_msi") as trace:
            async with Guest(extra=trace.arguments) as guest:
                start = trace.mark()
                ...
                print(trace.lines("vtd_ir_remap_msi", start))

    Args:
        events: their names. QEMU warns of one that it does not have, and goes on.
    """

    def __init__(self, *events: str) -> None:
        self._events = events

    def __enter__(self) -> Self:
        self._descriptor = os.memfd_create("vtd-trace", os.MFD_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def arguments(self) -> Sequence[str]:
        """QEMU's arguments."""
        chosen = [word for event in self._events for word in ("-trace", event)]
        return ["-D", f"/proc/{os.getpid()}/fd/{self._descriptor}", *chosen]

    def mark(self) -> int:
        """Where the next event will be."""
        return os.fstat(self._descriptor).st_size

    def lines(self, event: str, start: int = 0) -> list[str]:
        """What followed the name of an event, each time that it occurred since a mark, oldest first."""
        text = os.pread(self._descriptor, max(self.mark() - start, 0), start).decode("latin-1")
        return re.findall(f"{event} (.*)\n", text)

    def last(self, event: str) -> int:
        """Where the last event of this name ends; 0 when there was none."""
        text = os.pread(self._descriptor, self.mark(), 0).decode("latin-1")
        found = [match.end() for match in re.finditer(f"{event} .*\n", text)]
        return found[-1] if found else 0


def numbers(line: str) -> list[int]:
    """The numbers in what an event printed, decimal or hexadecimal, in order."""
    return [int(word, 0) for word in re.findall(r"\b(?:0x[0-9a-f]+|\d+)\b", line)]
