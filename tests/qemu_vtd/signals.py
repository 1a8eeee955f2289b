"""Signals at random moments to every command that runs for more than a second: nothing may be left.

    python -m tests.qemu_vtd.signals [COUNT] [SEED]

Each trial runs a command under a terminal of its own, and sends SIGINT, SIGTERM, SIGHUP or SIGKILL at a random
moment, to the command alone or to its group. Afterwards there must be no process of it, no file, no hidden cursor, no
traceback, and no guest of a stranger that stands still.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from iommu.errors import VtdError
from iommu.snapshot import Snapshot
from qemu.vtd.live.monitor import monitor
from qemu.vtd.probe import find_qemu
from tests.dmar.hand import drhd, table
from tests.qemu_vtd.live.strangers import IOMMU, Stranger, stranger
from tests.qemu_vtd.mirror import Key, Mirror
from tests.qemu_vtd.remains import MARK, all_end, marked

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
# A command may have to wait for its QEMU and its workers, on a machine that does other things too.
_END_SECONDS = 30.0
_INSTALL = """
import sys
from pathlib import Path
from qemu.vtd import apt
from iommu.cli.main import main
apt.KEYRING = Path(sys.argv.pop(1))
main()
"""


@dataclass
class Subject:
    """A command to be interrupted.

    Attributes:
        words: the whole command line.
        seconds: the moments are within so many seconds of its start.
        environment: what it needs besides the usual.
        again: called after a SIGKILL: checks that the next run removes what such a one leaves.
    """

    name: str
    words: list[str]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    again: Callable[[], None] | None = None


def vtd(name: str, seconds: float, *words: str | Path) -> Subject:
    """A command of vtd."""
    return Subject(name, [sys.executable, "-m", "iommu.cli.main", *map(str, words)], seconds)


def tables(folder: Path) -> Path:
    """Tables to survey, enough for seconds."""
    folder.mkdir()
    (folder.parent / "table").write_bytes(table(*[drhd(0x1000 * number, flags=0) for number in range(1, 100)]))
    for number in range(4000):
        (folder / str(number)).symlink_to(folder.parent / "table")
    return folder


def busy(guest: Stranger) -> None:
    """Give a guest memory that takes a second to read, with tables."""
    guest.translate_for_device()
    for address in range(0x100_0000, 0x1800_0000, 0x100_0000):
        guest.tell(f"memset {address:#x} {0x100_0000:#x} {address >> 24 & 0xFF:#x}")


@contextmanager
def installing(folder: Path) -> Iterator[Subject]:
    """`vtd qemu install` from a mirror on this machine, into a cache of its own."""
    folder.mkdir()
    key, cache = Key(folder / "key"), folder / "cache"
    try:
        mirror = Mirror(folder / "mirror")
        mirror.publish("9.0.1-2", key)
        (folder / "sources.list").write_text(f"deb file:{mirror.folder} stable main\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        )
        words = [sys.executable, "-c", _INSTALL, str(key.public), "qemu", "install", "stable"]
        own = {"APT_CONFIG": str(folder / "apt.conf"), "XDG_CACHE_HOME": str(cache)}

        def again() -> None:
            # A killed one leaves what it had begun, for the next to remove.
            subprocess.run(words, env=os.environ | own, cwd=ROOT, check=True, capture_output=True)
            names = {path.name for path in (cache / "vtdlab" / "qemu").iterdir()}
            assert names == {".apt", ".lock", "stable-9.0.1-2"}, names
            shutil.rmtree(cache)

        yield Subject("qemu install", words, 2.5, own, again)
    finally:
        key.close()


class Trial:
    """One command, one signal."""

    def __init__(self, subject: Subject, folder: Path, number: signal.Signals, after: float, group: bool) -> None:
        self.subject, self.number, self.after, self.group = subject, number, after, group
        self.folder = folder
        self.output = b""
        self.status: int | None = None

    def __str__(self) -> str:
        to = "group" if self.group else "process"
        return f"{self.subject.name}: {self.number.name} to the {to} after {self.after:.3f} s, status {self.status}"

    def run(self) -> list[str]:
        """What is left, or wrong."""
        mark, own = uuid.uuid4().hex, {name: self.folder / name for name in ("tmp", "run", "work")}
        for path in own.values():
            path.mkdir(mode=0o700)
        environment = os.environ | {MARK: mark, "TMPDIR": str(own["tmp"]), "XDG_RUNTIME_DIR": str(own["run"])}
        environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"} | self.subject.environment
        ours, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        try:
            process = subprocess.Popen(
                self.subject.words,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                cwd=own["work"],
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread runs here
            )
            found = self._interrupt(process, ours)
            found += self._look(mark, own, termios.tcgetattr(theirs) == before)
        finally:
            os.close(ours)
            os.close(theirs)
        if self.number == signal.SIGKILL and self.subject.again is not None and self.status == -self.number:
            self.subject.again()
        return [f"{self}: {each}" for each in found]

    def _interrupt(self, process: subprocess.Popen[bytes], terminal: int) -> list[str]:
        self._read(terminal, self.after, process)
        with suppress(ProcessLookupError):
            (os.killpg if self.group else os.kill)(process.pid, self.number)
        self._read(terminal, _END_SECONDS, process)
        self.status = process.poll()
        if self.status is None:
            process.kill()
            process.wait()
            return [f"it has not ended within {_END_SECONDS:g} s"]
        return []

    def _read(self, terminal: int, seconds: float, process: subprocess.Popen[bytes]) -> None:
        """Take what is drawn, for so long or until the command has ended and all is read."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            ready, _, _ = select.select([terminal], [], [], min(0.02, max(0.0, deadline - time.monotonic())))
            if ready:
                self.output += os.read(terminal, 65536)
            elif ended:
                return

    def _look(self, mark: str, own: dict[str, Path], terminal_as_before: bool) -> list[str]:
        found = []
        names = {pid: Path(f"/proc/{pid}/cmdline") for pid in marked(mark)}
        if not all_end(mark, 10):
            found.append(f"processes are left, of {names}")
        left = [path for folder in own.values() for path in folder.rglob("*") if not path.is_dir()]
        left += [path for path in (own["run"] / "vtdlab" / "vm").glob("*") if path.name != ".lock"]
        left = [path for path in left if path.name != ".lock" and not _is_result(path)]
        if left:
            found.append(f"files are left: {left}")
        if self.output.rfind(b"\x1b[?25l") > self.output.rfind(b"\x1b[?25h"):
            found.append("the cursor is hidden")
        if not terminal_as_before and self.number != signal.SIGKILL:
            found.append("the terminal is set otherwise than before")
        # Ctrl-C before the first line of ours is Python's to answer, with a traceback and the status 1.
        early = b"Traceback" in self.output and b", in main\r\n" not in self.output
        if b"Traceback" in self.output and not early:
            found.append(f"a traceback: {self.output[-3000:].decode(errors='replace')}")
        if self.status not in {128 + self.number, -self.number, 0} and not early and not found:
            found.append(f"the status is wrong: {self.output[-300:].decode(errors='replace')}")
        return found


def _is_result(path: Path) -> bool:
    """Whether it is a whole snapshot, which `vtd snapshot out` was to write: a signal may come when that is done."""
    try:
        return path.name == "out" and bool(Snapshot.open(path).units)
    except VtdError:
        return False


@contextmanager
def subjects(folder: Path, guests: bool = True) -> Iterator[list[tuple[Subject, Stranger | None]]]:
    """Every command that runs for more than a second, with the stranger's QEMU that it reads."""
    qemu = find_qemu()
    with ExitStack() as stack:
        other = stack.enter_context(stranger(qemu, folder, *IOMMU, memory="512M"))
        small = stack.enter_context(stranger(qemu, folder, *IOMMU, memory="5G", socket="small"))
        busy(other)
        small.translate_for_device()
        found: list[tuple[Subject, Stranger | None]] = [
            (vtd("conform", 8.0, "conform"), None),
            (vtd("dmar survey", 3.0, "dmar", "survey", tables(folder / "tables")), None),
            (vtd("vm", 2.5, "vm"), None),
            (vtd("snapshot", 3.0, "snapshot", "out", "--qmp", other.socket), other),
            (vtd("inspect", 1.5, "inspect", "--all", "--qmp", small.socket), small),
            (vtd("walk", 1.5, "walk", "--qmp", small.socket, "--request", "00:03.0 write 0x5010"), small),
            (stack.enter_context(installing(folder / "install")), None),
        ]
        if guests:
            found += [
                (vtd("guest run", 14.0, "guest", "run"), None),
                (vtd("guest shell", 8.0, "guest", "shell"), None),
            ]
        yield found


def goes_on(guest: Stranger) -> bool:
    """Whether a stranger's guest runs, or soon will."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with monitor(guest.socket, 20.0) as qemu:
            if qemu._qmp.execute("query-status")["running"]:
                return True
        time.sleep(0.05)
    return False


def attack(count: int, seed: int, guests: bool = True, say: Callable[[str], object] = lambda _: None) -> list[str]:
    """What `count` trials find."""
    chosen, found = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="vtd") as top, subjects(Path(top), guests) as all_of_them:
        for number in range(count):
            subject, guest = all_of_them[number % len(all_of_them)]
            folder = Path(top) / f"trial-{number}"
            folder.mkdir()
            after = chosen.uniform(0, subject.seconds)
            trial = Trial(subject, folder, chosen.choice(SIGNALS), after, chosen.random() < 0.5)
            wrong = trial.run()
            if guest is not None and not goes_on(guest):
                wrong.append(f"{trial}: the guest stands still")
            say(f"{number} {trial}")
            for each in wrong:
                say(f"  FOUND {each}")
            found += wrong
            shutil.rmtree(folder, ignore_errors=True)
    return found


def main() -> None:
    """The program."""
    words = [int(word) for word in sys.argv[1:]]
    count = words[0] if words else 200
    seed = words[1] if len(words) > 1 else random.randrange(1 << 32)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    found = attack(count, seed, say=say)
    ended = Counter(re.sub(r".*: (\w+) to .*status (\S+)$", r"\1 \2", line) for line in lines if line[0].isdigit())
    print(f"{count} signals, seed {seed}: {len(found)} findings")
    print("signal and exit status:", ", ".join(f"{name}: {number}" for name, number in sorted(ended.items())))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
