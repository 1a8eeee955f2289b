import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.vtd import Machine, find_qemu, probe
from qemu.vtd.devices import IommuTestdev
from qemu.vtd.errors import PropertyMissing, QemuNotFound, QemuUnsuitable
from tests.qemu_vtd.remains import nothing_remains

# Implements just enough QMP for a probe. The tests fill in the words in capital letters.
FAKE_QEMU = f"""#!{sys.executable}
import json, re, socket, sys
descriptor = next(int(found[1]) for word in sys.argv if (found := re.search(r"fd=(\\d+)", word)))
connection = socket.socket(fileno=descriptor)
def say(**message):
    connection.sendall(json.dumps(message).encode() + b"\\r\\n")
say(QMP={{"version": {{}}, "capabilities": []}})
while heard := connection.recv(65536):
    command = json.loads(heard)
    if command["execute"] == "query-version":
        answer = {{"return": {{"qemu": dict(zip(("major", "minor", "micro"), VERSION))}}}}
    elif command["execute"] == "device-list-properties" and command["arguments"]["typename"] not in DEVICES:
        answer = {{"error": {{"class": "DeviceNotFound", "desc": "no such device"}}}}
    elif command["execute"] == "device-list-properties":
        answer = {{"return": [{{"name": name}} for name in PROPERTIES]}}
    elif command["execute"] == "query-machines":
        answer = {{"return": MACHINES}}
    else:
        answer = {{"return": []}}
    say(**answer, **{{name: command[name] for name in command if name == "id"}})
"""


def fake_qemu(
    version: object, devices: list[str], properties: Sequence[str] = (), machines: Sequence[dict[str, str]] = ()
) -> str:
    text = FAKE_QEMU.replace("VERSION", repr(version)).replace("DEVICES", repr(devices))
    return text.replace("PROPERTIES", repr(list(properties))).replace("MACHINES", repr(list(machines)))


@pytest.mark.parametrize(
    ("version", "machine", "doubted"),
    [
        ((11, 1, 3), "pc-q35-11.1", False),
        ((11, 1, 3), "pc-q35-7.2", True),
        ((11, 1, 50), "pc-q35-11.2", False),
        ((10, 2, 93), "pc-q35-11.0", False),
        ((10, 1, 3), "pc-q35-10.2", True),
        ((9, 0, 0), "pc-q35-rhel9.4.0", False),
        ((9, 0, 0), "", False),
    ],
)
def test_a_version_that_does_not_fit_the_newest_machine_is_doubted(
    version: tuple[int, int, int], machine: str, doubted: bool
) -> None:
    build = probe.Build("qemu", version, frozenset(), frozenset(), (), machine)
    assert bool(build.doubts) is doubted


def test_the_installed_qemu_is_believed(build: probe.Build) -> None:
    assert build.doubts == ()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        *[("query-version", answer) for answer in ("{}", "[]", "5", '{"qemu": 5}', "null", '"9.0.0"')],
        ("query-version", '{"qemu": {"major": "x", "minor": null, "micro": 3}}'),
        ("query-version", '{"qemu": {"major": 9, "minor": 1.5, "micro": true}}'),
        *[("device-list-properties", answer) for answer in ("5", "{}", "[5]", '[{"name": 5}]', '[{"name": []}]')],
        *[("query-machines", answer) for answer in ("5", "[5]", '[{"name": 5}]', '[{"alias": {}, "name": "x"}]')],
    ],
)
def test_an_answer_that_no_qemu_gives(script: Callable[[str], str], command: str, answer: str) -> None:
    fake = fake_qemu((9, 0, 0), ["intel-iommu"], ["aw-bits"])
    said = f'say(**{{"return": json.loads({answer!r}), "id": command["id"]}})'
    lie = f" = json.loads(heard)\n    if command['execute'] == {command!r}: {said}\n    elif"
    fake = fake.replace(" = json.loads(heard)\n    if", lie)
    with nothing_remains(), pytest.raises(QemuUnsuitable) as caught:
        Machine(script(fake))
    assert str(caught.value).endswith(f" does not behave like a QEMU: no QEMU answers QMP {command} with {answer}")


def test_the_installed_qemu(build: probe.Build) -> None:
    assert (7, 0, 0) <= build.version < (100, 0, 0)
    assert {"aw-bits", "caching-mode", "intremap"} <= build.iommu_properties
    assert {"edu", "rocker"} <= build.devices
    assert probe.probe(build.path) is build


def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTD_QEMU", "/bin/cat")
    assert find_qemu("/bin/sh") == "/bin/sh"
    assert find_qemu() == "/bin/cat"
    assert find_qemu(Path("sh")) in ("/bin/sh", "/usr/bin/sh")


def test_no_qemu_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VTD_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuNotFound) as caught:
        Machine()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("qemu-system-x86", "--qemu", "VTD_QEMU"))


def test_a_path_that_is_not_a_program(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for path in (plain, tmp_path, tmp_path / "missing"):
        with pytest.raises(QemuNotFound, match="is not a program"):
            find_qemu(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nexit 0\n", "QEMU ended, status 0"),
        ("#!/bin/sh\necho not me >&2; exit 3\n", "status 3: not me"),
        ("#!/no/such/interpreter\n", "does not behave like a QEMU"),
        ("\x7fELF but not really", "does not behave like a QEMU"),
        ("#!/bin/sh\nexec sleep 100\n", "no answer from QEMU within 0.5 s"),
    ],
    ids=["silent", "complaining", "no interpreter", "not a program", "hanging"],
)
def test_a_program_that_is_not_a_qemu(
    script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setattr(probe, "_PROBE_SECONDS", 0.5)
    path = script(text)
    with nothing_remains(), pytest.raises(QemuUnsuitable, match=said) as caught:
        Machine(path)
    assert "\n" not in str(caught.value)


def test_a_qemu_that_is_too_old(script: Callable[[str], str]) -> None:
    with nothing_remains(), pytest.raises(QemuUnsuitable, match=r"is QEMU 6\.2\.1; 7\.0 or later"):
        Machine(script(fake_qemu((6, 2, 1), ["intel-iommu"])))


def test_a_qemu_without_the_unit(script: Callable[[str], str]) -> None:
    with nothing_remains(), pytest.raises(QemuUnsuitable, match=r"QEMU 8\.0\.0\) has no intel-iommu"):
        Machine(script(fake_qemu((8, 0, 0), ["edu"])))


def test_a_device_the_qemu_does_not_have(script: Callable[[str], str]) -> None:
    with pytest.raises(QemuUnsuitable, match=r"QEMU 8\.0\.0 has no device iommu-testdev"):
        Machine(script(fake_qemu((8, 0, 0), ["intel-iommu"])), devices=[IommuTestdev(4)])


def test_a_qemu_without_a_sandbox(build: probe.Build, script: Callable[[str], str]) -> None:
    refusing = f"""#!/bin/sh
case "$*" in *-sandbox*) echo "-sandbox: There is no option group 'sandbox'" >&2; exit 1;; esac
exec {build.path} "$@"
"""
    with Machine(script(refusing)) as machine:
        assert machine.build.sandbox == ()
        assert machine.qmp("query-status")["running"] is True


def test_a_program_that_changes_is_probed_again(script: Callable[[str], str]) -> None:
    path = script(fake_qemu((8, 0, 0), ["intel-iommu"]))
    assert probe.probe(path).version == (8, 0, 0)
    script(fake_qemu((10, 0, 0), ["intel-iommu", "edu"]))
    assert probe.probe(path).version == (10, 0, 0)


@pytest.mark.parametrize(
    ("has", "spelled"),
    [
        ({"aw-bits", "x-scalable-mode", "x-flts"}, ["aw-bits", "x-scalable-mode", "x-flts"]),
        ({"aw-bits", "scalable-mode", "fsts"}, ["aw-bits", "scalable-mode", "fsts"]),
        ({"aw-bits", "scalable-mode", "x-scalable-mode", "flts"}, ["aw-bits", "scalable-mode", "flts"]),
    ],
)
def test_properties_as_this_qemu_spells_them(build: probe.Build, has: set[str], spelled: list[str]) -> None:
    renamed = replace(build, iommu_properties=frozenset(has))
    wanted = {"aw-bits": "48", "scalable-mode": "on", "flts": "on"}
    assert renamed.spelled(wanted) == dict(zip(spelled, wanted.values(), strict=True))


def test_a_property_under_no_name_is_missing(build: probe.Build) -> None:
    without = replace(build, iommu_properties=frozenset({"aw-bits"}))
    with pytest.raises(PropertyMissing, match="no property 'flts'; it has aw-bits") as raised:
        without.spelled({"aw-bits": "48", "flts": "on"})
    assert raised.value.name == "flts"
