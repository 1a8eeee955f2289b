"""A private apt: the packages of another Debian suite, from the mirror and with the signatures of this system.

It has state, cache and sources of its own, so it needs no root and leaves the system's apt alone. Proxies and
credentials come from the system's configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import unquote

from iommu.files.writing import write_file
from qemu.vtd.errors import InstallError
from qemu.vtd.private_cache import private
from qemu.vtd.process import Process

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGE = "qemu-system-x86"
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
# Suites that need another one for the packages they do not have.
_ADDED = ("-backports", "-backports-sloppy", "-proposed-updates", "-updates")
_GENERIC = frozenset(("oldstable", "stable", "testing", "unstable", "sid"))

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, from 0 to 1."""

# The system's hooks are for the system's packages; its settings must not turn off the check of signatures.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{state}/";
Dir::State::status "{state}/status";
Dir::Cache "{cache}/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{sources}";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Languages "none";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
"""

_UNREACHABLE = (
    "Could not resolve",
    "Could not connect",
    "Temporary failure",
    "Connection failed",
    "Connection timed out",
    "Unable to connect",
    "Cannot initiate the connection",
)


@dataclass(frozen=True)
class Plan:
    """What is to be downloaded.

    Attributes:
        version: of the package, without its epoch.
        size: of all packages, in bytes.
    """

    version: str
    size: int


class Apt:
    """An apt of its own for one suite.

    Args:
        folder: for the state of all suites; kept, so that unchanged package lists are not downloaded again.
        suite: the Debian suite.

    Raises:
        InstallError: the name cannot be that of a suite, there is no apt, or it has no Debian mirror.
    """

    def __init__(self, folder: Path, suite: str) -> None:
        if _SUITE.fullmatch(suite) is None:
            raise InstallError(
                f"{suite!r} is not the name of a Debian suite, such as trixie, bookworm-backports or sid"
            )
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise InstallError(f"{tool} is not installed; a QEMU of another suite needs a Debian system")
        if not KEYRING.is_file():
            raise InstallError(f"{KEYRING} is missing; install the Debian package debian-archive-keyring")
        sources = _sources(suite)
        self._suite = suite
        self._folder = folder / suite
        self._new = not self._folder.exists()
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)  # what an apt that was killed has left
        private(self._folder)
        for name in ("lists", "lists/partial"):
            private(self._folder / name)
        (self._folder / "status").touch()
        (self._folder / "sources.list").write_text(sources)

    def update(self, progress: Progress) -> None:
        """Fetch the package lists that have changed. Raises InstallError: no such suite, or no network."""
        try:
            self._run("package lists", progress, "-o", "pkgCacheFile::Generate=false", "update")
        except BaseException:
            if self._new:
                shutil.rmtree(self._folder)
            raise

    def last_version(self) -> str | None:
        """The version given to `record_version`; None when the package lists have changed since."""
        try:
            lists, version = (self._folder / "version").read_text().split()
        except (OSError, ValueError):
            return None
        return version if lists == self._lists() else None

    def record_version(self, version: str) -> None:
        """Note the version that the current package lists have, for reading them takes seconds."""
        write_file(self._folder / "version", f"{self._lists()} {version}\n".encode())

    def _lists(self) -> str:
        releases = sorted((self._folder / "lists").glob("*Release"))
        return sha256(b"".join(each.read_bytes() for each in releases)).hexdigest()

    def plan(self) -> Plan:
        """What QEMU and all that it depends on would be. Raises InstallError when the suite has no such package."""
        printed = self._run("", lambda *_: None, "-qq", "--print-uris", *self._install())
        packages = re.findall(r"^'\S+' (\S+) (\d+) \S*$", printed, re.MULTILINE)
        versions = [unquote(name).split("_")[1] for name, _ in packages if name.startswith(f"{_PACKAGE}_")]
        if not versions:
            raise InstallError(f"the suite {self._suite} has no package {_PACKAGE}")
        return Plan(versions[0].rpartition(":")[2], sum(int(size) for _, size in packages))

    def download(self, into: Path, progress: Progress) -> list[Path]:
        """Download QEMU's packages and check them against the signed lists. Raises InstallError."""
        private(private(into) / "partial")
        self._run("download", progress, "-o", f"Dir::Cache::archives={into}/", *self._install())
        return sorted(into.glob("*.deb"))

    def depends_on(self, package: str, pattern: str) -> str | None:
        """The first package that `package` depends on and whose name matches; None when there is none.

        Raises InstallError when the suite has no such package.
        """
        shown = self._run("", lambda *_: None, "show", "--no-all-versions", package, program="apt-cache")
        depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        names = [] if depends is None else re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9+.-]*)", depends[1])
        return next((name for name in names if re.match(pattern, name)), None)

    def fetch(self, packages: Sequence[str], into: Path, progress: Progress) -> list[Path]:
        """Download packages alone, without what they depend on, and check them. Raises InstallError."""
        private(into)
        self._run("download", progress, "download", *packages, folder=into)
        return sorted(into.glob("*.deb"))

    def _install(self) -> Sequence[str]:
        return "--yes", "--download-only", "--target-release", self._suite, "install", _PACKAGE

    def _run(
        self, what: str, progress: Progress, *words: str, program: str = "apt-get", folder: Path | None = None
    ) -> str:
        configuration = self._folder / "apt.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                state=self._folder, cache=self._folder / "cache", sources=self._folder / "sources.list"
            )
        )
        private(self._folder / "cache")
        temporary = private(self._folder / "tmp")
        command = [program, "-c", str(configuration), *words]
        status, printed = _call(command, temporary, lambda done: progress(what, done), folder)
        if status:
            raise InstallError(_reason(self._suite, printed))
        return printed


def _call(
    command: Sequence[str], temporary: Path, progress: Callable[[float], None], folder: Path | None
) -> tuple[int, str]:
    """Run a program of apt, which ends with us; returns its exit status and all that it printed."""
    read, write = os.pipe()
    with TemporaryFile("w+") as output, os.fdopen(read) as told:
        try:
            process = Process(
                [*command[:1], "-o", f"APT::Status-Fd={write}", *command[1:]],
                [write],
                environment={
                    **os.environ,
                    "LC_ALL": "C.UTF-8",
                    "DEBIAN_FRONTEND": "noninteractive",
                    "TMPDIR": str(temporary),
                },
                folder=folder,
                output=output.fileno(),
            )
        finally:
            os.close(write)
        try:
            for line in told:
                kind, _, rest = line.partition(":")
                if kind == "dlstatus":
                    progress(float(rest.split(":")[1]) / 100)
            process.wait()
        finally:
            process.end()
        output.seek(0)
        return process.status or 0, output.read()


def _sources(suite: str) -> str:
    base = suite
    for added in _ADDED:
        base = base.removesuffix(added)
    suites = [base, suite] if base != suite else ["sid", suite] if suite == "experimental" else [suite]
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout
    options = f"[arch={architecture.strip()} signed-by={KEYRING}]"
    return "".join(f"deb {options} {_mirror()} {each} main\n" for each in suites)


def codename() -> str:
    """The Debian suite of this system; empty where it has none."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    return str(release.get("VERSION_CODENAME", ""))


def _mirror() -> str:
    """The Debian mirror that apt has. Raises InstallError when there is none."""
    wanted = _GENERIC | {codename()}
    listed = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listed.splitlines():
        uri, suite, component = line.split(" ")
        if component == "main" and suite in wanted and not uri.startswith("cdrom:"):
            # Packages of a "file:" mirror would be used where they are, and be nowhere else.
            return uri.replace("file:", "copy:", 1)
    raise InstallError("apt has no Debian mirror: no line of its sources is for this release's main")


def _reason(suite: str, printed: str) -> str:
    """The cause of apt's failure in one line."""
    lines = [line.strip() for line in printed.splitlines()]
    errors = [line[2:].strip() for line in lines if line.startswith(("E:", "W:"))] or lines[-1:]
    unreachable = next((line for line in errors if any(word in line for word in _UNREACHABLE)), None)
    if unreachable is not None:
        return f"the Debian mirror cannot be reached: {unreachable}"
    if any("does not have a Release file" in line for line in errors):
        return f"the Debian mirror has no suite {suite!r}"
    forged = next((line for line in errors if "GPG error" in line or "not signed" in line), None)
    if forged is not None:
        return f"the suite {suite} of the mirror is not signed by Debian: {forged}"
    if any("Unable to locate package" in line or "no installation candidate" in line for line in errors):
        return f"the suite {suite} has no package {_PACKAGE}"
    if any("No packages found" in line for line in errors):
        return f"the suite {suite} has no such package"
    return f"apt-get failed for {suite}: {errors[0] if errors else 'it printed nothing'}"
