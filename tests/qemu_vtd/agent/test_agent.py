"""The guest-side agent: its program is what its source says, and it does what scripts say."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommu.registers import GCMD, GSTS, VER
from qemu.vtd import Machine
from qemu.vtd.agent import OPERATION, Agent, Op, firmware_with, image, script
from qemu.vtd.errors import DeviceError, QemuDied
from qemu.vtd.launch import MIB
from qemu.vtd.probe import Build
from tools.agent import ELF, build

MAILBOX, SCRIPT, DATA = 0x300000, 0x301000, 0x380000


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="binutils is not installed")
def test_the_committed_program_is_what_its_source_gives(tmp_path: Path) -> None:
    made = tmp_path / "agent.elf"
    build(made)
    assert made.read_bytes() == ELF.read_bytes()


def test_a_file_that_is_not_the_program_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"\x7fELF", ELF.read_bytes()[:200]):
        monkeypatch.setattr(image, "ELF", tmp_path / "agent.elf")
        (tmp_path / "agent.elf").write_bytes(data)
        image._contents.cache_clear()
        with pytest.raises(DeviceError, match=r"^agent\.elf is not the agent's program: "):
            image.number("OP_END")
    monkeypatch.undo()
    image._contents.cache_clear()
    with pytest.raises(DeviceError, match="no symbol nowhere"):
        image.number("nowhere")


@pytest.fixture
def machine(build: Build) -> Iterator[Machine]:
    bios, extra = firmware_with(MAILBOX), ["-no-reboot"]
    with Machine(memory=8 * MIB, iommu={}, skip_idle_time=False, bios=bios, extra=extra) as machine:
        yield machine


@pytest.fixture
def agent(machine: Machine) -> Iterator[Agent]:
    agent = Agent(machine, MAILBOX, SCRIPT, 64)
    yield agent
    agent.release()


def run(agent: Agent, *operations: tuple[Op, int, int]) -> list[int]:
    """The values of the operations after they were carried out."""
    whole = script([*operations, (Op.END, 0, 0)])
    agent.operations[: len(whole)] = whole
    agent.run("a test")
    return [int(value) for value in agent.operations["value"][: len(operations)]]


def test_memory_is_written_and_read_in_both_sizes(machine: Machine, agent: Agent) -> None:
    machine.memory.write_u64(DATA, 0x1111111111111111)
    machine.memory.write_u64(DATA + 8, 0x2222222222222222)
    values = run(
        agent,
        (Op.READ_64, DATA, 0),
        (Op.READ_32, DATA + 8, ~0 & 0xFFFFFFFFFFFFFFFF),
        (Op.WRITE_32, DATA, 0xABCDEF0123456789),
        (Op.WRITE_64, DATA + 8, 0xABCDEF0123456789),
    )
    assert values[:2] == [0x1111111111111111, 0x22222222]
    assert machine.memory.read_u64(DATA) == 0x1111111123456789
    assert machine.memory.read_u64(DATA + 8) == 0xABCDEF0123456789


def test_registers_are_reached(machine: Machine, agent: Agent) -> None:
    base = machine.register_base
    values = run(
        agent,
        (Op.READ_32, base + VER.offset, 0),
        (Op.WRITE_32, base + GCMD.offset, GCMD.make(SRTP=1)),
        (Op.READ_32, base + GSTS.offset, 0),
    )
    assert (values[0], values[2]) == (0x10, GSTS.RTPS.mask)


@pytest.mark.parametrize("bit", [0, 31, 32, 63])
@pytest.mark.parametrize("set_", [False, True])
def test_skipping_depends_on_what_was_read(machine: Machine, agent: Agent, bit: int, set_: bool) -> None:
    machine.memory.write_u64(DATA, 1 << bit if set_ else ~(1 << bit) & (1 << 64) - 1)
    run(
        agent,
        (Op.READ_64, DATA, 0),
        (Op.SKIP, 2, 1 << bit),
        (Op.WRITE_32, DATA + 8, 1),
        (Op.WRITE_32, DATA + 12, 1),
        (Op.WRITE_32, DATA + 16, 1),
    )
    expected = [set_, set_, True]
    assert [bool(machine.memory.read(DATA + at, 4)[0]) for at in (8, 12, 16)] == expected


def test_an_operation_that_does_not_exist_ends_the_script(agent: Agent) -> None:
    whole = script([(Op.SKIP, 0, 0), (Op.END, 0, 0)])
    whole[1]["op"] = 77
    agent.operations[:2] = whole
    with pytest.raises(DeviceError, match="no operation in step 1 of a test"):
        agent.run("a test")
    assert run(agent, (Op.READ_32, DATA, 5)) == [0]


def test_a_qemu_that_ends_in_the_middle_is_reported(machine: Machine, agent: Agent) -> None:
    # Shutdown by QMP, while the script goes round in circles: back to its first operation.
    whole = script([(Op.SKIP, 0, 0), (Op.SKIP, (1 << 28) - 2, 1)])
    agent.operations[:2] = whole
    agent.start()
    assert agent.running
    machine.qmp("quit")
    with pytest.raises(QemuDied):
        agent.wait("a test")


def test_sizes() -> None:
    assert OPERATION.itemsize == image.number("OPERATION_SIZE")
    assert len(Op) == image.number("OP_COUNT")
