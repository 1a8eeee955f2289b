import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iommu.errors import MisuseError, VtdError
from qemu.vtd import Machine, firmware
from qemu.vtd.devices import Rocker
from qemu.vtd.errors import QemuDied, QemuError, QemuTimeout, QemuUnsuitable, QmpError
from qemu.vtd.probe import Build
from tests.qemu_vtd.remains import is_gone, nothing_remains

RTADDR = 0xFED90020


def test_memory_is_shared_in_both_directions(machine: Machine) -> None:
    machine.memory.write(0x1000, b"from here")
    assert machine.qtest.read_bytes(0x1000, 9) == b"from here"
    machine.qtest.write_bytes(0x2000, b"from there")
    assert machine.memory.read(0x2000, 10) == b"from there"
    last = machine.memory.size - 8
    machine.qtest.write(last, 0x1122334455667788, 8)
    assert machine.memory.read_u64(last) == 0x1122334455667788


def test_reset_keeps_memory_and_clears_registers(machine: Machine) -> None:
    machine.memory.write(0x100000, b"still there")
    machine.qtest.write(RTADDR, 0x5000, 8)
    assert machine.qtest.read(RTADDR, 8) == 0x5000
    machine.reset()
    assert machine.qtest.read(RTADDR, 8) == 0
    assert machine.memory.read(0x100000, 11) == b"still there"


def test_many_resets(machine: Machine) -> None:
    for _ in range(50):
        machine.qtest.write(RTADDR, 0x5000, 8)
        machine.reset()
        assert machine.qtest.read(RTADDR, 8) == 0


def test_qmp_and_hmp(machine: Machine) -> None:
    assert machine.qmp("query-status")["running"] is True
    assert machine.qmp("qom-get", path="/machine", property="type") == "pc-q35-{}.{}-machine".format(*machine.version)
    assert machine.hmp("info version").startswith(".".join(map(str, machine.version)))


def test_qmp_arguments_with_underscores_are_passed_exactly(machine: Machine) -> None:
    machine.qmp("object-add", {"qom-type": "rng-random", "id": "with_underscore"})
    machine.qmp("object-del", id="with_underscore")
    with pytest.raises(QmpError, match="no_such_name"):
        machine.qmp("query-status", {"no_such_name": 1})


def test_a_refused_qmp_command(machine: Machine) -> None:
    with pytest.raises(QmpError) as caught:
        machine.qmp("no-such-command")
    assert (caught.value.command, caught.value.error_class) == ("no-such-command", "CommandNotFound")
    assert machine.qmp("query-status")["running"] is True


def test_properties_of_the_unit(build: Build) -> None:
    with Machine(build.path, iommu={"aw-bits": 48, "intremap": False, "caching-mode": True}) as machine:
        capabilities = machine.qtest.read(machine.register_base + 0x08, 8)
        extended = machine.qtest.read(machine.register_base + 0x10, 8)
    assert capabilities >> 7 & 1 == 1
    assert capabilities >> 16 & 0x3F == 47
    assert extended >> 3 & 1 == 0


def test_without_a_unit_there_are_no_registers(build: Build) -> None:
    with Machine(build.path) as machine:
        assert machine.qtest.read(0xFED90008, 8) != 0x10
        assert machine.qtest.read(0xFED90000, 4) != 0x10


@pytest.mark.parametrize("size", [0, 4096, (1 << 20) + 1, 4 << 30])
def test_impossible_memory(size: int) -> None:
    with pytest.raises(MisuseError, match="memory"):
        Machine(memory=size)


@pytest.mark.parametrize(("size", "last"), [(1 << 20, 0x9FFFC), (2 << 30, (2 << 30) - 4)])
def test_the_smallest_and_the_largest_memory(build: Build, size: int, last: int) -> None:
    with Machine(build.path, memory=size, iommu={}, devices=[Rocker(4)]) as machine:
        machine.qtest.write(last, 0x12345678, 4)
        assert machine.memory.read_u32(last) == 0x12345678
        assert machine.register_base == 0xFED90000


def test_a_property_the_unit_does_not_have(build: Build) -> None:
    with pytest.raises(QemuUnsuitable, match=r"no property 'no-such-thing'; it has aw-bits, caching-mode"):
        Machine(build.path, iommu={"no-such-thing": 1})


def test_a_value_qemu_refuses(build: Build) -> None:
    with (
        nothing_remains(),
        pytest.raises(QemuDied, match="aw-bits") as caught,
        Machine(build.path, iommu={"aw-bits": 47}),
    ):
        pass
    assert caught.value.status == 1


def test_a_custom_bios(build: Build) -> None:
    # mov al, 0x5a; out 0x80, al; mov [0x600], al; hlt
    code = firmware.image(b"\xb0\x5a\xa2\x00\x06\xf4\xeb\xfd")
    with Machine(build.path, bios=code, skip_idle_time=False) as machine:
        deadline = time.monotonic() + 5
        while machine.memory.read(0x600, 1) != b"\x5a":
            assert time.monotonic() < deadline


def test_nothing_remains_of_a_machine(build: Build) -> None:
    with nothing_remains():
        with Machine(build.path, iommu={}) as machine:
            pid = machine.pid
            machine.reset()
        assert is_gone(pid, 0)
        with pytest.raises(QemuError, match="not running"):
            _ = machine.memory
        machine.close()


def test_a_machine_can_be_entered_again_but_not_twice(build: Build) -> None:
    machine = Machine(build.path)
    for _ in range(2):
        with machine:
            with pytest.raises(MisuseError, match="running already"), machine:
                pass
            assert machine.qmp("query-status")["running"] is True


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_after_an_exception(build: Build, error: type[BaseException]) -> None:
    with nothing_remains():
        with pytest.raises(error), Machine(build.path) as machine:
            pid = machine.pid
            raise error
        assert is_gone(pid, 0)
        gc.collect()


CONVERSATIONS: dict[str, Callable[[Machine], object]] = {
    "qtest": lambda machine: machine.qtest.read(0, 4),
    "qmp": lambda machine: machine.qmp("query-status"),
    "reset": lambda machine: machine.reset(),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_killed_qemu_is_reported(build: Build, conversation: Callable[[Machine], object]) -> None:
    with nothing_remains(), Machine(build.path) as machine:
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(QemuDied, match="SIGKILL") as caught:
            conversation(machine)
        assert caught.value.status == -signal.SIGKILL
        assert is_gone(machine.pid, 0)
        with pytest.raises(QemuDied):
            machine.reset()


def test_the_last_output_of_qemu_is_reported(build: Build) -> None:
    with Machine(build.path) as machine:
        with pytest.raises(QemuDied, match=r"SIGABRT: .*assertion failed") as caught:
            machine.qtest.exchange(["outb 0x10000 0x0"])
        assert "assertion failed" in caught.value.stderr[-1]
        assert isinstance(caught.value, VtdError)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_hung_qemu_is_reported_and_killed(build: Build, conversation: Callable[[Machine], object]) -> None:
    with nothing_remains(), Machine(build.path, timeout=2) as machine:
        os.kill(machine.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(QemuTimeout, match=r"within 2 s") as caught:
            conversation(machine)
        assert 1.9 < time.monotonic() - begin < 4
        assert caught.value.seconds == 2
        assert is_gone(machine.pid, 0)


def test_a_hung_qemu_does_not_delay_closing(build: Build) -> None:
    with nothing_remains():
        with Machine(build.path) as machine:
            os.kill(machine.pid, signal.SIGSTOP)
            begin = time.monotonic()
        assert time.monotonic() - begin < 1


def test_an_idle_machine_takes_no_processor_time(machine: Machine) -> None:
    """Idle virtual time is skipped: with a periodic timer in the machine, QEMU would never sleep."""

    def ticks() -> int:
        words = Path(f"/proc/{machine.pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    time.sleep(0.05)
    before = ticks()
    time.sleep(0.3)
    assert ticks() - before <= 0.05 * os.sysconf("SC_CLK_TCK")


def test_two_machines_at_once(build: Build) -> None:
    with Machine(build.path) as one, Machine(build.path) as other:
        one.memory.write(0x1000, b"one")
        assert other.qtest.read_bytes(0x1000, 3) == bytes(3)
        assert one.pid != other.pid
