"""How a register, a table entry or part of an ACPI structure is declared: once, as the specification draws it.

    class RootEntry(Layout, bits=128, section="9.1"):
        '''Root entry, legacy mode.'''

        CTP = address(63, 12, "context-table pointer")
        P = flag(0, "present")

Everything else comes from that declaration:

    RootEntry.CTP.get(raw)              the field of an integer; fast enough for the walk
    RootEntry.make(P=1, CTP=0x5000)     an integer
    RootEntry(raw).CTP                  a view, where speed does not matter
    RootEntry.construct().parse(data)   a Construct that parses and builds bytes
    RootEntry.reserved_mask(host_address_width=46)
    print(RootEntry(raw).dump())        every field, in words

Bits that no field names are reserved. Bits that hardware ignores are declared too, as `ignored`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from enum import Enum, IntEnum
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

import construct as cs

from iommu.errors import MisuseError

T = TypeVar("T", int, bytes)


class Rule(Enum):
    """What software can do to a register field (spec 11.3). Sticky fields keep their values over a warm reset."""

    RO = "read only"
    ROS = "read only, sticky"
    RW = "read and write"
    RW1C = "write 1 to clear"
    RW1CS = "write 1 to clear, sticky"
    WO = "write only, reads as 0"


class Field(Generic[T]):
    """A named run of bits, `msb` down to `lsb`, both counted from bit 0 of the whole layout.

    `get(raw)` reads the value from an integer, `put(raw, value)` returns the integer with the value replaced.
    `mask` has the field's bits set, in place. `needs` names the capability without which the field is reserved.
    `ignored`: hardware never reads the field; software may use it as its own.
    """

    name: str
    get: Callable[[int], T]
    put: Callable[[int, T], int]

    def __init__(
        self,
        msb: int,
        lsb: int,
        meaning: str,
        *,
        rule: Rule = Rule.RO,
        needs: str | None = None,
        shift: int = 0,
        names: type[IntEnum] | None = None,
        octets: bool = False,
        ignored: bool = False,
    ) -> None:
        if not msb >= lsb >= 0:
            raise MisuseError(f"field bits {msb}:{lsb} are not msb:lsb")
        self.msb, self.lsb, self.meaning = msb, lsb, meaning
        self.rule, self.needs, self.shift, self.names, self.octets = rule, needs, shift, names, octets
        self.ignored = ignored
        self.width = msb - lsb + 1
        self.mask = ((1 << self.width) - 1) << lsb
        self.get = cast(Callable[[int], T], self._octet_getter() if octets else self._integer_getter())
        self.put = self._checked_put

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Layout, owner: type) -> T: ...
    def __get__(self, instance: Layout | None, owner: type) -> Self | T:
        return self if instance is None else self.get(instance.raw)

    def _integer_getter(self) -> Callable[[int], int]:
        """The fastest function for this position: the walk calls it a million times a second."""
        mask, lsb, shift = self.mask, self.lsb, self.shift
        value_mask = mask >> lsb << shift
        if lsb == shift:
            return lambda raw: raw & mask
        if shift:
            down = lsb - shift
            return lambda raw: raw >> down & value_mask
        return lambda raw: raw >> lsb & value_mask

    def _octet_getter(self) -> Callable[[int], bytes]:
        lsb, mask, length = self.lsb, self.mask >> self.lsb, self.width // 8
        return lambda raw: (raw >> lsb & mask).to_bytes(length, "little")

    def _checked_put(self, raw: int, value: T) -> int:
        return raw & ~self.mask | self.encode(value) << self.lsb

    def encode(self, value: T) -> int:
        """The bits that encode `value`, unshifted. Raises MisuseError when it does not fit."""
        if isinstance(value, bytes):
            if len(value) * 8 != self.width:
                raise MisuseError(f"{self.name} takes {self.width // 8} bytes, got {len(value)}")
            return int.from_bytes(value, "little")
        bits = value >> self.shift
        if value < 0 or bits >> self.width or bits << self.shift != value:
            raise MisuseError(f"{self.name} [{self.msb}:{self.lsb}] cannot hold {value:#x}")
        return int(bits)

    def decode(self, bits: int) -> T:
        """The value that the field's own bits, unshifted, encode: the inverse of `encode`."""
        return self.get(bits << self.lsb)

    def show(self, raw: int) -> str:
        """The value in `raw`, formatted: a name, an address, a number or a text."""
        value = self.get(raw)
        if isinstance(value, bytes):
            return repr(value.decode("latin-1"))
        if self.names is not None:
            known = {member.value: member.name for member in self.names}
            return known.get(value, f"{value:#x} (reserved)")
        if self.shift:
            return f"{value:#018x}"
        return str(value) if value < 10 else f"{value:#x}"


def field(msb: int, lsb: int, meaning: str, *, rule: Rule = Rule.RO, needs: str | None = None) -> Field[int]:
    """A number."""
    return Field(msb, lsb, meaning, rule=rule, needs=needs)


def flag(bit: int, meaning: str, *, rule: Rule = Rule.RO, needs: str | None = None) -> Field[int]:
    """One bit, 0 or 1."""
    return Field(bit, bit, meaning, rule=rule, needs=needs)


def ignored(msb: int, lsb: int, meaning: str = "ignored") -> Field[int]:
    """Bits that hardware never reads."""
    return Field(msb, lsb, meaning, ignored=True)


def address(msb: int, lsb: int, meaning: str, *, rule: Rule = Rule.RO) -> Field[int]:
    """An aligned address whose low bits are implied: bit n of its 64-bit word is bit n of the address."""
    return Field(msb, lsb, meaning, rule=rule, shift=lsb % 64)


def enumerated(msb: int, lsb: int, names: type[IntEnum], meaning: str, *, rule: Rule = Rule.RO) -> Field[int]:
    """A number whose values have names; a value without a name is a reserved encoding."""
    return Field(msb, lsb, meaning, rule=rule, names=names)


def octets(offset: int, length: int, meaning: str) -> Field[bytes]:
    """Bytes in memory order, at a byte offset, as in ACPI identifiers."""
    return Field(8 * (offset + length) - 1, 8 * offset, meaning, octets=True)


def at(offset: int, length: int, meaning: str) -> Field[int]:
    """A little-endian number of whole bytes at a byte offset, as ACPI tables are drawn."""
    return Field(8 * (offset + length) - 1, 8 * offset, meaning)


class Layout:
    """Base of every declaration. An instance is a view of one integer; everything else belongs to the class.

    `bits` is the width of the layout, `section` the section of the specification that defines it.
    """

    bits: ClassVar[int] = 0
    section: ClassVar[str] = ""
    fields: ClassVar[dict[str, Field[Any]]] = {}

    __slots__ = ("raw",)

    def __init__(self, raw: int = 0) -> None:
        if raw < 0 or raw >> self.bits:
            raise MisuseError(f"{type(self).__name__} is {self.bits} bits wide, got {raw:#x}")
        self.raw = raw

    def __init_subclass__(cls, *, bits: int = 0, section: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.bits = bits or cls.bits
        cls.section = section or cls.section
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        everything = {**cls.fields, **own}
        cls.fields = dict(sorted(everything.items(), key=lambda item: -item[1].lsb))
        cls._check()

    @classmethod
    def _check(cls) -> None:
        """A declaration that contradicts itself is a programming error: raise when the module is imported."""
        taken = 0
        for part in cls.fields.values():
            if part.msb >= cls.bits or part.mask & taken:
                raise TypeError(f"{cls.__name__}.{part.name} overlaps a field or leaves the {cls.bits} bits")
            taken |= part.mask

    @classmethod
    def make(cls, **values: int | bytes) -> int:
        """The integer with the named fields set and all other bits 0.

        Raises MisuseError for a name that is not a field or a value that does not fit.
        """
        raw = 0
        for name, value in values.items():
            if name not in cls.fields:
                raise MisuseError(f"{cls.__name__} has no field {name}; it has {', '.join(cls.fields)}")
            raw = cls.fields[name].put(raw, value)
        return raw

    @classmethod
    def reserved_mask(cls, host_address_width: int = 64, offered: Collection[str] | None = None) -> int:
        """The bits that must be 0 in a present entry.

        Args:
            host_address_width: address bits at or above it are reserved too.
            offered: the capabilities of the unit; None for all of them. A field that `needs` another is reserved.
        """
        mask = (1 << cls.bits) - 1
        for part in cls.fields.values():
            if part.needs is None or offered is None or part.needs in offered:
                mask &= ~part.mask
            if part.shift:
                first = part.lsb - part.shift + host_address_width
                mask |= part.mask >> first << first
        return mask

    @classmethod
    def bits_of(cls, *names: str) -> int:
        """The bits of the named fields."""
        return sum(cls.fields[name].mask for name in names)

    @classmethod
    def ignored_mask(cls) -> int:
        """The bits that hardware never reads."""
        return sum(part.mask for part in cls.fields.values() if part.ignored)

    @classmethod
    @cache
    def construct(cls) -> cs.Construct[cs.Container[Any], Any]:
        """A Construct for the little-endian bytes; fields by name, reserved bits as `reserved_MSB_LSB`.

        Fields that are left out when building are 0.
        """
        parts = [
            f"reserved_{msb}_{lsb}" / cs.Default(cs.BitsInteger(msb - lsb + 1), 0)
            if part is None
            else part.name / cs.Default(_bits_of(part), part.decode(0))
            for part, msb, lsb in cls._spans()
        ]
        return cs.ByteSwapped(cs.BitStruct(*parts))

    @classmethod
    def _spans(cls) -> Iterator[tuple[Field[Any] | None, int, int]]:
        """The fields and the reserved bits between them, from the top bit down."""
        top = cls.bits - 1
        for part in cls.fields.values():
            if part.msb < top:
                yield None, top, part.msb + 1
            yield part, part.msb, part.lsb
            top = part.lsb - 1
        if top >= 0:
            yield None, top, 0

    def dump(self) -> str:
        """One line for each field: bits, name, value, meaning; reserved bits only where they are set."""
        lines = [f"{type(self).__name__} {self.raw:#0{self.bits // 4 + 2}x}  (spec {self.section})"]
        for part, msb, lsb in self._spans():
            where = f"{msb}:{lsb}" if msb != lsb else f"{msb}"
            if part is not None:
                lines.append(f"  {where:>7}  {part.name:<12} {part.show(self.raw):<20} {part.meaning}")
            elif bits := self.raw >> lsb & ((1 << msb - lsb + 1) - 1):
                lines.append(f"  {where:>7}  {'reserved':<12} {bits:<#20x} must be 0")
        return "\n".join(lines)

    def __repr__(self) -> str:
        shown = (f"{part.name}={part.show(self.raw)}" for part in self.fields.values() if self.raw & part.mask)
        return f"{type(self).__name__}({', '.join(shown)})"


def _bits_of(part: Field[Any]) -> cs.Construct[Any, Any]:
    """One field as a part of a BitStruct."""
    bits = cs.BitsInteger(part.width)
    if not (part.shift or part.octets):
        return bits
    return cs.ExprAdapter(bits, lambda value, _: part.decode(value), lambda value, _: part.encode(value))
