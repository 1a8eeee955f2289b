"""Inputs that once did harm: each took minutes, gigabytes, or ended in a traceback. They are made, not kept: some are large."""

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
    tree = json.loads(next(each for each in pci_trees() if b'"functions"' in each))
    tree["functions"][0].update(changed)
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
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("unit.json", b'{"format": "vtdlab-snapshot-1", "host_address_width": 48}')
        archive.writestr("registers.bin", bytes(4096))
        with archive.open("memory.bin", "w") as member:
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
        for field, values in {
            "vendor": ("abc", 1.5),
            "class_code": ("x", None, 2.5),
            "group": ([1], {}),
            "device": (None,),
            "address": (0, None, {}),
        }.items()
        for value in values
    },
    "PCI tree of texts": ("pci trees", lambda: b'{"functions": ["x", "y"]}'),
    "PCI tree of a key": ("pci trees", lambda: b'{"functions": {"0": 0}}'),
    "damaged deflate data": ("snapshot folders", lambda: folder(damage=8)),
    "damaged LZMA data": ("snapshot folders", lambda: folder(zipfile.ZIP_LZMA, damage=20)),
    "damaged bzip2 data": ("snapshot folders", lambda: folder(zipfile.ZIP_BZIP2, damage=8)),
    "unit.json of brackets": ("snapshot folders", lambda: folder(unit_json=b"[" * 100_000)),
    "3 MB that unpack to 3 GB": ("snapshot folders", lambda: zeroes(3 << 30)),
    "gzip 1,200 deep": ("archives", lambda: nested_gzip(1200)),
    "gzip of newlines": ("archives", lambda: gzip.compress(b"\n" * (64 << 20), mtime=0)),
    "gzip of more newlines": ("archives", lambda: gzip.compress(b"\n" * (256 << 20), mtime=0)),
    "200 RSDPs": ("images", many_rsdps),
    "65,535 segments": ("images", lambda: elf(bytes(65_535 * 16), 65_535)),
    "a core of 65,535 segments": ("cores", lambda: elf(bytes(65_535 * 16), 65_535)),
    "40,000 DRHDs": ("tables", lambda: table(*(drhd(0x1000 * number) for number in range(40_000)))),
}
"""By name: the way, and the input."""
