"""qemu.vtd.vm and `vtd vm`: what is printed is what there is, the sockets work, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qemu.vtd.errors import QemuDied, QemuError
from qemu.vtd.guest import initramfs
from qemu.vtd.guest import kernel as kernels
from qemu.vtd.presets import preset
from qemu.vtd.probe import Build, version_text
from qemu.vtd.vm import Plan, Vm
from qemu.vtd.vm.topologies import TOPOLOGIES
from tests.command import vtd
from tests.qemu_vtd.remains import is_gone, nothing_remains

# A boot sector that says "go" on the first serial port again and again: mov dx,3f8; mov al,c; out dx,al; jmp.
BOOT_SECTOR = bytes.fromhex("baf803 b067 ee b06f ee ebf8").ljust(510, b"\0") + b"\x55\xaa"


def connect(path: str | Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(str(path))
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        try:
            found += connection.recv(4096)
        except TimeoutError:
            pytest.fail(f"{wanted!r} did not come; the last that came: {found[-500:]!r}")
    return found


def qmp(path: str | Path, command: str) -> Any:
    """What a QMP command returns, over a connection of its own."""
    with connect(path) as connection, connection.makefile("rw") as stream:
        assert "QMP" in json.loads(stream.readline())
        for each in ("qmp_capabilities", command):
            stream.write(json.dumps({"execute": each}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
            while "event" in answer:
                answer = json.loads(stream.readline())
        return answer["return"]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "a, disk.img"
    file.write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    return file


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`vtd vm --json ARGUMENTS` as a process of its own, and what it prints."""
    words = [sys.executable, "-m", "iommu.cli.main", "vm", "--json", *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()
            text += line
        try:
            yield process, json.loads(text)
        finally:
            process.kill()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_source_ids_are_those_that_the_topology_declares(qemu: Build, name: str) -> None:
    """The declared ones are what requests carry: the conformance scenarios on source-ids hold QEMU to them."""
    topology = TOPOLOGIES[name].topology
    with Vm(Plan(name), qemu.path) as vm:
        found = {each.name: each.source_id for each in vm.ready.devices}
    assert {place.device().name: found[place.device().name] for place in topology.places} == {
        place.device().name: place.source_id for place in topology.places
    }


def test_firmware_numbers_buses_alike(qemu: Build, disk: Path) -> None:
    with Vm(Plan("host-bridge", disk=disk), qemu.path) as vm:
        found = {each.name: each.source_id for each in vm.ready.devices}
    for place in TOPOLOGIES["host-bridge"].topology.places:
        assert found[place.device().name] == place.source_id


def test_sockets(qemu: Build) -> None:
    with nothing_remains(), Vm(Plan(iommu={"aw-bits": "39"}), qemu.path) as vm:
        sockets = vm.ready.sockets
        assert oct(vm.directory.stat().st_mode & 0o777) == "0o700"
        assert qmp(sockets["qmp"], "query-status")["running"]
        assert qmp(sockets["qmp"], "query-name") == {}
        for _ in range(2):
            with connect(sockets["qtest"]) as qtest:
                qtest.sendall(f"readq {vm.ready.register_base + 8:#x}\n".encode())  # type: ignore[operator]
                answer = read_until(qtest, b"\n")
        assert int(answer.split()[1], 16) == preset(version_text(qemu.version), aw_bits=39).cap


def test_the_console_of_a_disk_that_is_never_written(qemu: Build, disk: Path) -> None:
    before = disk.read_bytes()
    with Vm(Plan(disk=disk), qemu.path) as vm:
        with connect(vm.ready.sockets["console"]) as console:
            read_until(console, b"gogogo")
        opened = [each for each in Path(f"/proc/{vm.pid}/fd").iterdir() if each.resolve() == disk]
        for each in opened:
            flags = Path(f"/proc/{vm.pid}/fdinfo/{each.name}").read_text().split("flags:")[1].split()[0]
            assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
        assert opened
    assert disk.read_bytes() == before


@pytest.mark.usefixtures("turn")
def test_a_linux_finds_the_unit(build: Build) -> None:
    kernel = kernels.of_package()
    archive = initramfs.build(kernel, kernels.busybox(), {})
    with (
        Vm(Plan(kernel=kernel.image, initrd=archive), build.path) as vm,
        connect(vm.ready.sockets["console"]) as console,
    ):
        printed = read_until(console, b"init: ready").decode(errors="replace")
    cap = preset(version_text(build.version)).cap
    assert f"DMAR: dmar0: reg_base_addr {vm.ready.register_base:x} ver 1:0 cap {cap:x}" in printed


def test_no_network_and_the_sandbox(build: Build) -> None:
    with Vm(Plan(), build.path) as vm:
        words = Path(f"/proc/{vm.pid}/cmdline").read_bytes().decode().split("\0")
        assert "-nodefaults" in words and words[words.index("-sandbox") + 1].startswith("on,")
        with connect(vm.ready.sockets["qmp"]) as connection:
            stream = connection.makefile("rw")
            stream.write(
                '{"execute": "qmp_capabilities"}\n'
                '{"execute": "human-monitor-command", "arguments": {"command-line": "info network"}}\n'
            )
            stream.flush()
            answers = [json.loads(stream.readline()) for _ in range(3)]
        assert answers[2] == {"return": ""}


def test_without_a_unit(build: Build) -> None:
    with Vm(Plan(iommu=None), build.path) as vm:
        assert vm.ready.register_base is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(build: Build, number: int) -> None:
    with command("--qemu", build.path) as (process, shown):
        process.send_signal(number)
        assert process.wait(20) == 0
    assert is_gone(shown["pid"])
    assert not Path(shown["sockets"]["qmp"]).parent.exists()


def test_it_ends_with_qemu(build: Build) -> None:
    with command("--qemu", build.path) as (process, shown):
        qmp(shown["sockets"]["qmp"], "quit")
        assert process.wait(20) == 0
    assert not Path(shown["sockets"]["qmp"]).parent.exists()


def test_a_qemu_that_crashes_is_an_error(build: Build) -> None:
    with command("--qemu", build.path) as (process, shown):
        os.kill(shown["pid"], signal.SIGABRT)
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert process.stderr.read() == "vtd: QEMU ended by SIGABRT\n"


def is_removed(folder: Path) -> bool:
    deadline = time.monotonic() + 5
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not folder.exists()


def test_after_kill_9_qemu_and_the_directory_are_gone(build: Build) -> None:
    with command("--qemu", build.path) as (process, shown):
        process.kill()
        process.wait()
    assert is_gone(shown["pid"])
    assert is_removed(Path(shown["sockets"]["qmp"]).parent)


def test_where_the_guard_is_killed_too_the_next_vm_removes_the_directory(build: Build) -> None:
    with command("--qemu", build.path) as (process, shown):
        left = Path(shown["sockets"]["qmp"]).parent
        guard = int(Path(f"/proc/{shown['pid']}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGSTOP)
        process.kill()
        process.wait()
        os.kill(guard, signal.SIGKILL)
    assert is_gone(shown["pid"])
    assert left.exists()
    with command("--qemu", build.path) as (second, other), Vm(Plan(), build.path) as vm:
        assert not left.exists()
        # A third does not remove the directories of those that run.
        assert Path(other["sockets"]["qmp"]).exists() and vm.ready.sockets["qmp"].exists()
        second.terminate()
        assert second.wait(20) == 0


def test_two_in_one_process(build: Build) -> None:
    with Vm(Plan(), build.path) as one, Vm(Plan(), build.path) as two:
        assert one.directory != two.directory
        assert qmp(one.ready.sockets["qmp"], "query-status")["running"]


def test_what_is_printed_for_people(build: Build) -> None:
    words = [sys.executable, "-m", "iommu.cli.main", "vm", "--qemu", build.path, "--topology", "none"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1] != "Ctrl-C ends it\n":
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert lines[0].startswith(f"QEMU {version_text(build.version)} under tcg, process ")
    assert "remapping unit at 0xfed90000" in lines[0]
    assert any("source-id 0x00f8  ISA bridge" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topology", "moon"], "there is no topology 'moon'; there are plain, "),
        (["--memory", "a lot"], "memory 'a lot' is not a size such as 512M or 2G"),
        (["--disk", "/nowhere"], "/nowhere: no such file"),
        (["--kernel", "/nowhere"], "/nowhere: no such file"),
        (["--append", "quiet"], "--initrd and --append go with --kernel"),
        (["words"], "'words': what follows -- are options of QEMU, which start with -"),
        (["--host-device", "7"], "'7' is not a PCI address such as 0000:00:1f.0"),
        (["--qemu", "/nowhere"], "no QEMU: '/nowhere'"),
        (["--", "-device", "no-such-device"], "'no-such-device' is not a valid device model name"),
    ],
)
def test_bad_input_is_one_line(build: Build, arguments: list[str], said: str) -> None:
    with nothing_remains():
        done = vtd("vm", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("vtd: ") and said in line


def test_a_path_too_long_for_a_socket(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(QemuError, match="too long for the path of a socket; set XDG_RUNTIME_DIR"), Vm(Plan()):
        pass


def test_qemu_s_own_refusal_is_the_message(build: Build) -> None:
    with nothing_remains(), pytest.raises(QemuDied, match="aw-bits"), Vm(Plan(iommu={"aw-bits": "40"})):
        pass


def test_list() -> None:
    assert [each["name"] for each in json.loads(vtd("vm", "--topology", "list", "--json").stdout)] == list(TOPOLOGIES)
    assert vtd("vm", "--topology", "list").stdout.decode().startswith("plain         an edu")


def test_the_wait_has_no_busy_loop(build: Build) -> None:
    with command("--qemu", build.path) as (process, _):
        times = [_processor_time(process.pid)]
        time.sleep(0.5)
        times.append(_processor_time(process.pid))
        process.terminate()
        process.wait(20)
    assert times[1] - times[0] <= 1


def _processor_time(pid: int) -> int:
    """Clock ticks that a process has used, in user mode and in the kernel."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
