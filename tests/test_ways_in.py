"""Every way in refuses nonsense in one line, whatever it looks like."""

from __future__ import annotations

import gzip

import pytest

from iommu.errors import VtdError
from tests.dmar.hand import drhd, table
from tests.ways_in import WAYS_IN

DMAR = table(drhd(0xFED91000, flags=1))
NONSENSE = {
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
    "damaged gzip": gzip.compress(DMAR)[:-9],
    "gzip in gzip": gzip.compress(gzip.compress(DMAR)),
    "the beginning of an ELF file": b"\x7fELF\x02\x01\x01" + bytes(57),
    "the beginning of a zip file": b"PK\x03\x04" + bytes(26),
    "an empty zip file": b"PK\x05\x06" + bytes(18),
    "a cut table": DMAR[:50],
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("way", WAYS_IN)
def test_nonsense(way: str, name: str) -> None:
    try:
        WAYS_IN[way](NONSENSE[name])
    except VtdError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 500
