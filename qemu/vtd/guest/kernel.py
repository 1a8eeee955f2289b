"""Kernels for guests: Debian packages, unpacked into the private cache and never installed; or any file.

~/.cache/vtdlab/guest/linux-image-cloud-amd64-bookworm/{vmlinuz,modules/}
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from qemu.vtd.apt import Apt, Progress, codename
from qemu.vtd.errors import InstallError
from qemu.vtd.guest.errors import NothingToBoot
from qemu.vtd.private_cache import locked, private, root
from qemu.vtd.process import run

DEFAULT = "linux-image-cloud-amd64"
_BUSYBOX = "busybox-static"
_NAME = re.compile(r"([a-z0-9][a-z0-9+.-]+)(?:/([a-z][a-z0-9.-]*))?")
_PART = ".part-"
MODULES = ("vfio-pci", "vfio_iommu_type1")
"""The modules that the guest's helper needs, where they are not built in; what they need is found in them."""


@dataclass(frozen=True)
class Kernel:
    """A kernel for a guest.

    Attributes:
        name: the package it comes from, and its version; or its path.
        image: the file to boot.
        modules: the directory that holds its modules; None when it needs none.
    """

    name: str
    image: Path
    modules: Path | None


def of_file(image: Path) -> Kernel:
    """Any other kernel; what it needs has to be built in. Raises NothingToBoot when there is no such file."""
    if not image.is_file():
        raise NothingToBoot(f"{image} is not a kernel: there is no such file")
    return Kernel(str(image), image.absolute(), None)


def of_package(name: str = DEFAULT, progress: Progress = lambda *_: None) -> Kernel:
    """The kernel of a Debian package; NAME/SUITE for one of another suite. It is fetched once.

    Raises NothingToBoot when there is no such package, or no mirror.
    """
    folder = fetched(name, progress)
    return Kernel((folder / "package").read_text(), folder / "vmlinuz", folder / "modules")


def busybox(progress: Progress = lambda *_: None) -> Path:
    """A busybox without shared libraries, from its Debian package. Raises NothingToBoot."""
    return fetched(_BUSYBOX, progress) / "busybox"


def fetched(name: str, progress: Progress) -> Path:
    """The directory with what a guest needs of a package; fetched and unpacked unless it is there already."""
    named = _NAME.fullmatch(name)
    if named is None:
        raise NothingToBoot(f"{name!r} is not the name of a Debian package, such as {DEFAULT} or {DEFAULT}/trixie")
    try:
        return _fetched(named[1], named[2] or codename(), progress)
    except InstallError as error:
        hint = "" if name == _BUSYBOX else "; name another kernel with --kernel PATH"
        raise NothingToBoot(f"no {name} for the guest: {error}{hint}") from None
    except OSError as error:
        raise NothingToBoot(f"no {name} for the guest: {error.filename}: {error.strerror}") from None


def _fetched(package: str, suite: str, progress: Progress) -> Path:
    cache = private(private(root()) / "guest")
    with locked(cache):
        for left in (each for each in cache.glob(f"{_PART}*") if each.is_dir()):
            shutil.rmtree(left)
        wanted = f"{package}-{suite}"
        if (folder := cache / wanted).is_dir():
            return folder
        apt = Apt(private(cache / ".apt"), suite)
        apt.update(progress)
        real = apt.depends_on(package, r"linux-image-\d") or package
        part = Path(mkdtemp(prefix=_PART, dir=cache))
        try:
            (file,) = apt.fetch([real], part / "packages", progress)
            _unpack(file, part / "root")
            _keep(part, part / "kept")
            (part / "kept" / "package").write_text(file.stem.removesuffix("_amd64"))
            (part / "kept").rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _unpack(package: Path, into: Path) -> None:
    status, said = run(["dpkg-deb", "-x", str(package), str(into)])
    if status:
        raise InstallError(f"dpkg-deb cannot unpack {package.name}: {said[0] if said else 'it printed nothing'}")


def _keep(part: Path, kept: Path) -> None:
    """Move what a guest needs out of an unpacked package. Raises InstallError when that has none of it."""
    kept.mkdir()
    found = False
    for image in (part / "root" / "boot").glob("vmlinuz-*"):
        image.rename(kept / "vmlinuz")
        (kept / "modules").mkdir()
        found = True
    for module in (part / "root").rglob("*.ko*"):
        if "/vfio/" in str(module) or module.name.startswith("irqbypass."):
            module.rename(kept / "modules" / module.name)
    for program in (part / "root").rglob("bin/busybox"):
        program.rename(kept / "busybox")
        found = True
    if not found:
        raise InstallError("the package holds neither a kernel nor busybox")
