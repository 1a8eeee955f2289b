"""The JSON part of a snapshot: settings that are read with care."""

from __future__ import annotations

from typing import Any

from iommu.errors import FormatError
from iommu.files.documents import parse_json, shown


class Settings:
    """A JSON object in which a snapshot states what it is.

    Args:
        text: the JSON.
        where: its file, for messages.
        wanted: the format that it must state.

    Raises:
        FormatError: it is not a JSON object, or of another format.
        InputError: it is not JSON.
    """

    def __init__(self, text: bytes, where: str, wanted: str) -> None:
        self._where = where
        self.values: Any = parse_json(text, where)
        stated = self.values.get("format") if isinstance(self.values, dict) else None
        if stated != wanted:
            raise self.wrong(f"the format is not {wanted}" + (f" but {shown(stated)}" if stated else ""), "format")

    def wrong(self, message: str, field: str) -> FormatError:
        """The error to raise for a setting."""
        return FormatError(message, offset=0, where=self._where, field=field)

    def number(self, name: str, missing: int | None = None) -> int:
        """A setting that is a number, or a string like "0x1000"; `missing` if it is not given. Raises FormatError."""
        return self.as_number(self.values.get(name, missing), name)

    def as_number(self, value: Any, name: str) -> int:
        """A value from JSON as a number, as in `number`."""
        try:
            number = int(value, 0) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 64:
            raise self.wrong(f"{shown(value)} is not a 64-bit number", name)
        return number
