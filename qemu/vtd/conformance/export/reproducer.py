"""The code of every exported reproducer: starts a QEMU, sends it a script of qtest commands, compares what it reads.

It uses nothing but Python's own library, for it is copied into the file that is exported.
"""

import ctypes
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 10
# Firmware that stops the processor: cli; hlt; a jump back to hlt.
HALT = b"\xfa\xf4\xeb\xfd"


class Broken(Exception):
    """The script could not be run to its end."""


class Ended(Broken):
    """QEMU ended in the middle of the script."""


def run(program: str, arguments: list[str], script: str) -> int:
    """Run the script. Returns the exit status: 1 if an observation is not as expected, 2 if QEMU cannot be run."""
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        print(version.stdout.partition("\n")[0])
        with tempfile.TemporaryDirectory() as folder:
            qemu = Qemu(program, arguments, Path(folder))
            try:
                same = [each for line in script.splitlines() for each in qemu.perform(line.strip())]
            finally:
                qemu.end()
    except Ended as error:
        print(f"DIFFERS  QEMU has ended: {error}")
        return 1
    except (Broken, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{same.count(False)} of {len(same)} observations are not as the specification has them.")
    return int(not all(same))


class Qemu:
    """A QEMU whose processor halts at once, driven by qtest commands."""

    def __init__(self, program: str, arguments: list[str], folder: Path) -> None:
        self.log, self.errors, self.looked = folder / "log", folder / "errors", dict[str, int]()
        bios = folder / "halt.bin"
        bios.write_bytes(bytes(0xFFF0) + HALT.ljust(16, b"\0"))
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        words = [program, *arguments, "-bios", str(bios), "-D", str(self.log)]
        words += ["-chardev", f"socket,id=qtest,fd={theirs.fileno()}"]
        words += ["-object", "qtest,id=qtest0,chardev=qtest,log=none"]
        with theirs, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                # However this program ends, QEMU ends with it: prctl(PR_SET_PDEATHSIG, SIGKILL).
                preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),  # noqa: PLW1509
            )
        self.commands, self.answers, self.answered = ours, ours.makefile("r"), 0

    def perform(self, line: str) -> list[bool]:
        """Perform a line of the script. For an observation, returns whether it is as expected."""
        command, _, observed = line.partition(" ? ")
        if observed and not line.startswith("#"):
            return [self.observe(command, *observed.split(" ", 1))]
        command, _, awaited = line.partition(" == ")
        deadline = time.monotonic() + SECONDS
        while command and not command.startswith("#") and self.ask(command) != awaited:
            if time.monotonic() > deadline:
                raise Broken(f"{command} did not become {awaited}")
        return []

    def observe(self, command: str, expected: str, what: str) -> bool:
        """Compare what is read, or traced, with what is expected: a value, or a value and the bits that count."""
        wanted, _, mask = expected.partition("/")
        seen = self.traced(command.split()[1]) if command.startswith("trace ") else self.ask(command)
        same = seen == wanted
        if mask:
            same = (int(seen, 16) ^ int(wanted, 16)) & int(mask, 16) == 0
        print(f"{'same   ' if same else 'DIFFERS'}  {what}: expected {wanted}, seen {seen}")
        return same

    def traced(self, event: str) -> str:
        """The messages that QEMU has traced under this event since the last look: ADDRESS,DATA, or "none"."""
        text = self.log.read_text() if self.log.exists() else ""
        lines = text[self.looked.get(event, 0) :].splitlines()
        self.looked[event] = len(text)
        found = [re.findall("0x[0-9a-f]+", line)[-2:] for line in lines if f"{event} " in line]
        return ";".join(map(",".join, found)) or "none"

    def ask(self, command: str) -> str:
        """Send a qtest command. Returns the value in the answer, without leading zeros; empty if there is none."""
        try:
            self.commands.sendall(f"{command}\n".encode())
            words = self.answers.readline().split()
        except OSError as error:
            words = [str(error)]
        if words[:1] != ["OK"]:
            what = f"{command}: {' '.join(words) or 'no answer'}\n{self.errors.read_text()}"
            raise Ended(what) if self.answered and self.has_ended() else Broken(what)
        self.answered += 1
        value = words[1] if len(words) > 1 else ""
        return value if command.startswith("read ") or not value else f"{int(value, 16):#x}"

    def has_ended(self) -> bool:
        """Whether QEMU is ending on its own."""
        try:
            return self.process.wait(1) is not None
        except subprocess.TimeoutExpired:
            return False

    def end(self) -> None:
        """End QEMU."""
        self.answers.close()
        self.commands.close()
        self.process.kill()
        self.process.wait()
