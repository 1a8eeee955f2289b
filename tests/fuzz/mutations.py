"""Inputs that are nearly right: bytes, JSON, text and archives with a few changes, which follow from the Random."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from random import Random
from typing import Any
from zlib import crc32

from tests.dmar.hand import mutate as mutate_table

_WORDS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0x24,
    0x7F,
    0x80,
    0xFF,
    0xFFF,
    0x1000,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
)
_WORDS += (0x8000_0000, 0xFFFF_FFFF, 1 << 39, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)
_VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1, 255, 1 << 31, 1 << 64, 10**30, -(10**18), 1.5, 1e308)
_VALUES += ("", "x", "abc", "0x", "0xzz", "-1", "0x" + "f" * 40, "\x1b[2J", "\x9b5n", "é" * 40, "\ud800", [], {}, [1])
_VALUES += ({"a": 1}, [[]], [[[[[[[[]]]]]]]], float("nan"), float("inf"))
_TOKENS: tuple[str, ...] = (
    "0x0",
    "-1",
    "ffffffffffffffff",
    "0x1ffffffffffffffff",
    "9" * 30,
    "[",
    "]",
    "\x1b[31m",
    "\x9b",
    "\u202e",
)
_TOKENS += ("00:00.0", "ff:1f.7", "0001:5e:00.0", "100:20.8", "fault", "reason", "0x" + "f" * 32, "\x00", "\r", "")

_STATE_PREFIX = 16

table = mutate_table
"""A DMAR: bits, bytes, lengths, cuts, copies."""


def binary(data: bytes, numbers: Random) -> bytes:
    """Any bytes: as of a table, and words of 16 to 64 bits anywhere."""
    if numbers.random() < 0.5 and len(data) < 4096:
        return mutate_table(data, numbers)
    changed = bytearray(data)
    for _ in range(numbers.randint(1, 6)):
        size = numbers.choice((1, 2, 4, 8))
        at = numbers.randrange(max(1, len(changed) - size + 1))
        if numbers.random() < 0.2:
            at = at & ~7
        changed[at : at + size] = (numbers.choice(_WORDS) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if numbers.random() < 0.1:
        del changed[numbers.randrange(len(changed) + 1) :]
    return bytes(changed)


def text(data: bytes, numbers: Random) -> bytes:
    """Lines that are lost, doubled, swapped and joined; words that are replaced; now and then a byte."""
    lines = data.decode("utf-8", "replace").splitlines(keepends=True) or [""]
    for _ in range(numbers.randint(1, min(6, len(lines) + 1))):
        at = numbers.randrange(len(lines))
        kind = numbers.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(numbers.randrange(len(lines)), lines[at])
        elif kind == 2:
            lines[at] = lines[at].rstrip("\n")
        else:
            words = lines[at].split(" ")
            where = numbers.randrange(len(words))
            words[where] = numbers.choice((*_TOKENS, words[where][: len(words[where]) // 2], words[where] * 2))
            lines[at] = " ".join(words)
    changed = "".join(lines).encode("utf-8", "surrogatepass")
    return mutate_table(changed, numbers) if numbers.random() < 0.2 else changed


def document(data: bytes, numbers: Random) -> bytes:
    """A JSON document in which values have other types and sizes, and keys are lost or new."""
    value = json.loads(data)
    for _ in range(numbers.randint(1, 4)):
        value = _changed(value, numbers)
    changed = json.dumps(value, ensure_ascii=numbers.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutate_table(changed, numbers) if numbers.random() < 0.2 else changed


def _changed(value: Any, numbers: Random) -> Any:
    """A copy in which one value, at any depth, is another."""
    if isinstance(value, (dict, list)) and value and numbers.random() < 0.85:
        copy: Any = value.copy()
        keys = list(copy) if isinstance(copy, dict) else list(range(len(copy)))
        key = numbers.choice(keys)
        kind = numbers.random()
        if kind < 0.08:
            del copy[key]
        elif kind < 0.12 and isinstance(copy, dict):
            copy[numbers.choice(("", "x", "\x1b[2J", str(key) + "_"))] = copy[key]
        elif kind < 0.16 and isinstance(copy, list):
            copy.extend(copy[: numbers.randint(1, 40)])
        else:
            copy[key] = _changed(copy[key], numbers)
        return copy
    return numbers.choice(_VALUES)


def archive(data: bytes, numbers: Random) -> bytes:
    """A zip: one member changed by what it holds, then packed again in any way; or the archive's own bytes."""
    if numbers.random() < 0.3:
        return binary(data, numbers)
    changed = folder(data, numbers)
    return binary(changed, numbers) if numbers.random() < 0.3 else changed


def folder(data: bytes, numbers: Random) -> bytes:
    """A zip of which one member is changed by what it holds, or lost. It is packed again in any way."""
    with zipfile.ZipFile(io.BytesIO(data)) as given:
        members = {name: given.read(name) for name in given.namelist()}
        kinds = {each.filename: each.compress_type for each in given.infolist()}
    name = numbers.choice(list(members))
    change = document if name.endswith(".json") else binary
    members[name] = change(members[name], numbers)
    if numbers.random() < 0.05:
        del members[numbers.choice(list(members))]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as written:
        for each, contents in members.items():
            method = numbers.choice(methods) if numbers.random() < 0.1 else kinds[each]
            written.writestr(zipfile.ZipInfo(each), contents, method)
    return packed.getvalue()


def state(data: bytes, numbers: Random) -> bytes:
    """The saved state of a unit whose checksum mostly fits: prefix of 8 bytes magic, 4 format, 4 checksum."""
    if numbers.random() < 0.1:
        return binary(data, numbers)
    body = binary(data[_STATE_PREFIX:], numbers)
    return data[: _STATE_PREFIX - 4] + crc32(body).to_bytes(4, "little") + body


def packed(data: bytes, numbers: Random) -> bytes:
    """A changed file in one to three layers of gzip, of which the outer one may be damaged."""
    changed = binary(data, numbers)
    for _ in range(numbers.randint(1, 3)):
        changed = gzip.compress(changed, 1, mtime=0)
    return binary(changed, numbers) if numbers.random() < 0.5 else changed
