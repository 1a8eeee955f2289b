"""Tables made by hand, byte by byte, without the code under test; and where the corpus is."""

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("VTDLAB_CORPUS", ROOT.parent / "shared" / "dmar-corpus"))
TABLES = sorted((CORPUS / "tables").glob("*.dmar"))

needs_corpus = pytest.mark.skipif(
    not TABLES, reason=f"no DMAR tables of real machines in {CORPUS}: set VTDLAB_CORPUS to their folder"
)


def facts_of(path: Path) -> dict[str, Any]:
    """The content of a corpus table according to iasl, in the shape of our JSON."""
    facts: dict[str, Any] = json.loads((CORPUS / "facts" / f"{path.stem}.json").read_text())
    del facts["source"]
    return facts


def table(
    *structures: bytes, width: int = 39, flags: int = 0, revision: int = 1, reserved: bytes = bytes(10)
) -> bytes:
    """A table of these structures, with the right length and checksum."""
    body = b"".join(structures)
    head = b"DMAR" + struct.pack("<IBB", 48 + len(body), revision, 0) + b"VTDLABHANDMADE" + struct.pack("<I", 1)
    data = head + b"TEST" + struct.pack("<IBB", 1, width - 1, flags) + reserved + body
    return data[:9] + bytes([-sum(data) & 0xFF]) + data[10:]


def scope(
    kind: int, bus: int, *path: tuple[int, int], number: int = 0, flags: int = 0, reserved: int = 0, length: int = -1
) -> bytes:
    """A device scope entry; `length` overrides the right one."""
    length = 6 + 2 * len(path) if length < 0 else length
    return bytes([kind, length, flags, reserved, number, bus]) + b"".join(bytes(hop) for hop in path)


def structure(code: int, body: bytes, length: int = -1) -> bytes:
    """Type, length, body; `length` overrides the right one."""
    return struct.pack("<HH", code, 4 + len(body) if length < 0 else length) + body


def drhd(base: int, *scopes: bytes, flags: int = 0, size: int = 0, segment: int = 0, length: int = -1) -> bytes:
    return structure(0, struct.pack("<BBHQ", flags, size, segment, base) + b"".join(scopes), length)


def rmrr(base: int, limit: int, *scopes: bytes, segment: int = 0, reserved: int = 0) -> bytes:
    return structure(1, struct.pack("<HHQQ", reserved, segment, base, limit) + b"".join(scopes))


def atsr(*scopes: bytes, flags: int = 0, segment: int = 0, reserved: int = 0) -> bytes:
    return structure(2, struct.pack("<BBH", flags, reserved, segment) + b"".join(scopes))


def rhsa(base: int, domain: int, reserved: int = 0) -> bytes:
    return structure(3, struct.pack("<IQI", reserved, base, domain))


def andd(number: int, name: bytes, reserved: bytes = bytes(3)) -> bytes:
    """`name` includes its NUL and padding, if any."""
    return structure(4, reserved + bytes([number]) + name)


def satc(*scopes: bytes, flags: int = 0, segment: int = 0, reserved: int = 0) -> bytes:
    return structure(5, struct.pack("<BBH", flags, reserved, segment) + b"".join(scopes))


def sidp(*scopes: bytes, segment: int = 0, reserved: int = 0) -> bytes:
    return structure(6, struct.pack("<HH", reserved, segment) + b"".join(scopes))


def mutate(data: bytes, numbers: random.Random) -> bytes:
    """`data` with up to eight changes of the kinds that break parsers: bits, bytes, lengths, cuts, copies."""
    changed = bytearray(data)
    for _ in range(numbers.randint(1, 8)):
        at = numbers.randrange(len(changed)) if changed else 0
        kind = numbers.randrange(7)
        if not changed or kind == 0:
            changed[at:at] = numbers.randbytes(numbers.randint(1, 20))
        elif kind == 1:
            changed[at] ^= 1 << numbers.randrange(8)
        elif kind == 2:
            changed[at] = numbers.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7F, 0x80, 0xFE, 0xFF])
        elif kind == 3:
            del changed[at : at + numbers.randint(1, 20)]
        elif kind == 4:
            other = numbers.randrange(len(changed))
            changed[at:at] = changed[other : other + numbers.randint(1, 40)]
        elif kind == 5:
            changed[at : at + 2] = numbers.choice([0, 3, 4, 8, len(changed), 0xFFFF]).to_bytes(2, "little")
        else:
            changed[4:8] = len(changed).to_bytes(4, "little")
    return bytes(changed)
