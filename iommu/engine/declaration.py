"""How capabilities and policy choices are declared: each once, with all that is known of it.

Both are fields of a dataclass. The metadata of the field is a Capability or a Choice; `declared` reads it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from iommu.fields import Field

Declaration = TypeVar("Declaration")
_KEY = "declared"


@dataclass(frozen=True)
class Capability:
    """One capability.

    Attributes:
        meaning: what a unit with this capability can do; for a number, what it counts.
        default: its value if none is given.
        part: the field of CAP or ECAP that declares it; None if it is declared elsewhere: `source` says where.
        needs: its prerequisites: capabilities that must all be there.
        needs_one_of: capabilities of which at least one must be there.
        excluded_by: a capability that no unit has together with this one; empty for none.
        in_full: whether `Capabilities.full` has it.
        allowed: the numbers that are possible; None for flags.
        encode, decode: from the value to the bits of `part`, and back; None for a reserved encoding.
    """

    meaning: str
    default: Any
    part: Any = None  # a Field[int]; a type checker would take an attribute of that type for a descriptor
    source: str = ""
    needs: tuple[str, ...] = ()
    needs_one_of: tuple[str, ...] = ()
    excluded_by: str = ""
    in_full: bool = True
    allowed: range | None = None
    encode: Callable[[Any], int] = int
    decode: Callable[[int], Any] = bool


@dataclass(frozen=True)
class Choice:
    """One choice that the architecture leaves to hardware, or that public sources do not settle.

    Attributes:
        meaning: what a unit does if the field is true; for a value, what the value is.
        default: the strictest reading.
        doubt: the number of the doubt, "D-n"; empty if the specification leaves the choice.
        section: the section that leaves the choice; empty if there is only a doubt.
        sources: what public sources say, in a few words.
    """

    meaning: str
    default: Any
    doubt: str = ""
    section: str = ""
    sources: str = ""


def capability(
    part: Field[int],
    meaning: str,
    *,
    default: bool = False,
    needs: tuple[str, ...] = (),
    needs_one_of: tuple[str, ...] = (),
    excluded_by: str = "",
    bit: int = 0,
    in_full: bool = True,
) -> Any:
    """A flag: bit `bit` of `part`. The other arguments are as for Capability."""
    return _field(
        Capability(
            meaning,
            default,
            part,
            needs=needs,
            needs_one_of=needs_one_of,
            excluded_by=excluded_by,
            in_full=in_full,
            encode=lambda on: int(on) << bit,
            decode=lambda bits: bool(bits >> bit & 1),
        )
    )


def number(
    part: Field[int],
    meaning: str,
    *,
    default: int,
    values: range,
    allowed: range | None = None,
    needs: tuple[str, ...] = (),
) -> Any:
    """A number.

    Args:
        values: the numbers that the field can encode: n encodes the n-th of them.
        allowed: the numbers that are possible; by default all of `values`.
    """
    return _field(
        Capability(
            meaning,
            default,
            part,
            needs=needs,
            allowed=values if allowed is None else allowed,
            encode=values.index,
            decode=lambda bits: values[bits] if bits < len(values) else None,
        )
    )


def number_from(source: str, meaning: str, *, default: int, allowed: range) -> Any:
    """A number that is declared in `source`, not in CAP or ECAP."""
    return _field(Capability(meaning, default, source=source, allowed=allowed))


def level_set(part: Field[int], meaning: str) -> Any:
    """A set of page-table levels, out of 3, 4 and 5: bit n of `part` offers n + 2 levels. None if none is given."""
    return _field(
        Capability(
            meaning,
            None,
            part,
            encode=lambda offered: sum(1 << level - 2 for level in offered),
            decode=lambda bits: tuple(level for level in (3, 4, 5) if bits >> level - 2 & 1),
        )
    )


def choice(meaning: str, *, default: Any = False, doubt: str = "", section: str = "", sources: str = "") -> Any:
    """A field of the policy; see Choice."""
    return _field(Choice(meaning, default, doubt, section, sources))


def _field(declaration: Capability | Choice) -> Any:
    return field(default=declaration.default, metadata={_KEY: declaration})


def declared(owner: type[Any], kind: type[Declaration]) -> dict[str, Declaration]:
    """The declarations of this kind in a dataclass, by the name of the field, in order."""
    found = {each.name: each.metadata.get(_KEY) for each in fields(owner)}
    return {name: declaration for name, declaration in found.items() if isinstance(declaration, kind)}
