"""The guard: a small process that starts others for vtd, and ends them and all that they have started when vtd ends.

    python -I -S guard_program.py DESCRIPTOR

It imports nothing of the project. qemu.vtd.guard starts it, once for each process of vtd, and sends it jobs over
the socket that it inherits. It forks for each job, and the fork sees to it until it is over:

    "run"       starts a program. It is what the kernel gives those processes to whose parents have ended
                (PR_SET_CHILD_SUBREAPER), so that nothing the program starts can leave it. It reads what they print.
    "resume"    lets a stranger's QEMU go on that vtd has stopped, should vtd end before it does so itself.

What ends a fork is the process that gave it the job, or the end of that process: a pidfd and a connection say so.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import gc
import marshal
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LENGTH = struct.Struct("<I")
"""In front of each message, which is marshalled."""

TAIL = 16384
"""So much of what a program printed is kept, in bytes."""
ASK, END = b"a", b"e"
"""What the process that gave a job may say: what has been printed? and: end it."""

# How long a program may take to end by itself, so that a build with coverage can write its data. It takes 10 ms.
_QUIT_SECONDS = 0.5
# How long those that are killed may take to exit. What a set-user-ID program has become cannot be killed by us.
_KILL_SECONDS = 5.0
# How long another client may hold a stranger's monitor.
_RESUME_SECONDS = 60.0
_CHUNK = 1 << 16
_MOST_DESCRIPTORS = 64
_DEFAULT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main() -> None:
    """Take jobs until nobody is left who could give one, and see them ended."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody is told of a fork that has ended
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.disable()  # it writes to memory that a fork shares with us
    while descriptors := _received(control):
        if os.fork() == 0:
            control.close()
            _job(descriptors)
        for each in descriptors:
            os.close(each)
    try:
        os.wait()
    except ChildProcessError:
        os._exit(0)


def _received(control: socket.socket) -> list[int]:
    """The descriptors that come with a job; none when there will be no more jobs."""
    numbers = array.array("i")
    space = socket.CMSG_LEN(_MOST_DESCRIPTORS * numbers.itemsize)
    data, extra, *_ = control.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    for _, _, content in extra if data else ():
        numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return list(numbers)


def _job(descriptors: Sequence[int]) -> None:
    """See to a job; this process has no other purpose."""
    connection, owner, *handed = descriptors
    client = Client(socket.socket(fileno=connection), owner)
    status = 1
    try:
        kind, order = client.heard()
        (_run if kind == "run" else _resume)(client, order, handed)
        status = 0
    except (EOFError, OSError):  # it has ended
        pass
    finally:
        os._exit(status)


class Client:
    """The process that gave a job."""

    def __init__(self, connection: socket.socket, pidfd: int) -> None:
        self.connection, self.pidfd = connection, pidfd

    def heard(self) -> Any:
        """Its order."""
        return message(self.connection)

    def tell(self, *content: object) -> None:
        """Send it a message; it may have ended."""
        with suppress(OSError):
            send(self.connection, content)

    def said(self) -> bytes:
        """A byte that it sent; b"" when it has ended, or has closed the connection."""
        try:
            return self.connection.recv(1)
        except OSError:
            return b""


def send(connection: socket.socket, content: Any) -> None:
    """Send a message."""
    data = marshal.dumps(content, 4)
    connection.sendall(LENGTH.pack(len(data)) + data)


def message(connection: socket.socket) -> Any:
    """Receive a message. Raises EOFError at the end of the connection."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return marshal.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


# Running a program.


def _run(client: Client, order: dict[str, Any], handed: Sequence[int]) -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    waking, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reading, printing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    if order["output"]:
        os.close(printing)
        printing, *handed = handed
    pid, error = _started(order, [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), printing, printing, *handed])
    for each in (printing, *handed):
        os.close(each)
    if error:
        client.tell("failed", error)
        return
    client.tell("started", pid)
    running = _Running(pid, _Output(reading))
    told_to_end = running.watch(client, waking)
    running.kill_all()
    if not told_to_end and order["remove"] is not None:
        _remove(order["remove"])
    client.tell("ended", running.status, running.output.tail(all_of_it=True))


def _started(order: dict[str, Any], descriptors: Sequence[int]) -> tuple[int, int]:
    """Start the program; its process id, and the error if it cannot be started."""
    parent, (failing, failed) = os.getpid(), os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            failed = fcntl.fcntl(failed, fcntl.F_DUPFD_CLOEXEC, max([2, *order["numbers"]]) + 1)
            _become(order, descriptors, parent)
        except OSError as error:
            os.write(failed, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(failed)
    said = os.read(failing, 16)
    os.close(failing)
    if said:
        os.waitpid(pid, 0)
    return pid, int(said or b"0")


def _become(order: dict[str, Any], descriptors: Sequence[int], parent: int) -> None:
    """Be the program, in a session of its own: it gets no Ctrl-C, and the kernel ends it with the guard."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    numbers = [0, 1, 2, *order["numbers"]]
    free = max(numbers) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, free) for each in descriptors]
    for each, number in zip(moved, numbers, strict=True):
        os.dup2(each, number)
    if order["folder"] is not None:
        os.chdir(order["folder"])
    os.execvpe(order["words"][0], order["words"], order["environment"])


class _Output:
    """The end of what a program and its children print."""

    def __init__(self, reading: int) -> None:
        self.reading = reading
        self._tail = b""

    def read(self) -> bool:
        """Take what is there, a piece of it; whether there was something."""
        try:
            data = os.read(self.reading, _CHUNK)
        except BlockingIOError:
            return False
        self._tail = (self._tail + data)[-TAIL:]
        return bool(data)

    def tail(self, *, all_of_it: bool) -> bytes:
        """What was printed last. A program that goes on printing is not waited for unless all of it is wanted."""
        count = 0
        while self.read() and (all_of_it or count < 64):
            count += 1
        return self._tail


class _Running:
    """A program that runs; with it, whatever it has started.

    Attributes:
        status: its exit status, -N when signal N ended it; None before.
    """

    def __init__(self, pid: int, output: _Output) -> None:
        self._pid, self.output = pid, output
        self.status: int | None = None

    def watch(self, client: Client, waking: int) -> bool:
        """Wait until the program has ended, or is to be killed; whether it had been told to end."""
        poll, deadline = select.poll(), None
        for each in (client.connection.fileno(), client.pidfd, waking, self.output.reading):
            poll.register(each, select.POLLIN)
        while not self._reap():
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(left))
            if not ready or client.pidfd in ready:
                break
            if waking in ready:
                os.read(waking, _CHUNK)
            if self.output.reading in ready and not self.output.read():
                poll.unregister(self.output.reading)
            if client.connection.fileno() in ready:
                said = client.said()
                if said == ASK:
                    client.tell("printed", self.output.tail(all_of_it=False))
                elif said == END:
                    deadline = time.monotonic() + _QUIT_SECONDS
                    self._signal(signal.SIGTERM)
                else:
                    return False
        return deadline is not None

    def _reap(self) -> bool:
        """Collect those that have ended; whether the program is among them, now or before."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._pid:
                    self.status = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            pass
        return self.status is not None

    def _signal(self, number: int) -> None:
        if self.status is None:  # its number is still that of its group
            with suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def kill_all(self) -> None:
        """Kill the program and everything that it has started, wherever that is now."""
        deadline = time.monotonic() + _KILL_SECONDS
        self._signal(signal.SIGKILL)
        while time.monotonic() < deadline:
            self._reap()
            try:
                if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    continue
            except ChildProcessError:
                return
            for each in _descendants(os.getpid()):
                with suppress(OSError):  # it has ended, or is another user's
                    os.kill(each, signal.SIGKILL)
            time.sleep(0.001)


def _descendants(top: int) -> list[int]:
    """The children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - no pathlib here
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(top, ()))
    for each in found:
        found += children.get(each, ())
    return found


def _remove(folder: bytes) -> None:
    """Remove a directory of sockets that nobody uses any more."""
    with suppress(OSError):  # it is gone, or the next run removes it
        for name in os.listdir(folder):  # noqa: PTH208
            os.unlink(os.path.join(folder, name))  # noqa: PTH108, PTH118
        os.rmdir(folder)  # noqa: PTH106


# Letting a guest go on.


def _resume(client: Client, order: dict[str, Any], handed: Sequence[int]) -> None:
    client.tell("started", os.getpid())
    poll = select.poll()
    for each in (client.connection.fileno(), client.pidfd):
        poll.register(each, select.POLLIN)
    poll.poll()
    if client.said() == END:
        return
    if order["folder"] is not None:
        os.chdir(order["folder"])
    deadline = time.monotonic() + _RESUME_SECONDS
    with socket.socket(socket.AF_UNIX) as monitor:
        # QEMU has one client at a time: it greets us once it has noticed that the one that ended is gone.
        monitor.settimeout(_RESUME_SECONDS)
        monitor.connect(order["socket"])
        monitor.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "cont"}\n')
        heard, answers = b"", 0
        while answers < 2 and len(heard) < _CHUNK and time.monotonic() < deadline:
            data = monitor.recv(_CHUNK)
            if not data:
                return
            *lines, heard = (heard + data).split(b"\n")
            answers += sum(b'"return"' in line or b'"error"' in line for line in lines)


if __name__ == "__main__":
    main()
