"""Text for a terminal: nothing that comes from outside can move it.

A terminal obeys control characters (ESC, the CSI of one byte, backspace, carriage return), and shows what follows a
bidirectional mark in another order. What Python calls unprintable is therefore written as an escape: in lines as
Python writes it, in JSON as JSON does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


def safe(text: str) -> str:
    """One line of text, with unprintable characters as escapes; line ends too."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def safe_lines(text: str) -> str:
    """Lines of text, with all other unprintable characters as escapes."""
    return "\n".join(map(safe, text.split("\n")))


def safe_json(value: Any, *, only_ascii: bool) -> str:
    """A JSON document that is valid and has unprintable characters as escapes; with `only_ascii` all beyond ASCII."""
    import json  # noqa: PLC0415 - most commands print no JSON, and all start with this module

    def escape(found: re.Match[str]) -> str:
        return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]

    return _NOT_ASCII.sub(escape, json.dumps(value, indent=1, ensure_ascii=only_ascii))


_NOT_ASCII = re.compile(r"[^\n -~]")


class _Stream:
    """A text stream whose failed writes name it. Rich and click take it for the stream itself."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """See TextIO. Raises OSError with the name."""
        with self._naming():
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """See TextIO."""
        for each in lines:
            self.write(each)

    def flush(self) -> None:
        """See TextIO. Raises OSError with the name."""
        with self._naming():
            self._stream.flush()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _SafeStream(_Stream):
    """A text stream that writes `safe_lines`, whoever prints. It offers no way to its bytes; `beneath` does."""

    def write(self, text: str) -> int:
        """Write lines. Returns how many characters were given."""
        super().write(safe_lines(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):
            raise AttributeError(name)
        return super().__getattr__(name)

    def beneath(self) -> _Stream:
        """The stream without this protection."""
        return _Stream(self._stream, self._name)


def protected(stream: TextIO, name: str) -> TextIO:
    """A stream that writes only what is safe to the given one. `name`: what failed writes call it."""
    return stream if isinstance(stream, _SafeStream) else cast(TextIO, _SafeStream(stream, name))


def beneath(stream: TextIO) -> TextIO:
    """The stream that is protected: for what makes its text safe in another way, and for bytes."""
    return cast(TextIO, stream.beneath()) if isinstance(stream, _SafeStream) else stream
