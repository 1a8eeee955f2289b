"""Running QEMUs that are not ours: what is read is what is there, nothing is changed, and a refusal is one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from iommu import Access, DmaRequest, SourceId
from iommu.snapshot import Snapshot
from iommu.snapshot.memory import ranges_of, used_of
from iommu.snapshot.writer import packer
from qemu.vtd import Machine
from qemu.vtd.errors import QemuError
from qemu.vtd.live.capture import captured
from qemu.vtd.live.monitor import monitor
from qemu.vtd.live.process_memory import Block, process_memory
from qemu.vtd.probe import Build
from tests import command
from tests.qemu_vtd import remains
from tests.qemu_vtd.live.strangers import HIGH, HOST, IOMMU, PAGE_OF_DEVICE, TABLES, UNIT, Stranger, stranger

NIC = SourceId(0, 3, 0)
WRITE = DmaRequest(NIC, PAGE_OF_DEVICE + 0x10, Access.WRITE)


@pytest.fixture(scope="module")
def vm(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """A QEMU with private memory on both sides of 4 GiB, whose unit translates for device 00:03.0."""
    with stranger(build.path, tmp_path_factory.mktemp("vm"), *IOMMU) as found:
        found.translate_for_device()
        found.write(0x7FFF_F000, b"below")
        found.write(HOST, b"above")
        yield found


def is_running(place: Path) -> bool:
    with monitor(place) as qemu:
        return bool(qemu._qmp.execute("query-status")["running"])


def size_of(pid: int) -> int:
    """The memory that a process has, in KiB."""
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1])


def test_what_is_read_is_what_is_there(vm: Stranger) -> None:
    before = size_of(vm.pid)
    with captured(vm.socket) as taken:
        assert taken.memory.read(0x7FFF_F000, 5) == b"below"
        assert taken.memory.read(HOST, 5) == b"above"
        for page in range(TABLES, TABLES + 0x6000, 0x1000):
            assert taken.memory.read(page, 0x1000) == vm.read(page, 0x1000)
        (unit,) = taken.units
        assert (unit.register_base, taken.origin[:5]) == (UNIT, "QEMU ")
        assert unit.register(0x20, 8) == TABLES
        assert unit.unit().translate(WRITE).host_address == HOST + 0x10
        ends = {end for each in ranges_of(taken.memory) for end in (each.start, each.stop)}
        assert {0, 0x8000_0000, HIGH + (3 << 30)} <= ends
        assert sum(len(each) for each in used_of(taken.memory)) < 32 << 20
    assert is_running(vm.socket)
    assert size_of(vm.pid) - before < 4096


def test_the_guest_stands_still_meanwhile_and_stays_so_if_it_did(vm: Stranger) -> None:
    with monitor(vm.socket) as qemu:
        with qemu.paused():
            assert not qemu._qmp.execute("query-status")["running"]
            with qemu.paused():
                pass
            assert not qemu._qmp.execute("query-status")["running"]
        assert qemu._qmp.execute("query-status")["running"]
    with pytest.raises(KeyboardInterrupt), captured(vm.socket):
        raise KeyboardInterrupt
    assert is_running(vm.socket)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_guest_goes_on_after_a_signal_and_no_file_is_left(
    number: signal.Signals, vm: Stranger, tmp_path: Path
) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from iommu.snapshot.writer import packer; from qemu.vtd.live.capture import captured\n"
        "with packer(Path(sys.argv[1]) / 'out') as packing, captured(Path(sys.argv[2])) as taken:\n"
        "    packing.take(taken); print('still', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(vm.socket)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "still\n"
    process.send_signal(number)
    assert process.wait(20) in (130, -number)
    process.stdout.close()
    deadline = time.monotonic() + 10
    while not is_running(vm.socket):  # one client at a time: the guard is one
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_the_walk_does_not_write_to_the_guest(vm: Stranger) -> None:
    with captured(vm.socket) as taken:
        taken.memory.write(HOST, b"ours!")
        assert taken.memory.read(HOST, 5) == b"ours!"
    assert vm.read(HOST, 5) == b"above"


def test_a_file_of_it(vm: Stranger, tmp_path: Path) -> None:
    done = command.vtd("snapshot", tmp_path / "vm.vtd", "--qmp", vm.socket, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["units"] == [
        {
            "register_base": UNIT,
            "translation": True,
            "interrupt_remapping": False,
            "recorded_faults": 0,
            "whole_state": False,
        }
    ]
    assert found["bytes"] < 1 << 20 and any("cached" in text for text in found["unknown"])
    taken = Snapshot.open(tmp_path / "vm.vtd")
    assert taken.memory.read(HOST, 5) == b"above"
    assert taken.units[0].unit().translate(WRITE).host_address == HOST + 0x10
    done = command.vtd("snapshot", tmp_path / "tables.vtd", "--qmp", vm.socket, "--tables-only")
    assert done.returncode == 0 and b"tables only" in done.stdout
    tables = Snapshot.open(tmp_path / "tables.vtd")
    assert tables.units[0].unit().translate(WRITE).host_address == HOST + 0x10
    assert sum(len(each) for each in ranges_of(tables.memory)) == 6 * 0x1000
    assert b"above" not in (tmp_path / "tables.vtd").read_bytes()


def test_one_request_in_a_running_machine(vm: Stranger) -> None:
    done = command.vtd("walk", "--qmp", vm.socket, "--request", "00:03.0 write 0x5010")
    assert done.returncode == 0
    assert f"-> host address {HOST + 0x10:#x}, page of 4 KiB, RW" in done.stdout.decode()
    done = command.vtd("walk", "--qmp", vm.socket, "--request", "00:04.0 write 0x5010")
    assert b"blocked, 0x02" in done.stdout


def test_shared_memory_is_read_without_touching_it(build: Build, tmp_path: Path) -> None:
    place = tmp_path / "qmp"
    with Machine(build.path, iommu={}, extra=["-qmp", f"unix:{place},server=on,wait=off"]) as machine:
        machine.memory.write(0x12_3000, b"shared")
        pages = len(machine._started().ram.pages())
        with captured(place) as taken, packer(tmp_path / "vm.vtd") as packing:
            assert sum(len(each) for each in used_of(taken.memory)) <= pages * 4096 + (1 << 20)
            packing.take(taken)
            packing.finish()
        assert len(machine._started().ram.pages()) == pages
        found = Snapshot.open(tmp_path / "vm.vtd").memory
        for start in range(0x10_0000, machine.memory.size, 1 << 20):
            assert found.read(start, 1 << 20) == machine.memory.read(start, 1 << 20)


# What cannot be read.


def test_inspect_shows_a_running_guest(vm: Stranger, tmp_path: Path) -> None:
    done = command.vtd("inspect", "--qmp", vm.socket, "--json", "--html", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, b"")
    machine = json.loads(done.stdout)
    (unit,) = machine["units"]
    assert (machine["name"], machine["origin"][:5]) == (str(vm.socket), "QEMU ")
    assert (unit["register_base"], unit["on"], unit["root_table"]) == (UNIT, ["translation"], TABLES)
    (device,) = unit["devices"]
    assert (device["source_id"], device["domain_id"]) == ("00:03.0", 1)
    (space,) = unit["spaces"]
    assert space["ranges"] == [{"address": PAGE_OF_DEVICE, "size": 0x1000, "host": HOST, "rights": "rw"}]
    assert (unit["problems"], unit["cached"]) == ([], None)
    assert "what the unit has cached" in machine["unknown"]
    assert "00:03.0" in (tmp_path / "page.html").read_text()
    assert "00:03.0  domain 1, second stage" in command.vtd("inspect", "--qmp", vm.socket).stdout.decode()
    assert is_running(vm.socket)


def refused(*words: str | Path) -> str:
    """The one line that a command ends with."""
    done = command.vtd(*words)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    return line


def test_a_guest_without_a_unit_or_with_it_switched_off(build: Build, tmp_path: Path) -> None:
    with stranger(build.path, tmp_path, memory="64M") as found:
        for words in (("snapshot", tmp_path / "out"), ("inspect",), ("walk",), ("explain",)):
            line = refused(*words, "--qmp", found.socket)
            assert line.endswith("has no Intel remapping unit (-device intel-iommu)")
        assert not (tmp_path / "out").exists()
    with stranger(build.path, tmp_path, *IOMMU, memory="64M") as found:
        done = command.vtd("snapshot", tmp_path / "out", "--qmp", found.socket)
        assert b"unit at 0xfed90000: switched off, 0 faults recorded" in done.stdout
        done = command.vtd("inspect", "--qmp", found.socket)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"  switched off: DMA and interrupts go where they are addressed to" in done.stdout
        done = command.vtd("walk", "--qmp", found.socket, "--request", "00:03.0 write 0x5010")
        assert b"translation is off (GSTS.TES): nothing is remapped" in done.stdout


def test_a_process_that_is_not_the_one_behind_the_socket(vm: Stranger, build: Build, tmp_path: Path) -> None:
    said = {
        str(os.getpid()): "give its --pid",
        "4194303": "there is no process 4194303",
        "0": "is not a process id",
        "me": "is not a process id",
    }
    for pid, text in said.items():
        assert text in refused("walk", "--qmp", vm.socket, "--pid", pid)
    assert "--pid needs --qmp" in refused("walk", "--pid", "1")
    assert "--qmp does not go with somewhere" in refused("walk", "somewhere", "--qmp", vm.socket)


def test_a_process_that_may_not_be_read(vm: Stranger) -> None:
    """In a child that has given up root; without root, init may not be read."""
    if os.geteuid():
        with pytest.raises(QemuError, match="ptrace rules"), process_memory(1, [Block(0, 4096, 4096)]):
            pass
        return
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresuid(65534, 65534, 65534)
            with process_memory(vm.pid, [Block(0, 4096, 4096)]):
                pass
        except QemuError as error:
            os.write(theirs, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"cannot be read: be its user or root (ptrace rules" in os.read(ours, 4096)
    os.close(ours)
    os.close(theirs)


@contextmanager
def listening(place: Path, said: bytes) -> Iterator[None]:
    """A server that says something to whoever connects."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(place))
        server.listen()

        def serve() -> None:
            connection = opened.enter_context(server.accept()[0])
            connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"", "no QMP greeting within 0.2 s: it is not QEMU's, or another client has it"),
        (b"220 smtp.example ESMTP\r\n", "does not speak QMP"),
        (b'{"hello": "world"}\n', "does not speak QMP"),
    ],
)
def test_a_socket_that_is_not_qemu_s(said: bytes, text: str, tmp_path: Path) -> None:
    before = remains.open_files()
    with listening(tmp_path / "qmp", said), pytest.raises(QemuError, match=text), monitor(tmp_path / "qmp", 0.2):
        pass
    assert remains.open_files() == before


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused("walk", "--qmp", tmp_path / "nowhere").endswith("nowhere: No such file or directory")
    assert refused("walk", "--qmp", tmp_path / "file").endswith("file: Connection refused")
    assert "AF_UNIX path too long" in refused("walk", "--qmp", "x" * 200)


def test_commands_start_without_loading_what_reads_processes() -> None:
    program = "import sys; from iommu.cli.main import make_app; make_app(); print('iommu.engine.unit' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
