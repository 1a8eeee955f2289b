"""DMARs as text: what acpidump, iasl -d, hexdump and xxd print.

All of them are lines of an offset, up to 16 bytes in hex, and more that is ignored; a table begins at offset 0.
"""

import re
from collections.abc import Iterator

# "    0010: 44 4D 41 52 ..  DMAR", "0010: ..", "00000010  44 4d .. |DMAR|", "00000010: 444d 4152 ..  DMAR"
_PAIRS = rb"(?:[0-9A-Fa-f]{2}(?:[0-9A-Fa-f]{2})?(?:[ \t]|$)){0,8}"
_LINE = re.compile(
    rb"^[ \t]*+([0-9A-Fa-f]{4,16})(?::|[ \t])[ \t]*+(?=[0-9A-Fa-f]{2})(" + _PAIRS + rb" ?" + _PAIRS + rb")",
    re.MULTILINE,
)
# All but this is passed over at the speed of a search: there are inputs of millions of lines.
_BEGINS = re.compile(rb"^[ \t]*+0{4,16}(?::|[ \t])[ \t]*+44 ?4[Dd] ?41 ?52(?:[ \t]|$)", re.MULTILINE)
_SIGNATURE = re.compile(rb"44 ?4[Dd] ?41 ?52")
_ANY_BEGINS = re.compile(
    rb"^[ \t]*+0{4,16}(?::|[ \t])[ \t]*+[0-9A-Fa-f]{2}(?:[0-9A-Fa-f]{2})?(?:[ \t]|$)", re.MULTILINE
)
_PER_LINE = 16
_LINES_ABOVE, _TITLE = 4, 200


def dmars(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Each DMAR's bytes, with the line above it that is not hex, if there is one: "DMAR @ 0x0000000078FE0000"."""
    text = _with_plain_ends(text)
    if _SIGNATURE.search(text) is None:
        return
    for match in _BEGINS.finditer(text):
        found = bytearray()
        for line in _LINE.finditer(text, match.start()):
            if int(line[1], 16) != len(found):
                break
            found += _octets(line)
        yield _title(text, match.start()), bytes(found)


def is_dump(text: bytes) -> bool:
    """Whether there are bytes in hex, at offset 0."""
    return b"0000" in text and _ANY_BEGINS.search(_with_plain_ends(text)) is not None


def _with_plain_ends(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _octets(line: re.Match[bytes]) -> bytes:
    return bytes.fromhex(b"".join(line[2].split()).decode())[:_PER_LINE]


def _title(text: bytes, end: int) -> str:
    """The nearest line above that says anything and is not hex; empty if it is too far above."""
    for _ in range(_LINES_ABOVE):
        if end <= 0:
            break
        start = text.rfind(b"\n", max(0, end - 1 - _TITLE), end - 1) + 1
        line = text[start : end - 1].strip()
        if line and not _LINE.match(line):
            return line.decode("latin-1")
        end = start
    return ""
