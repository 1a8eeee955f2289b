"""How much is taken from what a user names, and the one way to change it: the environment variable VTDLAB_LIMITS.

VTDLAB_LIMITS="unpacked=4G,wait=600" vtd dmar show memory.gz
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from functools import lru_cache

from iommu.errors import InputError, MisuseError

VARIABLE = "VTDLAB_LIMITS"
_NUMBER = re.compile(r"(\d{1,15})([KMGT]?)", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits for each input. docs/inputs.md has them with their reasons.

    Attributes:
        file: bytes of data in a file; holes do not count. A large file is mapped, which takes no memory.
        read: bytes from a pipe or a terminal, which are kept in memory.
        unpacked: bytes that a gzip file or a zip archive unpacks to.
        ratio: how many times its size a compressed input of some size unpacks to.
        nesting: how many layers of gzip there are.
        text: bytes that are read as text, or as JSON.
        values: values in a JSON document.
        table: bytes of an ACPI table.
        tables: DMARs in one file.
        wait: seconds for which nothing may come from a pipe or a terminal.
    """

    file: int = 64 << 30
    read: int = 256 << 20
    unpacked: int = 1 << 30
    ratio: int = 200
    nesting: int = 4
    text: int = 64 << 20
    values: int = 4 << 20
    table: int = 1 << 20
    tables: int = 1000
    wait: int = 60


def limits() -> Limits:
    """The limits that hold now. Raises MisuseError for a VTDLAB_LIMITS that does not say any."""
    return _parsed(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=8)
def _parsed(text: str) -> Limits:
    names = [field.name for field in fields(Limits)]
    values = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        number = _NUMBER.fullmatch(value)
        if name not in names or number is None:
            raise MisuseError(f"{VARIABLE}: {part[:60]!r} is not a limit such as unpacked=4G: {', '.join(names)}")
        values[name] = int(number[1]) << _SHIFTS[number[2].upper()]
    return Limits(**values)


def over(where: str, what: str, name: str, unit: str = "") -> InputError:
    """The error for an input beyond a limit: what it is, the limit, and how to raise it.

    Args:
        where: the input's name.
        what: what there is too much of, as a beginning: "it unpacks to".
        name: the limit's name.
        unit: what is counted; bytes without one.
    """
    limit = getattr(limits(), name)
    many = f"{limit} {unit}" if unit else _NUMBER.sub(_binary, _short(limit))
    return InputError(f"{where}: {what} more than {many}; to allow it: {VARIABLE}={name}={_short(2 * limit)}")


def _binary(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]}iB" if found[2] else f"{found[1]} bytes"


def _short(number: int) -> str:
    """A number as VTDLAB_LIMITS takes it: 64M, 1000."""
    for unit, shift in reversed(_SHIFTS.items()):
        if number and not number & (1 << shift) - 1:
            return f"{number >> shift}{unit}"
    return str(number)
