"""How a part of the table is declared: once, as a dataclass whose annotations place its fields in memory.

    @declared("8.1")
    @dataclass(slots=True)
    class Header(Part):
        revision: Annotated[int, at(8, 1, "1 in every published revision of the specification")] = 1
        flags: Annotated[int, at(37, 1, "what the platform offers and asks for"), HeaderFlags] = 0
        ...

Types, defaults, equality and repr are the dataclass's own. The layout comes from the annotations, each field under
its name in capitals, and from the layout come the decoder, the builder and the Construct. A Layout beside a field's
place names the field's bits: those it does not name are reserved.
"""

from collections.abc import Callable, Mapping
from inspect import get_annotations
from types import new_class
from typing import Any, ClassVar, TypeVar, cast

from iommu.fields import Field, Layout

# Numbers that are neither addresses nor flags, and yet are written in hex.
_HEX = {"reserved", "oem_revision", "compiler_revision"}


class Part:
    """Base of every part that is declared in this way.

    Attributes:
        layout: the fixed part, up to the first byte whose position varies; its `section` is the specification's.
        fixed_size: bytes of the layout.
        flag_layouts: the bits of those fields whose bits have names, by attribute.
    """

    __slots__ = ()

    layout: ClassVar[type[Layout]]
    fixed_size: ClassVar[int]
    flag_layouts: ClassVar[Mapping[str, type[Layout]]]

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Where a field begins, in bytes from the start of the part. Raises KeyError for other names."""
        return int(cls.layout.fields[name.upper()].lsb) // 8

    def show(self, name: str) -> str:
        """An attribute's value for people: addresses, flags, reserved bits and bytes in hex."""
        value, field = getattr(self, name), self.layout.fields.get(name.upper())
        if isinstance(value, int) and (name in self.flag_layouts or name in _HEX or (field and field.width == 64)):
            return f"{value:#x}"
        return value.hex() if isinstance(value, bytes) else str(value)


P = TypeVar("P", bound=Part)


def declared(section: str, head: type[Layout] = Layout) -> Callable[[type[P]], type[P]]:
    """Make a dataclass's annotations its layout, after the fields of `head`, which are not attributes.

    Raises TypeError, when the module is imported, for fields that overlap.
    """

    def declare(cls: type[P]) -> type[P]:
        fields: dict[str, Field[Any]] = {}
        flag_layouts: dict[str, type[Layout]] = {}
        for name, hint in get_annotations(cls, eval_str=True).items():
            for note in getattr(hint, "__metadata__", ()):
                if isinstance(note, Field):
                    fields[name.upper()] = note
                else:
                    flag_layouts[name] = note
        bits = 1 + max(part.msb for part in (*head.fields.values(), *fields.values()))
        arguments = {"bits": bits, "section": section}
        layout = new_class(f"{cls.__name__}Layout", (head,), arguments, lambda namespace: namespace.update(fields))
        cls.layout, cls.fixed_size, cls.flag_layouts = cast(type[Layout], layout), bits // 8, flag_layouts
        return cls

    return declare
