"""What all remapping structures have in common, and how one type of them is declared (spec 8.2).

    @structure(type_code=0, section="8.3", scopes=SCOPE_TYPES, identity=("segment", "base"))
    @dataclass(slots=True)
    class Drhd(Scoped):
        flags: Annotated[int, at(4, 1, "what the unit covers"), DrhdFlags] = 0
        ...

That is all there is to a type: reader, builder, plain form, lint, difference and verdicts work from the declaration.

Lengths are never set by hand: a structure knows its own size. Only one that was read from a damaged table has a
`declared_length` that differs, and bytes that could not be understood stay with it, so that building gives back every
byte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import ClassVar, TypeVar

from iommu.dmar.declared import Part, declared
from iommu.dmar.scopes import DeviceScope, ScopeType
from iommu.dmar.wire import encode
from iommu.fields import Layout, at


class StructureHead(Layout, bits=4 * 8, section="8.2"):
    """What every remapping structure begins with."""

    TYPE = at(0, 2, "the structure's type")
    LENGTH = at(2, 2, "bytes of the structure, including its scopes")


@dataclass(slots=True)
class Structure(Part):
    """A remapping structure. The types are in kinds.py.

    Attributes:
        kind: the type's name in the specification, for instance DRHD.
        type_code: its number in the type field.
        fixed_fields: the attributes that hold the fields after type and length, in memory order.
        allowed_scopes: the types of device scopes it may list.
        scope_flags: what the flags of its scopes mean; None where they are reserved.
        identity: the attributes that identify a structure among those of its type; empty where nothing does.
        rest: bytes after the last part that could be understood; only in a damaged table.
        declared_length: the length field, where it is not the number of bytes that there are.
    """

    kind: ClassVar[str]
    type_code: ClassVar[int]
    fixed_fields: ClassVar[tuple[str, ...]] = ()
    allowed_scopes: ClassVar[frozenset[int]] = frozenset()
    scope_flags: ClassVar[type[Layout] | None] = None
    identity: ClassVar[tuple[str, ...]] = ()

    rest: bytes = field(default=b"", kw_only=True)
    declared_length: int | None = field(default=None, kw_only=True)

    @property
    def type(self) -> int:
        """The type field."""
        return self.type_code

    @property
    def title(self) -> str:
        """A short name for messages: the type, and what identifies the structure."""
        return " ".join([self.kind, *(f"{name}={self.show(name)}" for name in self.identity)])

    @property
    def nbytes(self) -> int:
        """Bytes the structure really takes."""
        return self.fixed_size + len(self.tail())

    @property
    def length(self) -> int:
        """The length field."""
        return self.nbytes if self.declared_length is None else self.declared_length

    @property
    def offered_scopes(self) -> list[DeviceScope]:
        """The device scopes; always empty for a type that has none."""
        return []

    def tail(self) -> bytes:
        """The bytes after the fixed part."""
        return self.rest

    def take_tail(self, data: bytes) -> bytes:
        """Read the bytes after the fixed part, and return those that belong to no field."""
        return data

    def build(self) -> bytes:
        """The structure's bytes. Raises MisuseError for a value that does not fit its field."""
        tail = self.tail()
        values = [getattr(self, name) for name in self.fixed_fields]
        length = self.fixed_size + len(tail) if self.declared_length is None else self.declared_length
        return encode(self.layout, [self.type, length, *values]) + tail


@dataclass(slots=True)
class Scoped(Structure):
    """A structure that ends in device scopes."""

    scopes: list[DeviceScope] = field(default_factory=list, kw_only=True)

    @property
    def nbytes(self) -> int:
        """Bytes the structure really takes."""
        return self.fixed_size + sum(scope.nbytes for scope in self.scopes) + len(self.rest)

    @property
    def offered_scopes(self) -> list[DeviceScope]:
        """The device scopes."""
        return self.scopes

    def tail(self) -> bytes:
        """The bytes after the fixed part."""
        return b"".join(scope.build() for scope in self.scopes) + self.rest


# Every declared type, by its number.
KINDS: dict[int, type[Structure]] = {}

S = TypeVar("S", bound=Structure)


def structure(
    *,
    type_code: int,
    section: str,
    scopes: Collection[ScopeType] = (),
    scope_flags: type[Layout] | None = None,
    identity: tuple[str, ...] = (),
) -> Callable[[type[S]], type[S]]:
    """Declare a dataclass to be a remapping structure type; the arguments are Structure's class attributes.

    Raises TypeError, when the module is imported, for a number that is taken, or fields out of memory order.
    """

    def declare(cls: type[S]) -> type[S]:
        if type_code in KINDS:
            raise TypeError(f"structure type {type_code} is both {KINDS[type_code].__name__} and {cls.__name__}")
        declared(section, StructureHead)(cls)
        cls.kind, cls.type_code = cls.__name__.upper(), type_code
        cls.allowed_scopes, cls.scope_flags, cls.identity = frozenset(scopes), scope_flags, identity
        own = [name for name in reversed(cls.layout.fields) if name not in StructureHead.fields]
        cls.fixed_fields = tuple(name.lower() for name in own)
        positional = tuple(item.name for item in fields(cls) if not item.kw_only)
        if positional[: len(own)] != cls.fixed_fields:
            raise TypeError(f"{cls.__name__} does not declare its fields first and in memory order")
        KINDS[type_code] = cls
        return cls

    return declare
