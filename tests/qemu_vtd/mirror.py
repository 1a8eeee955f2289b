"""A small Debian mirror on this machine: its QEMU is a program that answers a probe, its loader runs it."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.qemu_vtd.test_qemu_probe import fake_qemu

LOADER = '#!/bin/sh\nshift 2\nexec "$@"\n'


def run(*words: str | Path, **environment: str) -> str:
    return subprocess.run(words, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout


class Key:
    """A key for signing, made by gpg in a home of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self._home = str(home)
        self.public = home / "public.gpg"
        run(
            "gpg", "--batch", "--passphrase", "", "--quick-gen-key", "mirror", "ed25519", "sign", GNUPGHOME=self._home
        )
        self.public.write_bytes(
            subprocess.run(
                ["gpg", "--export"], env={**os.environ, "GNUPGHOME": self._home}, check=True, capture_output=True
            ).stdout
        )

    def sign(self, release: Path) -> None:
        signed = release.with_name("InRelease")
        run("gpg", "--batch", "--yes", "--clearsign", "-o", signed, release, GNUPGHOME=self._home)

    def close(self) -> None:
        """End the agent that gpg starts."""
        run("gpgconf", "--kill", "all", GNUPGHOME=self._home)


class Mirror:
    """A mirror with the suite "stable"; `publish` replaces what it offers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = folder / "pool"
        self.pool.mkdir(parents=True)
        self._architecture = run("dpkg", "--print-architecture").strip()

    def publish(self, version: str, key: Key | None, program: str | None = None) -> None:
        """Offer a QEMU of this package version, signed with `key`."""
        shutil.rmtree(self.pool)
        self.pool.mkdir()
        number = tuple(int(part) for part in version.partition("-")[0].split("."))
        assert len(number) == 3
        qemu = program if program is not None else fake_qemu(number, ["intel-iommu", "edu"])
        self._build("qemu-system-x86", f"1:{version}", "libc6", {"usr/bin/qemu-system-x86_64": qemu})
        self._build("libc6", "2.41", "", {"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": LOADER})
        where = self.folder / "dists/stable/main" / f"binary-{self._architecture}"
        where.mkdir(parents=True, exist_ok=True)
        listed = "\n".join(self._entry(package) for package in sorted(self.pool.glob("*.deb"))).encode()
        (where / "Packages").write_bytes(listed)
        release = self.folder / "dists/stable/Release"
        release.write_text(
            "Origin: Debian\nSuite: stable\nCodename: stable\nDate: Mon, 01 Jan 2024 00:00:00 UTC\n"
            f"Architectures: {self._architecture}\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(listed).hexdigest()} {len(listed)} main/binary-{self._architecture}/Packages\n"
        )
        release.with_name("InRelease").unlink(missing_ok=True)
        if key is not None:
            key.sign(release)

    def packages(self) -> Sequence[Path]:
        return sorted(self.pool.glob("*.deb"))

    def _build(self, name: str, version: str, depends: str, files: dict[str, str]) -> None:
        tree = self.folder / "tree"
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True)
            (tree / path).write_text(text)
            (tree / path).chmod(0o4755)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: {self._architecture}\nMaintainer: nobody\n"
            + (f"Depends: {depends}\n" if depends else "")
            + "Description: for a test\n"
        )
        run("dpkg-deb", "--root-owner-group", "--build", tree, self.pool)
        shutil.rmtree(tree)

    def _entry(self, package: Path) -> str:
        data = package.read_bytes()
        control = run("dpkg-deb", "--field", package)
        path = package.relative_to(self.folder)
        return f"{control}Filename: {path}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
