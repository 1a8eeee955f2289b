"""A QEMU as files of a guest's root file system, with all that it needs to run there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from qemu.vtd import install
from qemu.vtd.guest.errors import NothingToBoot
from qemu.vtd.private_cache import PROGRAM

COMMAND = f"/usr/bin/{PROGRAM} -L /usr/share/qemu"
"""How the guest runs it."""

_SECONDS = 20.0
# The dynamic loader looks here without being told, and its own path is part of every program.
_LIBRARIES, _LOADER = "lib/x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"
# QEMU looks for its modules in the directory it was built for.
_MODULES = "usr/lib/x86_64-linux-gnu/qemu"
_TCG = "accel-tcg-x86_64.so"
_ROMS = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")


def qemu(program: str) -> dict[str, bytes]:
    """The files by path: the program, its libraries and loader, TCG, and the ROMs of a machine without a display.

    Args:
        program: the system's QEMU, or one that `vtd qemu install` installed.

    Raises:
        NothingToBoot: it is neither, or a library or ROM is missing.
    """
    wrapped = Path(program).parent / "root"
    top = wrapped if (wrapped / "usr/bin" / PROGRAM).is_file() else Path("/")
    inside = top / "usr/bin" / PROGRAM if top == wrapped else Path(program)
    if top == wrapped:
        loader, folders = install.loading(top)
        command = [str(loader), "--library-path", ":".join(map(str, folders))]
    else:
        loader = _interpreter(inside)
        command = [str(loader)]
    files = {f"usr/bin/{PROGRAM}": inside, _LOADER: loader}
    files |= {f"{_LIBRARIES}/{name}": path for name, path in _libraries([*command, "--list", str(inside)]).items()}
    if (module := top / _MODULES / _TCG).is_file():
        files[f"{_MODULES}/{_TCG}"] = module
    files |= {f"usr/share/qemu/{name}": _rom(top, name) for name in _ROMS}
    return {path: file.read_bytes() for path, file in files.items()}


def _interpreter(program: Path) -> Path:
    """The dynamic loader that a program names."""
    try:
        with program.open("rb") as file:
            for segment in ELFFile(file).iter_segments("PT_INTERP"):
                return Path(segment.data().rstrip(b"\0").decode())
    except (ELFError, OSError):
        pass
    raise NothingToBoot(
        f"{program} cannot run inside a guest: it is neither a program with shared libraries nor a QEMU of "
        "vtd qemu install"
    )


def _libraries(command: list[str]) -> dict[str, Path]:
    """The libraries that a program needs, by name, as the dynamic loader lists them."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NothingToBoot(f"the libraries of {command[-1]} cannot be listed: {error}") from None
    missing = re.search(r"^\s*(\S+) => not found$", ran.stdout, re.MULTILINE)
    if ran.returncode or missing is not None:
        said = f"{missing[1]} is missing" if missing else (ran.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise NothingToBoot(f"the libraries of {command[-1]} cannot be listed: {said}")
    return {name: Path(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+) \(", ran.stdout, re.MULTILINE)}


def _rom(top: Path, name: str) -> Path:
    for folder in ("qemu", "seabios"):
        if (path := top / "usr/share" / folder / name).is_file():
            return path
    raise NothingToBoot(f"QEMU's {name} is missing below {top / 'usr/share'}; install the Debian package seabios")
