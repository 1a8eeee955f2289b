"""JSON from outside, and objects from it whose fields are checked when they are taken."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from iommu.errors import InputError, MisuseError
from iommu.files.limits import limits, over
from iommu.files.reading import Data, contents, name_of

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def read_json(path: Path) -> Any:
    """The document in a file, or on standard input. Raises InputError."""
    return parse_json(contents(path), name_of(path))


def parse_json(data: Data, name: str) -> Any:
    """The document in these bytes. Raises InputError."""
    if len(data) > limits().text:
        raise over(name, "JSON of", "text")
    whole = data[:]
    if sum(whole.count(mark) for mark in (b"[", b"{", b",")) > limits().values:
        raise over(name, "JSON with", "values", "values")
    try:
        return json.loads(whole)
    except RecursionError:
        raise InputError(f"{name}: not valid JSON: values are nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON: {error}") from None


def shown(value: Any) -> str:
    """A value from outside for a message: short, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a value"


class Reader:
    """A dictionary from outside. Every access checks the type, and raises MisuseError that names the place."""

    def __init__(self, plain: Any, where: str, known: set[str] | None = None) -> None:
        if not isinstance(plain, dict):
            raise MisuseError(f"{where}: an object is needed, not {type(plain).__name__}")
        if known is not None and (unknown := sorted(map(str, set(plain) - known))):
            raise MisuseError(f"{where}: unknown key {shown(unknown[0])}")
        self.plain, self.where = plain, where

    def take(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.plain:
            raise MisuseError(f"{self.where}: {key!r} is missing")
        return self.plain[key]

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number; a key without a default must be there."""
        value = self.take(key) if default is None else self.plain.get(key, default)
        if type(value) is not int:
            raise MisuseError(f"{self.where}.{key}: {shown(value)} is not a whole number")
        return value

    def within(self, key: str, most: int, default: int | None = None, *, least: int = 0) -> int:
        """A whole number from `least` to `most`; a key without a default must be there."""
        value = self.number(key, default)
        if not least <= value <= most:
            raise MisuseError(f"{self.where}.{key}: {shown(value)} is not from {least:#x} to {most:#x}")
        return value

    def within_or_none(self, key: str, most: int, *, least: int = 0) -> int | None:
        """The same; None for null, and for a key that is not there."""
        return None if self.plain.get(key) is None else self.within(key, most, least=least)

    def object(self, key: str) -> Reader:
        """An object that must be there."""
        return Reader(self.take(key), f"{self.where}.{key}")

    def text(self, key: str) -> str:
        """A text that must be there."""
        value = self.take(key)
        if not isinstance(value, str):
            raise MisuseError(f"{self.where}.{key}: {shown(value)} is not a text")
        return value

    def list(self, key: str) -> list[Any]:
        """A list, by default empty."""
        value = self.plain.get(key, [])
        if not isinstance(value, list):
            raise MisuseError(f"{self.where}.{key}: {shown(value)} is not a list")
        return value

    def hex(self, key: str) -> bytes:
        """Bytes in hex, by default none."""
        value = self.plain.get(key, "")
        try:
            return bytes.fromhex(value)
        except (TypeError, ValueError):
            raise MisuseError(f"{self.where}.{key}: {shown(value)} is not bytes in hex") from None
