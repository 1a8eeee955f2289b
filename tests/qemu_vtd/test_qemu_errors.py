"""What an error says: signals by name, and of a program's output only what can be the cause."""

import signal

import pytest

from qemu.vtd.errors import QemuDied, QemuTimeout

ROM = "rom: file kvmvapic.bin   : error: No such file"


@pytest.mark.parametrize(
    ("status", "lines", "said"),
    [
        (-signal.SIGSEGV, [ROM], "QEMU ended by SIGSEGV"),
        (-signal.SIGSEGV, [ROM, "==7==ERROR: AddressSanitizer: SEGV", "more"], "==7==ERROR: AddressSanitizer: SEGV"),
        (-signal.SIGABRT, ["Assertion `x' failed.", ROM], "QEMU ended by SIGABRT: Assertion `x' failed."),
        (-signal.SIGABRT, ["free(): invalid pointer"], "QEMU ended by SIGABRT: free(): invalid pointer"),
        (-250, [], "QEMU ended by signal 250"),
        (1, ["first", "last"], "QEMU ended, status 1: last"),
        (0, [], "QEMU ended, status 0"),
        (None, [], "QEMU broke off a connection"),
    ],
)
def test_how_a_process_ended(status: int | None, lines: list[str], said: str) -> None:
    error = QemuDied(status, lines)
    assert str(error).endswith(said)
    assert error.stderr == lines


def test_how_it_ended_is_the_same_in_every_build() -> None:
    assert QemuDied(-signal.SIGABRT, ["../x.c:12: Assertion failed"]).how == "QEMU ended by SIGABRT"
    assert QemuTimeout("qtest: 1 of 2 answers missing", 10.0).how == "QEMU did not answer"
