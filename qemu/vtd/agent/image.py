"""The agent's program: a firmware image, and the numbers that it shares with us."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from qemu.vtd import firmware
from qemu.vtd.errors import DeviceError

ELF = Path(__file__).with_name("agent.elf")
_TOP = 1 << 32
"""The image ends here."""


@cache
def _contents() -> tuple[dict[str, int], bytes, bytes]:
    """Of the ELF: its symbols, its payload, its reset code. Raises DeviceError when they are not there."""
    try:
        with ELF.open("rb") as file:
            elf = ELFFile(file)
            table: Any = elf.get_section_by_name(".symtab")
            symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
            loaded = {segment["p_vaddr"]: segment.data() for segment in elf.iter_segments("PT_LOAD")}
        return symbols, loaded[_TOP - firmware.SIZE], loaded[_TOP - firmware.SIZE + firmware.RESET_VECTOR]
    except (ELFError, AttributeError, KeyError, OSError) as error:
        raise DeviceError(f"{ELF.name} is not the agent's program: {error}") from None


def number(name: str) -> int:
    """The value of a symbol. Raises DeviceError when there is none of this name."""
    symbols = _contents()[0]
    if name not in symbols:
        raise DeviceError(f"{ELF.name} has no symbol {name}")
    return symbols[name]


def firmware_with(mailbox: int) -> bytes:
    """The image that starts the agent, with its mailbox at this address, a multiple of 8 below 4 GiB."""
    _, payload, reset_code = _contents()
    at = number("mailbox") - (_TOP - firmware.SIZE)
    return firmware.image(reset_code, payload[:at] + mailbox.to_bytes(4, "little") + payload[at + 4 :])
