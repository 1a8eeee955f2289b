"""The command itself: what it prints, on which stream, and its exit status."""

import json
import os
import resource
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from iommu.cli import interruption, main
from tests.dmar import hand


def vtd(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "iommu.cli.main", *arguments], input=stdin, capture_output=True, check=False
    )


def seconds(*words: str) -> float:
    """The processor time of a Python program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick() -> None:
    """Against what Typer alone takes, on this machine as it is now. It is twice that."""
    both = [(seconds("-m", "iommu.cli.main", "--help"), seconds("-c", "import typer")) for _ in range(5)]
    ours, least = map(min, zip(*both, strict=True))
    assert ours < 3 * least


def test_unreadable_input_gives_one_line_and_status_2(tmp_path: Path) -> None:
    good = hand.table(hand.drhd(0xFED90000, hand.scope(1, 0, (2, 0))))
    for data, said in [
        (b"no table", "vtd: offset 0x0, header.SIGNATURE: not a DMAR: it begins with b'no t'"),
        (good[:60], "vtd: offset 0x4, header.LENGTH = 0x48: the file ends after 60 bytes"),
        (good[:50] + b"\x03" + good[51:], "vtd: offset 0x32, DRHD.LENGTH = 0x3: a structure takes at least 4 bytes"),
    ]:
        path = tmp_path / "table"
        path.write_bytes(data)
        done = vtd("dmar", "show", str(path))
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == said + "\n"


def test_missing_file() -> None:
    done = vtd("dmar", "show", "/nowhere/table")
    assert (done.returncode, done.stderr) == (2, b"vtd: /nowhere/table: No such file or directory\n")


def test_characters_that_the_locale_lacks_are_escaped() -> None:
    data = hand.table(hand.drhd(0xFED90000, hand.scope(1, 0, (2, 0)), flags=1), hand.andd(1, b"\\_SB.\xe9\0"))
    done = subprocess.run(
        [sys.executable, "-m", "iommu.cli.main", "dmar", "topology", "-"],
        input=data,
        capture_output=True,
        check=False,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2514\\u2500 endpoint  00:02.0" in done.stdout


def test_wrong_usage_is_status_2() -> None:
    assert vtd("dmar", "shwo").returncode == 2
    assert vtd("dmar", "show", "--jsno").returncode == 2


def test_show_from_standard_input_for_people_and_programs() -> None:
    data = hand.table(
        hand.drhd(0xFED90000, hand.scope(2, 0, (0x1F, 7), (0, 0)), size=4, flags=1),
        hand.rmrr(0x7B000000, 0x7F7FFFFF, hand.scope(1, 0, (2, 0))),
        hand.andd(1, b"\\_SB.\x1b[31mX\0"),
        flags=1,
        width=46,
    )
    done = vtd("dmar", "show", "-", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    for said in (
        "46 bits",
        "INTR_REMAP",
        "(64 KiB)",
        "INCLUDE_PCI_ALL",
        "00:1f.7/00.0",
        "(72 MiB)",
        "\\_SB.\\x1b[31mX",
    ):
        assert said in done.stdout.decode()
    assert b"\x1b" not in done.stdout
    assert json.loads(vtd("dmar", "show", "-", "--json", stdin=data).stdout)["structures"][0]["base"] == 0xFED90000


def test_closed_pipe_is_not_an_error() -> None:
    data = hand.table(*[hand.drhd(0x1000 * n, hand.scope(1, 0, (2, 0))) for n in range(2000)])
    with subprocess.Popen(
        [sys.executable, "-m", "iommu.cli.main", "dmar", "show", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(data)
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141  # as if killed by SIGPIPE; 1 would mean that a check found something


def test_other_packages_add_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    points = [
        EntryPoint("extra", f"{__name__}:register_extra", main.GROUP),
        EntryPoint("broken", "no_such_module_here:register", main.GROUP),
    ]

    def found(group: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(main, "entry_points", found)
    app = main.make_app()
    with pytest.raises(SystemExit) as left:
        app(["extra", "--number", "5"])
    assert left.value.code == 0
    output = capsys.readouterr()
    assert output.out == "extra 5\n"
    assert output.err.startswith("vtd: broken (no_such_module_here:register) is not available: No module named")
    assert output.err.count("\n") == 1


def register_extra(app: typer.Typer) -> None:
    @app.command("extra")
    def extra(number: int = 0) -> None:
        print("extra", number)


def test_start_imports_nothing_slow() -> None:
    code = "import sys, iommu.cli.main as m; m.make_app(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"rich", "numpy", "iommu.dmar", "qemu.vtd.machine"} & set(done.stdout.split())


@pytest.mark.parametrize("arguments", [["quirks"], ["quirks", "--json"], ["explain", "0x05"]])
def test_broken_pipe_is_not_a_finding(arguments: list[str]) -> None:
    """Status 141, as if killed by SIGPIPE: 1 would mean that a check found something."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "iommu.cli.main", *arguments]
        ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_class_is_made(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a command imports its modules: a layout is a class whose fields are told their names."""

    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            signal.raise_signal(number)

    class Entry:
        name = value = "broken"

        def load(self) -> object:
            return type("Layout", (), {"ADDR": Field()})

    before = signal.getsignal(signal.SIGTERM)
    for changed in ("stdout", "stderr"):
        monkeypatch.setattr(sys, changed, getattr(sys, changed))
    monkeypatch.setattr(interruption, "_last", signal.SIGINT)
    monkeypatch.setattr(main, "entry_points", lambda group: [Entry()])
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + number
