"""What QEMU answers to QMP commands, and how another program's answers are told from that."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from qemu.vtd.errors import FalseAnswer

T = TypeVar("T")

_SHOWN = 100


def understood(command: str, answer: Any, reader: Callable[[Any], T]) -> T:
    """What `reader` makes of the answer to a command. Raises FalseAnswer when it cannot."""
    try:
        return reader(answer)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise FalseAnswer(command, _shown(answer)) from None


def _shown(answer: Any) -> str:
    """The beginning of an answer, as JSON."""
    try:
        text = json.dumps(answer)
    except RecursionError:
        return "a structure without end"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def version(answer: Any) -> tuple[int, int, int]:
    """Of query-version: major, minor, micro."""
    numbers = answer["qemu"]
    return number(numbers["major"]), number(numbers["minor"]), number(numbers["micro"])


def names(answer: Any) -> frozenset[str]:
    """Of device-list-properties: their names."""
    return frozenset(text(each["name"]) for each in listed(answer))


def aliases(answer: Any) -> dict[str, str]:
    """Of query-machines: names of machines by their alias, or by name where they have none."""
    return {text(each.get("alias", each["name"])): text(each["name"]) for each in listed(answer)}


def running(answer: Any) -> bool:
    """Of query-status: whether the guest runs."""
    return _only(bool, answer["running"])


class Progress(NamedTuple):
    """What is going on, empty where that is nothing, and the error that ended it."""

    status: str
    error: str


def progress(answer: Any) -> Progress:
    """Of query-status and query-migrate."""
    return Progress(text(answer.get("status", "")), text(answer.get("error-desc", "")))


def number(value: Any) -> int:
    """A number of up to 32 bits."""
    if not 0 <= _only(int, value) < 1 << 32 or isinstance(value, bool):
        raise ValueError
    return int(value)


def text(value: Any) -> str:
    """A text."""
    return _only(str, value)


def listed(value: Any) -> list[Any]:
    """A list."""
    return _only(list, value)


def _only(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError
    return value
