"""How capabilities and choices of the policy are declared: each once, with everything there is to know of it.

Both are fields of a dataclass; what a field means to the rest of the house is in its metadata, as a Capability or a
Choice. `declared` reads it back.
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
        meaning: what a unit can do that has it; for a number, what is counted.
        default: its value in a unit of which nothing is said.
        part: the field of CAP or ECAP that says so; None where another place does, which `source` names.
        needs: the capabilities without which it means nothing.
        needs_one_of: capabilities of which it needs at least one.
        in_full: whether `Capabilities.full` has it.
        allowed: the numbers it can be; None for flags.
        encode, decode: from the value to the bits of `part`, and back; None for bits that are reserved.
    """

    meaning: str
    default: Any
    part: Any = None  # a Field[int]; a type checker would take an attribute of that type for a descriptor
    source: str = ""
    needs: tuple[str, ...] = ()
    needs_one_of: tuple[str, ...] = ()
    in_full: bool = True
    allowed: range | None = None
    encode: Callable[[Any], int] = int
    decode: Callable[[int], Any] = bool


@dataclass(frozen=True)
class Choice:
    """One choice that the architecture leaves, or that public sources do not settle.

    Attributes:
        meaning: what a unit does where the field is on; for a value, what the value is.
        default: the strictest reading.
        doubt: the number of the doubt, "D-n"; empty where the specification leaves the choice.
        section: the section that leaves the choice; empty where there is a doubt only.
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
    bit: int = 0,
    in_full: bool = True,
) -> Any:
    """A flag: bit `bit` of `part`. The rest is as for Capability."""
    return _field(
        Capability(
            meaning,
            default,
            part,
            needs=needs,
            needs_one_of=needs_one_of,
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
        values: what the register can say: bits n stand for the n-th of them.
        allowed: what is possible of these; all by default.
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
    """A number that neither CAP nor ECAP has, but `source`."""
    return _field(Capability(meaning, default, source=source, allowed=allowed))


def level_set(part: Field[int], meaning: str) -> Any:
    """A set of page-table levels, out of 3, 4 and 5: bit n of `part` stands for n + 2 of them. By default empty."""
    return _field(
        Capability(
            meaning,
            (),
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
    """The declarations of a dataclass that are of this kind, by the name of the field, in their order."""
    found = {each.name: each.metadata.get(_KEY) for each in fields(owner)}
    return {name: declaration for name, declaration in found.items() if isinstance(declaration, kind)}
