import os
import signal
import time

import pytest

from iommu.errors import MisuseError
from qemu.vtd import Machine
from qemu.vtd.errors import QtestError


def test_a_pipeline_answers_in_order(machine: Machine) -> None:
    for index in range(64):
        machine.memory.write_u64(8 * index, index * 0x0101010101010101)
    with machine.qtest.pipeline() as pipeline:
        wide = [pipeline.read(8 * index, 8) for index in range(64)]
        narrow = [pipeline.read(8 * index, size) for index in range(64) for size in (1, 2, 4)]
        run = pipeline.read_bytes(8, 16)
    assert [answer.value for answer in wide] == [index * 0x0101010101010101 for index in range(64)]
    assert [answer.value for answer in narrow] == [
        index * repeated for index in range(64) for repeated in (0x01, 0x0101, 0x01010101)
    ]
    assert run.value == bytes([1] * 8 + [2] * 8)


def test_reads_see_the_earlier_writes_of_a_pipeline(machine: Machine) -> None:
    with machine.qtest.pipeline() as pipeline:
        seen = []
        for value in range(1, 100):
            pipeline.write(0x1000, value, 4)
            seen.append(pipeline.read(0x1000, 4))
    assert [answer.value for answer in seen] == list(range(1, 100))


def test_a_pipeline_larger_than_every_socket_buffer(machine: Machine) -> None:
    count = 60_000
    with machine.qtest.pipeline() as pipeline:
        answers = [pipeline.read(8 * (index % 7), 8) for index in range(count)]
    assert len(answers) == count
    assert {answer.value for answer in answers} == {0}


def test_a_large_block_of_bytes(machine: Machine) -> None:
    data = os.urandom(1 << 20)
    machine.qtest.write_bytes(0x100000, data)
    assert machine.qtest.read_bytes(0x100000, len(data)) == data


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_each_access_size(machine: Machine, size: int) -> None:
    machine.memory.write(0x2000, b"\xff" * 16)
    machine.qtest.write(0x2000, 0x0807060504030201 & (1 << 8 * size) - 1, size)
    assert machine.memory.read(0x2000, 9) == bytes(range(1, size + 1)) + b"\xff" * (9 - size)
    assert machine.qtest.read(0x2000, size) == 0x0807060504030201 & (1 << 8 * size) - 1


def test_ports(machine: Machine) -> None:
    machine.qtest.port_out(0xCF8, 0x80000000, 4)
    assert machine.qtest.port_in(0xCF8, 4) == 0x80000000
    assert machine.qtest.port_in(0xCFC, 2) == 0x8086
    assert machine.qtest.port_in(0xCFC, 1) == 0x86


def test_an_answer_is_not_available_before_the_pipeline_has_run(machine: Machine) -> None:
    with machine.qtest.pipeline() as pipeline:
        answer = pipeline.read(0, 4)
        with pytest.raises(MisuseError, match="has not been run"):
            _ = answer.value
    assert answer.value == 0


def test_a_pipeline_left_by_an_exception_does_nothing(machine: Machine) -> None:
    with pytest.raises(KeyError), machine.qtest.pipeline() as pipeline:
        pipeline.write(0x3000, 1, 4)
        raise KeyError
    assert machine.qtest.read(0x3000, 4) == 0


@pytest.mark.parametrize("line", ["nonsense 1", "write 0x1000 0x4 0x"])
def test_a_refused_command(machine: Machine, line: str) -> None:
    with pytest.raises(QtestError) as caught:
        machine.qtest.exchange(["readb 0x0", line, "readb 0x1"])
    assert caught.value.command == line
    assert caught.value.answer.startswith(("FAIL", "ERR"))
    assert machine.qtest.read(0, 1) == 0


def test_the_clock_cannot_be_stepped_under_tcg(machine: Machine) -> None:
    with pytest.raises(QtestError, match="clock_step"):
        machine.qtest.clock_step(1)


@pytest.mark.parametrize("size", [0, 3, 16])
def test_impossible_sizes(machine: Machine, size: int) -> None:
    with pytest.raises(MisuseError, match="access size"):
        machine.qtest.read(0, size)
    with pytest.raises(MisuseError, match="access size"):
        machine.qtest.port_in(0, 8)
    with pytest.raises(MisuseError, match="0 bytes"):
        machine.qtest.read_bytes(0, 0)
    with pytest.raises(MisuseError, match="0 bytes"):
        machine.qtest.write_bytes(0, b"")


def test_numbers_that_would_abort_qemu(machine: Machine) -> None:
    qtest = machine.qtest
    for refused in (
        lambda: qtest.port_in(0x10000, 1),
        lambda: qtest.port_out(-1, 0, 1),
        lambda: qtest.port_out(0x80, 0x100, 1),
        lambda: qtest.read(1 << 64, 4),
        lambda: qtest.write(0, -1, 4),
        lambda: qtest.write(0, 1 << 64, 8),
        lambda: qtest.read_bytes(-1, 4),
        lambda: qtest.write_bytes(1 << 64, b"1"),
    ):
        with pytest.raises(MisuseError):
            refused()
    assert qtest.read(0, 4) == 0


def test_an_interrupted_exchange_is_not_resumed(machine: Machine) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    with Machine(machine.build.path) as other:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            os.kill(other.pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(InterruptedError):
                other.qtest.read(0, 4)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(0.01)
        with pytest.raises(QtestError, match="cut short"):
            other.qtest.read(0, 4)
