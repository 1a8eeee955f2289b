"""Inputs that once did harm: they took minutes, gigabytes, or ended in a traceback. Some are large: all are made."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from tests.dmar.hand import drhd, table
from tests.fuzz.readers import elf, folders, pci_trees


def andd(length: int) -> bytes:
    """A table whose one structure has this length."""
    structure = {"kind": "ANDD", "reserved": 0, "device_number": 1, "object_name": "x", "length": length}
    return json.dumps({"header": {}, "structures": [structure]}).encode()


def pci(**changed: Any) -> bytes:
    """A PCI tree whose first function has other values."""
    tree = json.loads(pci_trees()[0])
    tree[0].update(changed)
    return json.dumps(tree).encode()


def nested_gzip(depth: int) -> bytes:
    """gzip in gzip in gzip."""
    data = b"DMAR"
    for _ in range(depth):
        data = gzip.compress(data, 1, mtime=0)
    return data


def folder(method: int = zipfile.ZIP_DEFLATED, damage: int = -1, **members: bytes) -> bytes:
    """A zip of a snapshot's folder with other members; the byte at `damage` of the first is turned over."""
    with zipfile.ZipFile(io.BytesIO(folders()[0])) as given:
        all_members = {name: given.read(name) for name in given.namelist()}
    all_members.update({name.replace("_", "."): data for name, data in members.items()})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in all_members.items():
            archive.writestr(name, data)
    whole = bytearray(packed.getvalue())
    if damage >= 0:
        whole[30 + len(next(iter(all_members))) + damage] ^= 0xFF
    return bytes(whole)


def zeroes(size: int) -> bytes:
    """A zip whose memory.bin unpacks to so many zeroes; it is written in pieces."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("unit.json", b'{"format": "vtdlab-snapshot-1", "host_address_width": 48}')
        archive.writestr("registers.bin", bytes(4096))
        with archive.open("memory.bin", "w", force_zip64=True) as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    return packed.getvalue()


def many_rsdps(count: int = 200) -> bytes:
    """An image whose RSDPs all lead to one XSDT of 1 MiB."""
    memory = bytearray(4 << 20)
    rsdp = bytearray(b"RSD PTR " + bytes(7) + b"\x02" + bytes(4) + struct.pack("<IQ", 36, 1 << 20) + bytes(4))
    rsdp[8] = -sum(rsdp[:20]) & 0xFF
    for number in range(count):
        memory[64 * number : 64 * number + 36] = rsdp
    memory[1 << 20 : (1 << 20) + 36] = b"XSDT" + struct.pack("<I", 1 << 20) + bytes(28)
    for at in range((1 << 20) + 36, 2 << 20, 8):
        memory[at : at + 8] = at.to_bytes(8, "little")
    return bytes(memory)


def many_segments(count: int = 65_535) -> bytes:
    """A core of segments without bytes, and of one, the last, with an RSDP and an XSDT of 1 MiB."""
    memory = many_rsdps(1)[: 2 << 20]
    whole = bytearray(elf(memory, 1))
    first = whole[64:120]
    start = 64 + 56 * count
    empty = b"".join(
        struct.pack("<IIQQQQQQ", 1, 7, start, 0, (1 << 40) + 64 * number, 0, 0, 0) for number in range(count - 1)
    )
    last = struct.pack("<IIQ", 1, 7, start) + first[16:]
    return bytes(whole[:56] + struct.pack("<H", count) + whole[58:64]) + empty + last + memory


_PCI: dict[str, tuple[Any, ...]] = {
    "vendor": ("abc", 1.5),
    "class_code": ("x", None, 2.5),
    "group": ([1], {}),
    "device": (None,),
    "address": (0, None, {}),
}
"""Fields of a PCI function, and values of another kind."""

FINDINGS: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{
        f"ANDD of {length} bytes": ("table documents", lambda length=length: andd(length))  # type: ignore[misc]
        for length in (10**30, 10**18, 1 << 31)
    },
    "JSON over 16 MiB": ("json", lambda: b"[" + b"1," * (9 << 20) + b"1]"),
    "JSON of brackets": ("json", lambda: b"[" * 100_000),
    "JSON of a long number": ("json", lambda: b"1" * 100_000),
    **{
        f"PCI tree with {field} {value!r}": (
            "pci trees",
            lambda field=field, value=value: pci(**{field: value}),  # type: ignore[misc]
        )
        for field, values in _PCI.items()
        for value in values
    },
    "PCI tree of texts": ("pci trees", lambda: b'["x", "y"]'),
    "PCI tree of a key": ("pci trees", lambda: b'{"0": 0}'),
    "damaged deflate data": ("snapshot folders", lambda: folder(damage=8)),
    "damaged LZMA data": ("snapshot folders", lambda: folder(zipfile.ZIP_LZMA, damage=20)),
    "damaged bzip2 data": ("snapshot folders", lambda: folder(zipfile.ZIP_BZIP2, damage=8)),
    "unit.json of brackets": ("snapshot folders", lambda: folder(unit_json=b"[" * 100_000)),
    "5 MB that unpack to over 1 GB": ("snapshot folders", lambda: zeroes(1100 << 20)),
    "gzip 1,200 deep": ("archives", lambda: nested_gzip(1200)),
    "gzip of newlines": ("archives", lambda: gzip.compress(b"\n" * (64 << 20), mtime=0)),
    "gzip of more newlines": ("archives", lambda: gzip.compress(b"\n" * (256 << 20), 1, mtime=0)),
    "200 RSDPs": ("images", many_rsdps),
    "65,535 segments": ("images", many_segments),
    "a core of 65,535 segments": ("cores", many_segments),
    "4,000 DRHDs": ("tables", lambda: table(*(drhd(0x1000 * number) for number in range(4_000)))),
}
"""By name: the way, and the input."""

_TABLE = table(drhd(0xFED91000, flags=1))

NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "zeroes": bytes(4096),
    "all ones": b"\xff" * 4096,
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "a long number": b"1" * 10_000,
    "null": b"null",
    "a text": b'"text"',
    "a list of everything": b'[null, 1, 1.5, "x", [], {}]',
    "another encoding": '{"header": 1}'.encode("utf-16"),
    "half a character": b'{"header": "\\ud800"}',
    "damaged gzip": gzip.compress(_TABLE)[:-9],
    "gzip in gzip": gzip.compress(gzip.compress(_TABLE)),
    "the beginning of an ELF file": b"\x7fELF\x02\x01\x01" + bytes(57),
    "the beginning of a zip file": b"PK\x03\x04" + bytes(26),
    "an empty zip file": b"PK\x05\x06" + bytes(18),
    "a cut table": _TABLE[:50],
}
"""What is given to every way in, since somebody will."""
