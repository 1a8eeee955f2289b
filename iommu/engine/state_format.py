"""The format of a saved unit: a header, then sections of records, each declared once.

The header has the size and the order of everything that follows. All numbers are little-endian. A state is of one
format version, FORMAT; it goes up with every change of this file, of the latched numbers in state.py, or of what
numbers in a state stand for (kinds of work, formats of entries). A test notices most of these.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NoReturn, get_args, get_type_hints

import construct as cs

from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import CHOICES, Policy
from iommu.errors import MisuseError, StateError

MAGIC = b"VTDSTATE"
FORMAT = 2

_HINTS = get_type_hints(Policy)
_CODES = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Section:
    """Records of one kind: columns of unsigned numbers, each with its number of bits.

    Columns of up to 64 bits take 1, 2, 4 or 8 bytes. One of more bits comes last; a record has at most one.

    Attributes:
        name: what it is called in errors.
        size: of a record, in bytes.
        first: the name of its first column.
    """

    def __init__(self, name: str, **columns: int) -> None:
        self.name, self._columns = name, columns
        self.first = next(iter(columns))
        self.wide = max(columns.values()) > 64
        self._record = struct.Struct("<" + "".join(map(_code, columns.values())))
        self.size = self._record.size
        self._limits = [0 if bits > 64 else (1 << bits) - 1 for bits in columns.values()]

    def pack(self, rows: Iterable[tuple[Any, ...]]) -> list[bytes]:
        """The bytes of each record. Raises struct.error for a number beyond the bytes of its column."""
        pack = self._record.pack
        if not self.wide:
            return [pack(*row) for row in rows]
        width = list(self._columns.values())[-1] // 8
        return [pack(*row[:-1], row[-1].to_bytes(width, "little")) for row in rows]

    def unpack(self, data: memoryview) -> list[Sequence[Any]]:
        """The columns; each has as many numbers as there are records."""
        columns: list[Sequence[Any]] = list(zip(*self._record.iter_unpack(data), strict=True))
        if not columns:
            return [()] * len(self._columns)
        if self.wide:
            columns[-1] = [int.from_bytes(each, "little") for each in columns[-1]]
        return columns

    def out_of_range(self, columns: list[Sequence[Any]]) -> tuple[int, str, int] | None:
        """The record, the column and the value of a number that has too many bits; None if there is none."""
        for name, limit, values in zip(self._columns, self._limits, columns, strict=True):
            if limit and values and max(values) > limit:
                return next((n, name, value) for n, value in enumerate(values) if value > limit)
        return None

    def offset_of(self, column: str) -> int:
        """Where a column is in a record, in bytes."""
        before = list(self._columns.values())[: list(self._columns).index(column)]
        return struct.calcsize("<" + "".join(map(_code, before)))


def _code(bits: int) -> str:
    """The struct code of the smallest number with this many bits."""
    return next((code for width, code in _CODES.items() if bits <= width), f"{bits // 8}s")


# What the columns mean is said where it is not the name of a field of the specification or of the engine.

REGISTERS = Section("registers", offset=16, value=128)
"""Every register of the unit, in order of offset."""
LATCHED = Section("latched", value=64)
"""The numbers that state.LATCHED lists, in that order."""
PROTECTED = Section("protected", first=64, last=64)
EVENTS = Section("events", address=64, data=32)
POSTED = Section(
    "posted page requests",
    source_id=16,
    address=64,
    pasid=21,
    read=1,
    write=1,
    execute=1,
    privileged=1,
    group=9,
    last=1,
)
OVERDUE = Section("overdue devices", source_id=16)
# Only of a stepped unit: `work` is the number of a member of iommu.engine.steps.Work.
COMMANDS = Section("pending commands", work=4, value=64)
IGNORED = Section("ignored writes", offset=16, value=64)
# `fault` is the reason of a faulty entry, whose further columns are 0; 0 in any other.
CONTEXTS = Section("contexts", source_id=16, fault=8, fpd=1, translation_type=2, levels=3, domain_id=16, table=52)
SCALABLE_CONTEXTS = Section(
    "scalable contexts",
    source_id=16,
    fault=8,
    fpd=1,
    directory=52,
    pasids=21,
    pasid_enabled=1,
    device_tlb_enabled=1,
    page_requests_enabled=1,
    rid_pasid=20,
    rid_priv=1,
)
PASIDS = Section("PASIDs", source_id=16, pasid=20, fault=8, fpd=1, raw=512)
INTERRUPTS = Section("interrupt entries", index=16, raw=128)
KINDS = Section(
    "page kinds",
    shift=5,
    readable=1,
    writable=1,
    supervisor_writable=1,
    user=1,
    executable=1,
    dirty=1,
    overlaps_interrupt_range=1,
    fault=8,
    snooped=1,
    first_stage=4,
    second_stage=4,
    ignores_first_stage=1,
    uncacheable=1,
)
"""The kinds that pages are of. A memory type is NO_TYPE where there is none; the page size is 1 << shift."""
# A tag says how many of the records that follow in the next sections are its own; those of the first tag come first.
TAGS = Section("IOTLB tags", domain_id=16, pasid=21, small=32, large=32, huge=32)
# Host addresses are counted in pages of the section's size.
SMALL = Section("4 KiB pages", frame=52, host=40, kind=32)
LARGE = Section("2 MiB pages", frame=43, host=31, kind=32)
HUGE = Section("1 GiB pages", frame=34, host=22, kind=32)
FIRST_TAGS = Section("first-stage tags", domain_id=16, pasid=21, level_1=32, level_2=32, level_3=32, level_4=32)
FIRST_TABLES = Section("first-stage tables", frame=43, table=40, rights=3)
SECOND_TAGS = Section("second-stage tags", domain_id=16, pasid=21, level_1=32, level_2=32, level_3=32, level_4=32)
SECOND_TABLES = Section("second-stage tables", frame=43, table=40, rights=3)
# Only of an audited unit: for each cached item the entries that it came from.
SOURCES = Section("sources", address=64, format=8, raw=512)
LEDGER = Section("ledger", cache=3, item=32, address=64, sources=32)
"""`item` is the number of a record in the section of the cache, `address` the one that it was cached for."""
REFERENCES = Section("references", source=32)
READS = Section("reads", source=32)

SECTIONS = (
    *(REGISTERS, LATCHED, PROTECTED, EVENTS, POSTED, OVERDUE, COMMANDS, IGNORED),
    *(CONTEXTS, SCALABLE_CONTEXTS, PASIDS, INTERRUPTS),
    *(KINDS, TAGS, SMALL, LARGE, HUGE, FIRST_TAGS, FIRST_TABLES, SECOND_TAGS, SECOND_TABLES),
    *(SOURCES, LEDGER, REFERENCES, READS),
)
"""All sections, in their order."""

NO_PASID = 1 << 20
"""Stands for None in a column `pasid`."""


def pasid_of(number: int) -> int | None:
    """What a number in a column `pasid` stands for."""
    return None if number == NO_PASID else number


NO_TYPE = 8
"""Stands for None in the columns `first_stage` and `second_stage`."""
NO_CHOICE = -1
"""Stands for None as the value of a choice of the policy."""

_PREFIX = cs.Struct("magic" / cs.Bytes(len(MAGIC)), "format" / cs.Int32ul, "checksum" / cs.Int32ul)
"""`checksum` is the CRC-32 of all that follows it."""
_UNIT = cs.Struct(
    "audited" / cs.Int8ul,
    "stepped" / cs.Int8ul,
    "version" / cs.Int8ul,
    "host_address_width" / cs.Int8ul,
    "cap" / cs.Int64ul,
    "ecap" / cs.Int64ul,
    "counts" / cs.Array(len(SECTIONS), cs.Int32ul),
)
_CHOICES = cs.PrefixedArray(cs.Int16ul, cs.Struct("name" / cs.PascalString(cs.Int8ul, "ascii"), "value" / cs.Int64sl))
"""The policy: every choice by the name of its field."""


def build(
    capabilities: Capabilities,
    policy: Policy,
    sections: dict[Section, list[bytes]],
    *,
    audited: bool,
    stepped: bool,
) -> bytes:
    """The bytes of a state. `sections` has the records of every section."""
    choices: list[dict[str, Any] | None] = [
        {"name": name, "value": _number_of(getattr(policy, name))} for name in CHOICES
    ]
    unit = {
        "audited": int(audited),
        "stepped": int(stepped),
        "version": capabilities.version,
        "host_address_width": capabilities.host_address_width,
        "cap": capabilities.cap,
        "ecap": capabilities.ecap,
        "counts": [len(sections[section]) for section in SECTIONS],
    }
    records = (record for section in SECTIONS for record in sections[section])
    body = b"".join((_UNIT.build(unit), _CHOICES.build(choices), *records))
    return bytes(_PREFIX.build({"magic": MAGIC, "format": FORMAT, "checksum": zlib.crc32(body)}) + body)


def _number_of(choice: bool | int | None) -> int:
    return NO_CHOICE if choice is None else int(choice)


class Reader:
    """A saved state, checked as a whole: format, checksum, and that the sections are as long as the header says.

    Attributes:
        audited, stepped: as the arguments of RemappingUnit.
        capabilities, policy: those of the unit.

    Raises:
        StateError: it is not the whole state of a unit, in this format.
    """

    def __init__(self, saved: bytes) -> None:
        self._saved = saved
        if len(saved) < _PREFIX.sizeof() + _UNIT.sizeof():
            self.refuse_header("size", f"a header has {_PREFIX.sizeof() + _UNIT.sizeof()} bytes or more", len(saved))
        prefix = _PREFIX.parse(saved)
        if prefix.magic != MAGIC:
            self.refuse_header("magic", "not the saved state of a unit", int.from_bytes(prefix.magic, "big"))
        if prefix.format != FORMAT:
            self.refuse_header("format", f"only format {FORMAT} can be restored", prefix.format)
        if prefix.checksum != zlib.crc32(memoryview(saved)[_PREFIX.sizeof() :]):
            self.refuse_header("checksum", "the bytes that follow have changed", prefix.checksum)
        self._unit = _UNIT.parse(saved[_PREFIX.sizeof() :])
        for name in ("audited", "stepped"):
            if self._unit[name] > 1:
                self.refuse_header(name, "neither 0 nor 1", self._unit[name])
        self.audited, self.stepped = bool(self._unit.audited), bool(self._unit.stepped)
        self.policy, start = self._read_policy(_PREFIX.sizeof() + _UNIT.sizeof())
        self._starts: dict[Section, int] = {}
        for section, count in zip(SECTIONS, self._unit.counts, strict=True):
            self._starts[section] = start
            start += count * section.size
        if start != len(saved):
            self.refuse_header("counts", f"the sections have {start} bytes in all, not {len(saved)}", start)

    @cached_property
    def capabilities(self) -> Capabilities:
        """The capabilities of the unit. Raises StateError if no unit can have them."""
        unit = self._unit
        try:
            return Capabilities.from_registers(unit.cap, unit.ecap, unit.host_address_width, unit.version)
        except MisuseError as error:
            self.refuse_header("cap", str(error), unit.cap)

    def _read_policy(self, start: int) -> tuple[Policy, int]:
        """The policy, and the offset after it. A choice that the state does not name has its default."""
        try:
            whole = cs.Struct("choices" / _CHOICES, "end" / cs.Tell).parse(self._saved[start:])
        except (cs.ConstructError, UnicodeDecodeError):
            raise StateError(
                "malformed: not a list of names and values", offset=start, where="header", field="policy"
            ) from None
        values: dict[str, Any] = {}
        for name, number in ((each.name, each.value) for each in whole.choices):
            if name not in CHOICES or name in values:
                self.refuse_header("policy", f"{name[:40]!r} is not a choice, or is there twice", number)
            kinds = get_args(_HINTS[name]) or (_HINTS[name],)
            values[name] = self._choice(name, number, kinds)
        try:
            return Policy(**values), start + whole.end
        except MisuseError as error:
            self.refuse_header("policy", str(error), self._saved[start])

    def _choice(self, name: str, number: int, kinds: tuple[type, ...]) -> bool | int | None:
        """The value of a choice, of one of these types."""
        if number == NO_CHOICE and type(None) in kinds:
            return None
        kind = kinds[0]
        legal = number in (0, 1) if kind is bool else number in list(kind) if issubclass(kind, IntEnum) else True
        if not legal:
            self.refuse_header("policy", f"not a value of {name}", number)
        chosen: bool | int = kind(number)
        return chosen

    def expect(self, capabilities: Capabilities | None, policy: Policy | None) -> None:
        """Raises StateError if the unit has other capabilities or another policy than these."""
        if capabilities is not None:
            for name in ("version", "host_address_width", "cap", "ecap"):
                given, own = getattr(capabilities, name), self._unit[name]
                if given != own:
                    self.refuse_header(name, f"differs from the capabilities given, {given:#x}", own)
        if policy is not None:
            for name in CHOICES:
                given, own = getattr(policy, name), getattr(self.policy, name)
                if given != own:
                    self.refuse_header("policy", f"{name} differs from the policy given, {given!r}", _number_of(own))

    def columns(self, section: Section) -> list[Sequence[Any]]:
        """The columns of a section. Raises StateError for a number with too many bits."""
        start, count = self._starts[section], self.count(section)
        columns = section.unpack(memoryview(self._saved)[start : start + count * section.size])
        if (wrong := section.out_of_range(columns)) is not None:
            number, column, value = wrong
            self.refuse(section, number, column, value, "out of range")
        return columns

    def count(self, section: Section) -> int:
        """The number of records of a section."""
        return int(self._unit.counts[SECTIONS.index(section)])

    def refuse(self, section: Section, number: int, column: str, value: int, message: str) -> NoReturn:
        """Raises StateError for a value in record `number` of a section."""
        offset = self._starts[section] + number * section.size + section.offset_of(column)
        raise StateError(message, offset=offset, where=f"{section.name}[{number}]", field=column, value=value)

    def refuse_header(self, field: str, message: str, value: int) -> NoReturn:
        """Raises StateError for a field of the header."""
        offset = 0
        for part in (*_PREFIX.subcons, *_UNIT.subcons):
            if part.name == field:
                break
            offset += part.sizeof()
        raise StateError(message, offset=0 if field == "size" else offset, where="header", field=field, value=value)
