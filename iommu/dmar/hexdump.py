"""Tables as text: what acpidump, iasl -d, hexdump and xxd print.

All of them are lines of an offset, up to 16 bytes in hex, and more that is ignored; a block begins at offset 0.
"""

import re
from collections.abc import Iterator

# "    0010: 44 4D 41 52 ..  DMAR", "0010: ..", "00000010  44 4d .. |DMAR|", "00000010: 444d 4152 ..  DMAR"
_LINE = re.compile(
    r"[ \t]*([0-9A-Fa-f]{4,16})(?::|[ \t])[ \t]*"
    r"((?:[0-9A-Fa-f]{2}(?:[0-9A-Fa-f]{2})?[ \t]){0,8} ?(?:[0-9A-Fa-f]{2}(?:[0-9A-Fa-f]{2})?[ \t]){0,8})"
)
_PER_LINE = 16


def blocks(text: str) -> Iterator[tuple[str, bytes]]:
    """Each block's bytes, with the nearest line before it that is not hex: "DMAR @ 0x0000000078FE0000"."""
    title, found, heading = "", bytearray(), ""
    for line in text.splitlines():
        match = _LINE.match(line + " ")
        taken = bytes.fromhex("".join(match[2].split()))[:_PER_LINE] if match else b""
        if not taken or match is None:
            heading = line.strip() or heading
            continue
        offset = int(match[1], 16)
        if offset == 0:
            if found:
                yield title, bytes(found)
            title, found = heading, bytearray()
        if offset == len(found):
            found += taken
    if found:
        yield title, bytes(found)
