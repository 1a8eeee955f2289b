"""The source of snapshots behind `--qmp SOCKET [--pid PID]`. It is loaded whenever `vtd` starts."""

# ruff: noqa: PLC0415 - what a capture needs is imported when there is one

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from iommu.errors import MisuseError
from iommu.snapshot.sources import Option

if TYPE_CHECKING:
    from iommu.snapshot.snapshot import Snapshot


class _Qemu:
    """A running QEMU."""

    options: Sequence[Option] = (
        Option("--qmp", "SOCKET", "A running QEMU, by its QMP socket. It stands still while it is read."),
        Option("--pid", "PID", "Its process. Default: the one behind the socket."),
    )

    def open(self, place: Path | None, given: Mapping[str, str]) -> AbstractContextManager[Snapshot] | None:
        """See iommu.snapshot.sources.Source."""
        if place is not None:
            return None
        if "--qmp" not in given:
            raise MisuseError("--pid needs --qmp SOCKET: the process alone does not say where its guest's memory is")
        from qemu.vtd.live.capture import captured

        return captured(Path(given["--qmp"]), _pid(given.get("--pid")))


def _pid(text: str | None) -> int | None:
    if text is not None and not re.fullmatch(r"[1-9][0-9]{0,9}", text):
        raise MisuseError(f"--pid {text!r} is not a process id")
    return None if text is None else int(text)


QEMU = _Qemu()
