"""Decoders and encoders of whole-byte layouts, generated from the declarations: the fast way to and from bytes.

A layout becomes one struct.Struct. Numbers of a size that struct does not know (the three reserved bytes of an ANDD)
travel as bytes. A test compares these with Construct, which reads and builds the same declarations.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iommu.errors import MisuseError
from iommu.fields import Layout

Decode = Callable[[bytes, int], tuple[Any, ...]]

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class _Form:
    """A layout as a struct, the positions of numbers that travel as bytes, and the sizes of its byte fields."""

    packed: struct.Struct
    odd: tuple[int, ...]
    octets: tuple[tuple[int, int], ...]


_FORMS: dict[type[Layout], _Form] = {}


def _form(layout: type[Layout]) -> _Form:
    """Raises TypeError for a layout with gaps, or with fields that are not whole bytes: a programming error."""
    if layout in _FORMS:
        return _FORMS[layout]
    codes, odd, octets, end = "<", [], [], 0
    for position, part in enumerate(reversed(layout.fields.values())):
        if part.lsb != end or part.width % 8:
            raise TypeError(f"{layout.__name__}.{part.name} is not whole bytes right after its predecessor")
        end = part.msb + 1
        length = part.width // 8
        codes += f"{length}s" if part.octets or length not in _CODES else _CODES[length]
        if part.octets:
            octets.append((position, length))
        elif length not in _CODES:
            odd.append(position)
    if end != layout.bits:
        raise TypeError(f"{layout.__name__} has unnamed bytes at its end")
    return _FORMS.setdefault(layout, _Form(struct.Struct(codes), tuple(odd), tuple(octets)))


def decoder(layout: type[Layout]) -> Decode:
    """A function from bytes and offset to the layout's values in memory order."""
    form = _form(layout)
    unpack: Decode = form.packed.unpack_from
    if not form.odd:
        return unpack

    def with_odd_sizes(data: bytes, offset: int) -> tuple[Any, ...]:
        values = list(unpack(data, offset))
        for position in form.odd:
            values[position] = int.from_bytes(values[position], "little")
        return tuple(values)

    return with_odd_sizes


def encode(layout: type[Layout], values: Sequence[Any]) -> bytes:
    """The bytes of a layout whose fields have these values, in memory order.

    Raises MisuseError, naming the field, for a value that does not fit.
    """
    form = _form(layout)
    # struct silently cuts or pads bytes, so their sizes are checked here.
    if not form.odd and all(len(values[position]) == length for position, length in form.octets):
        try:
            return form.packed.pack(*values)
        except struct.error:
            pass  # make() says which value it was
    named = dict(zip(reversed(layout.fields), values, strict=True))
    return layout.make(**named).to_bytes(layout.bits // 8, "little")


def encode_text(text: str, name: str) -> bytes:
    """Latin-1 bytes of an identifier; `name` is for the message.

    Raises MisuseError for characters outside Latin-1.
    """
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise MisuseError(f"{name}: {text!r} has characters beyond Latin-1") from error
