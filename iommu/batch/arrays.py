"""The arrays that a caller gives, checked: the row of the first value that no request can have is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from iommu.errors import MisuseError

NO_ADDRESS = (1 << 64) - 1
"""In the host addresses: the request reached no memory. Host addresses have 52 bits at most."""
NO_PASID = 0xFFFF_FFFF
"""In the PASIDs: the request has none."""

Column = npt.NDArray[Any] | Sequence[int] | Sequence[bool]
"""What a caller can give: an array, or anything that becomes one."""

Uint8 = npt.NDArray[np.uint8]
Uint16 = npt.NDArray[np.uint16]
Uint32 = npt.NDArray[np.uint32]
Uint64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Results(NamedTuple):
    """The results of requests: host addresses, fault reasons, and the FPD bits that apply to the faults."""

    hosts: Uint64
    reasons: Uint8
    fpd: Uint8

    @classmethod
    def new(cls, count: int) -> Results:
        """Blocked without a fault."""
        return cls(np.full(count, NO_ADDRESS, np.uint64), np.zeros(count, np.uint8), np.zeros(count, np.uint8))

    def part(self, rows: slice) -> Results:
        """Some of the rows, in place."""
        return Results(self.hosts[rows], self.reasons[rows], self.fpd[rows])

    def put(self, rows: Int64, other: Results) -> None:
        """Set some of the rows."""
        self.hosts[rows], self.reasons[rows], self.fpd[rows] = other


class Requests(NamedTuple):
    """Requests as columns of one length; `pasids` and `roots` are None if no request has its own."""

    source_ids: Uint16
    addresses: Uint64
    writes: Bools
    pasids: Uint32 | None
    roots: Uint64 | None

    def __len__(self) -> int:
        return len(self.addresses)

    def part(self, rows: slice | Int64) -> Requests:
        """Some of the requests."""
        pasids = None if self.pasids is None else self.pasids[rows]
        roots = None if self.roots is None else self.roots[rows]
        return Requests(self.source_ids[rows], self.addresses[rows], self.writes[rows], pasids, roots)


def checked(
    source_ids: Column, addresses: Column, writes: Column, pasids: Column | None = None, roots: Column | None = None
) -> Requests:
    """The columns with their types. Raises MisuseError, with the row if there is one."""
    given = Requests(
        _integers("source_ids", source_ids, np.uint16),
        _integers("addresses", addresses, np.uint64),
        _flags("writes", writes),
        None if pasids is None else _pasids(pasids),
        None if roots is None else _integers("roots", roots, np.uint64),
    )
    wanted = len(given.addresses)
    for name, column in zip(given._fields, tuple.__iter__(given), strict=True):
        if column is not None and len(column) != wanted:
            row = min(len(column), wanted)
            raise MisuseError(f"{name} has {len(column)} rows and addresses has {wanted}: row {row} is not in both")
    return given


def _array(name: str, given: Column) -> npt.NDArray[Any]:
    array = given if isinstance(given, np.ndarray) else np.asarray(given)
    if array.ndim != 1:
        raise MisuseError(f"{name} has {array.ndim} dimensions, not one")
    return array


def _integers(name: str, given: Column, kind: type[np.unsignedinteger[Any]]) -> npt.NDArray[Any]:
    """A column of unsigned numbers."""
    array = _array(name, given)
    if array.dtype == kind:
        return array
    bits = np.iinfo(kind).bits
    if array.dtype.kind in "ui":
        wrong = array < 0
        if array.dtype.itemsize * 8 > bits:
            wrong |= array > np.iinfo(kind).max
        if wrong.any():
            row = int(wrong.argmax())
            raise MisuseError(f"{name}, row {row}: {array[row]} is not a number of {bits} bits")
        return array.astype(kind)
    if not array.size:
        return array.astype(kind)
    if isinstance(given, np.ndarray) and array.dtype.kind != "O":
        raise MisuseError(f"{name} has numbers of type {array.dtype}, not integers: row 0 is {array[0]}")
    # Python's numbers: NumPy has made floats or objects of them, because one does not fit.
    for row, value in enumerate(given):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise MisuseError(f"{name}, row {row}: {value!r} is not an integer")
        if not 0 <= value < 1 << bits:
            raise MisuseError(f"{name}, row {row}: {value} is not a number of {bits} bits")
    return np.array([int(value) for value in given], kind)


def _flags(name: str, given: Column) -> Bools:
    array = _array(name, given)
    if array.dtype == np.bool_ or not array.size:
        return array.astype(np.bool_, copy=False)
    row = next((row for row, value in enumerate(array) if not isinstance(value, bool | np.bool_)), 0)
    raise MisuseError(f"{name}, row {row}: {array[row]} is neither true nor false; the array is of {array.dtype}")


def _pasids(given: Column) -> Uint32:
    array = _integers("pasids", given, np.uint32)
    wrong = (array >> 20 != 0) & (array != NO_PASID)
    if wrong.any():
        row = int(wrong.argmax())
        raise MisuseError(
            f"pasids, row {row}: {int(array[row]):#x} is not a number of 20 bits, or {NO_PASID:#x} for none"
        )
    return array
