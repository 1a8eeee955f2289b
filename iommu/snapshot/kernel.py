"""Where a kernel's text is in physical memory, from its System.map or its vmlinux."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from iommu.errors import MisuseError
from iommu.files.reading import Data, as_text, contents, name_of
from iommu.files.unpacking import unpacked

_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000  # where x86-64 maps the kernel: virtual addresses from there on
_ELF = b"\x7fELF"
_FIRST, _LAST = "_stext", "_etext"
_LINE = re.compile(r"^([0-9a-f]{8,16}) [A-Za-z] (_stext|_etext)$", re.MULTILINE)
_MOST = 1 << 32
_SYMBOL = 24  # bytes of a symbol in a 64-bit ELF file


def kernel_text(path: Path, at: int | None = None) -> range:
    """The physical addresses of a kernel's text.

    Args:
        path: System.map, or a vmlinux with symbols; compressed by gzip or not.
        at: where the text begins, if the kernel does not run where it was linked to run (KASLR): the first address of
            "Kernel code" in /proc/iomem.

    Raises MisuseError for what is neither, or has no such symbols, and InputError for what cannot be read.
    """
    name = name_of(path)
    data = unpacked(contents(path), name)
    first, last = _of_vmlinux(data, name) if data[:4] == _ELF else _of_map(data, name)
    if not 0 < last - first < _MOST:
        raise MisuseError(f"{name}: {_FIRST}={first:#x} and {_LAST}={last:#x} are not the ends of a kernel's text")
    start = first if at is None else at
    return range(start, start + last - first)


def _of_map(data: Data, name: str) -> tuple[int, int]:
    found = {symbol: int(number, 16) for number, symbol in _LINE.findall(as_text(data, name))}
    return _both(found, name, _START_KERNEL_MAP)


def _both(found: dict[str, int], name: str, base: int) -> tuple[int, int]:
    for symbol in (_FIRST, _LAST):
        if symbol not in found:
            raise MisuseError(f"{name} is neither a System.map nor a vmlinux with symbols: it has no {symbol}")
        if found[symbol] < base:
            raise MisuseError(f"{name}: {symbol}={found[symbol]:#x} is not an address of an x86-64 kernel")
    return found[_FIRST] - base, found[_LAST] - base


def _of_vmlinux(data: Data, name: str) -> tuple[int, int]:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - few runs need it, and the import is slow

    try:
        stream: Any = io.BytesIO(data) if isinstance(data, bytes) else data
        file: Any = ELFFile(stream)
        table = file.get_section_by_name(".symtab")
        if table is not None and table["sh_entsize"] != _SYMBOL:
            raise MisuseError(f"{name}: its symbols are {table['sh_entsize']} bytes each, not {_SYMBOL}")
        found = {
            symbol: int(each["st_value"])
            for symbol in (_FIRST, _LAST)
            for each in (table.get_symbol_by_name(symbol) or () if table else ())
        }
    except MisuseError:
        raise
    except Exception as error:  # pyelftools lets exceptions of its parsers through
        raise MisuseError(f"{name} is not an ELF file that can be read: {' '.join(str(error).split())}") from error
    return _both(found, name, _START_KERNEL_MAP)
