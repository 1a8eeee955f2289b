"""Sockets behind which there is no QEMU, or one that lies: an error in one line, in bounded time and memory."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from qemu.vtd.errors import QemuError, QemuUnsuitable
from qemu.vtd.live.capture import captured
from qemu.vtd.live.monitor import monitor
from tests import command
from tests.qemu_vtd.remains import nothing_remains

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
TRUE = {
    "query-version": {"qemu": {"major": 9, "minor": 0, "micro": 0}},
    "query-status": {"running": False, "status": "paused"},
}


class Liar:
    """A server at a UNIX socket, for one client.

    Args:
        greeting: what it says first.
        answers: JSON texts of what commands return; any other command returns {}.
        endless: what it says after the greeting, again and again.
    """

    def __init__(self, place: Path, greeting: bytes, answers: dict[str, str], endless: bytes = b"") -> None:
        self._greeting, self._answers, self._endless = greeting, answers, endless
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(place))
        self._listening.listen()

    def serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.sendall(self._greeting)
            while self._endless:
                connection.sendall(self._endless)
            while heard := connection.recv(65536):
                asked = json.loads(heard)
                answer = self._answers.get(asked["execute"], "{}")
                name = f', "id": {json.dumps(asked["id"])}' if "id" in asked else ""
                connection.sendall(f'{{"return": {answer}{name}}}\n'.encode())

    def close(self) -> None:
        self._listening.close()


@contextmanager
def lying(
    folder: Path, answers: dict[str, str] | None = None, greeting: bytes = GREETING, endless: bytes = b""
) -> Iterator[Path]:
    place = folder / "qmp"
    known = {name: json.dumps(answer) for name, answer in TRUE.items()}
    liar = Liar(place, greeting, known | (answers or {}), endless)
    thread = threading.Thread(target=liar.serve)
    thread.start()
    try:
        yield place
    finally:
        liar.close()
        thread.join()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *[("query-version", answer) for answer in ("{}", "[]", "5", "null", '{"qemu": {"major": "9"}}')],
        *[("query-status", answer) for answer in ("{}", "[]", "5", '{"running": "yes"}', '{"running": null}')],
        *[("human-monitor-command", answer) for answer in ("{}", "5", "null", '["x"]')],
    ],
)
def test_an_answer_that_no_qemu_gives(tmp_path: Path, name: str, answer: str) -> None:
    with nothing_remains(), lying(tmp_path, {name: answer}) as place:
        with pytest.raises(QemuUnsuitable) as caught, captured(place):
            pass
        assert str(caught.value) == f"{place}: no QEMU answers QMP {name} with {answer}"


def test_a_long_answer_is_cut(tmp_path: Path) -> None:
    with lying(tmp_path, {"query-version": json.dumps(["\x1b[31m"] * 100000)}) as place:
        with pytest.raises(QemuUnsuitable) as caught, captured(place):
            pass
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"5\n",
        b"[]\n",
        b"{}\n",
        b'{"QMP": 5}\n',
        b'{"QMP": {"version": 5}}\n',
        b'{"QMP": {"version": {}, "capabilities": 5}}\n',
        b"[" * 100000 + b"\n",
        b"\xff\xfe\n",
        b"x" * (11 << 20) + b"\n",
    ],
    ids=lambda greeting: repr(greeting[:30]),
)
def test_a_greeting_of_another_form(tmp_path: Path, greeting: bytes) -> None:
    with nothing_remains(), lying(tmp_path, greeting=greeting) as place:
        said = "(does not speak QMP|no QMP greeting within|broke off)"
        with pytest.raises(QemuError, match=said) as caught, monitor(place, 0.5):
            pass
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "endless",
    [
        b"x" * 65536,
        b'{"event": "RESET", "timestamp": {"seconds": 1, "microseconds": 1}}\n' * 1000,
        b'{"return": {}, "id": "nobody asked"}\n' * 1000,
        b"[" * 5000 + b"]" * 5000 + b"\n",
    ],
    ids=["no end of line", "events", "answers", "deep"],
)
def test_one_that_never_stops(tmp_path: Path, endless: bytes) -> None:
    """Each wait is bounded, and so is what is kept."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with nothing_remains(), lying(tmp_path, endless=endless) as place, pytest.raises(QemuError), captured(place):
        pass
    assert time.monotonic() - begin < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    with lying(tmp_path, {"query-version": "[5]"}) as place:
        done = command.vtd("snapshot", tmp_path / "out", "--qmp", place)
    said = f"vtd: {place}: no QEMU answers QMP query-version with [5]\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)
    assert not (tmp_path / "out").exists()
