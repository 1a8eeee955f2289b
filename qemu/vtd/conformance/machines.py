"""The QEMUs of a run: started when a scenario needs one, replaced when a scenario left one that cannot be trusted."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from iommu import VtdError
from qemu.vtd.conformance.setups import Setup
from qemu.vtd.errors import DeviceError, PropertyMissing, QemuDied, QemuError, QemuTimeout, QemuUnsuitable
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.quirks import Version

# How long an answer may take; and how long once this QEMU has been seen not to answer.
_ANSWER_SECONDS = 10.0
_NEXT_ANSWER_SECONDS = 3.0
# A start that fails for no reason of ours, on a busy machine, may succeed when it is tried again.
_STARTS = 2
# A QEMU that hangs in every scenario must not take hours.
_HANGS = 8


class NotOffered(VtdError):
    """This QEMU cannot give the unit or the devices that a setup needs; the message names what it lacks."""


class Machines:
    """One QEMU at a time, for one setup after the other.

    Use it in a with-block; no QEMU is left after it.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.

    Attributes:
        judge_by: the version whose quirks are expected; None for QEMU's own.
        last: id of the scenario last run on the running QEMU; empty when there was none.
    """

    def __init__(self, qemu: str | None, judge_by: Version | None = None) -> None:
        self._qemu = qemu
        self.judge_by = judge_by
        self.last = ""
        self._platform: QemuPlatform | None = None
        self._key: object = None
        self._failed: dict[object, list[VtdError]] = {}
        self._hangs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def get(self, setup: Setup) -> QemuPlatform:
        """A running QEMU for a setup.

        Raises:
            NotOffered: this QEMU cannot give such a unit.
            QemuError: it does not start, or has hung too often; nor will it for the next scenarios.
        """
        if self._platform is not None and self._key == setup.machine:
            return self._platform
        self._end()
        if self._hangs >= _HANGS:
            raise QemuError(f"not run: before, QEMU did not answer {self._hangs} times")
        failed = self._failed.setdefault(setup.machine, [])
        if len(failed) >= _STARTS:
            raise failed[-1]
        self._platform, self._key = self._start(setup, failed), setup.machine
        return self._platform

    def _start(self, setup: Setup, failed: list[VtdError]) -> QemuPlatform:
        while True:
            try:
                properties = dict(setup.properties)
                seconds = _NEXT_ANSWER_SECONDS if self._hangs else _ANSWER_SECONDS
                return QemuPlatform(self._qemu, properties, setup.topology, seconds).__enter__()
            except PropertyMissing as lack:
                raise NotOffered(f"its intel-iommu has no property {lack.name}") from None
            except QemuUnsuitable as lack:
                raise NotOffered(str(lack)) from None
            except VtdError as error:
                if setup.refused and isinstance(error, QemuDied) and setup.refused in str(error):
                    raise NotOffered(f"it refuses such a unit: {setup.refused}") from None
                failed.append(error)
                self._hangs += isinstance(error, QemuTimeout)
                if len(failed) >= _STARTS:
                    raise

    def failed(self, cause: Exception) -> None:
        """End the running QEMU, unless `cause` only says that its unit did not do what a driver waits for.

        Such a unit is reset before the next scenario, as every unit is.
        """
        self._hangs += isinstance(cause, QemuTimeout | DeviceError)
        if isinstance(cause, QemuError) or not isinstance(cause, VtdError):
            self._end()

    def _end(self) -> None:
        self.last = ""
        platform, self._platform = self._platform, None
        if platform is not None:
            platform.__exit__()
