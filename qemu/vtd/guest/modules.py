"""Kernel modules: in which order they load, as each says in its .modinfo."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from qemu.vtd.guest.errors import NothingToBoot


def in_order(folder: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The wanted modules and those they need, each after what it needs, by name.

    A module that is not there is taken to be built into the kernel. Raises NothingToBoot for one that cannot be read.
    """
    files = {_name(path): path for path in sorted(folder.glob("*.ko*"))}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in files:
            return
        data = _read(files[name])
        for needed in _needs(data, files[name]):
            add(needed)
        ordered[name] = data

    for each in wanted:
        add(each.replace("-", "_"))
    return ordered


def _name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return lzma.decompress(data) if path.suffix == ".xz" else data
    except lzma.LZMAError as error:
        raise NothingToBoot(f"{path}: {error}") from None


def _needs(module: bytes, path: Path) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise NothingToBoot(f"{path} is not a kernel module: {error}") from None
    lines = [] if section is None else section.data().split(b"\0")
    depends = next((line[8:].decode() for line in lines if line.startswith(b"depends=")), "")
    return [name.replace("-", "_") for name in depends.split(",") if name]
