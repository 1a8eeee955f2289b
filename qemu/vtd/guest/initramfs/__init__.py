"""The guest's root file system: busybox, the modules of VFIO, and a helper that owns a device.

It is an archive that cpio writes, cached by what it is made of.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from qemu.vtd.guest import kernel, modules
from qemu.vtd.guest.errors import NothingToBoot
from qemu.vtd.guest.kernel import Kernel
from qemu.vtd.private_cache import locked, private, root

# More than the set-ups that run side by side, whose archives must not go before QEMU has read them.
_KEPT = 8
_COMPILERS = ("cc", "gcc", "clang")


def build(of: Kernel, busybox: Path, added: Mapping[str, bytes] | None = None) -> Path:
    """The archive for a kernel; `added` are further files by their path.

    Raises NothingToBoot when there is no compiler or no cpio, or when a module cannot be read.
    """
    loaded = {} if of.modules is None else modules.in_order(of.modules, kernel.MODULES)
    contents = {
        "init": (_source("init"), 0o755),
        "bin/busybox": (busybox.read_bytes(), 0o755),
        "bin/vfio": (program("vfio"), 0o755),
        "modules/order": ("".join(f"{name}.ko\n" for name in loaded).encode(), 0o644),
        **{f"modules/{name}.ko": (data, 0o644) for name, data in loaded.items()},
        **{path: (data, 0o755) for path, data in (added or {}).items()},
    }
    key = sha256()
    for path, (data, mode) in sorted(contents.items()):
        key.update(f"{path} {mode:o} {len(data)}\n".encode() + sha256(data).digest())
    archive = _cached(f"initramfs-{key.hexdigest()[:16]}", lambda into: _archive(contents, into))
    _prune(archive)
    return archive


def _source(name: str) -> bytes:
    return (files(__name__) / name).read_bytes()


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """A file of the private cache; made unless it is there."""
    cache = private(private(root()) / "guest")
    with locked(cache):
        if not (whole := cache / name).exists():
            part = cache / f".part-{name}"
            make(part)
            part.rename(whole)
    return whole


def _prune(used: Path) -> None:
    """Keep the archives that were used last; each takes up to 60 MB."""
    used.touch()
    archives = sorted(used.parent.glob("initramfs-*"), key=lambda each: each.stat().st_mtime, reverse=True)
    for old in archives[_KEPT:]:
        old.unlink(missing_ok=True)


def _archive(contents: Mapping[str, tuple[bytes, int]], into: Path) -> None:
    with TemporaryDirectory(prefix="vtd-initramfs-") as folder:
        top = Path(folder)
        for path, (data, mode) in contents.items():
            file = top / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            file.chmod(mode)
        names = sorted(str(path.relative_to(top)) for path in top.rglob("*"))
        try:
            ran = subprocess.run(
                ["cpio", "--create", "--format=newc", "--owner=0:0", "--reproducible", "--quiet"],
                input="\n".join(names).encode(),
                cwd=top,
                capture_output=True,
                check=True,
            )
        except FileNotFoundError:
            raise NothingToBoot("cpio is missing; install the Debian package cpio") from None
        except subprocess.CalledProcessError as error:
            raise NothingToBoot(f"cpio: {error.stderr.decode(errors='replace').strip()}") from None
    into.write_bytes(ran.stdout)


def program(name: str) -> bytes:
    """A helper of the guest, compiled by the system's compiler: "vfio" or "kexec". Raises NothingToBoot."""
    source = _source(f"{name}.c")
    return _cached(f"{name}-{sha256(source).hexdigest()[:16]}", lambda into: _compile(source, into)).read_bytes()


def _compile(source: bytes, into: Path) -> None:
    compiler = next((found for each in _COMPILERS if (found := shutil.which(each))), None)
    if compiler is None:
        raise NothingToBoot("there is no C compiler for the guest's helper; install the Debian package gcc")
    ran = subprocess.run(
        [compiler, "-static", "-O2", "-s", "-x", "c", "-", "-o", into], input=source, capture_output=True, check=False
    )
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        what = next((line for line in said if "error" in line), said[-1])
        raise NothingToBoot(f"{compiler} cannot build the guest's helper; is libc6-dev there? {what}")
