"""Nothing from outside moves a terminal: names and contents full of escape sequences, through every command."""

import io
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
from rich.text import Text

from iommu.cli import output
from iommu.dmar.pci import PciAddress, PciFunction, PciTree
from iommu.files.text import beneath, protected, safe, safe_json, safe_lines
from iommu.snapshot.contents import Contents
from iommu.snapshot.saving import registers_of
from iommu.snapshot.unit import UnitSnapshot
from iommu.snapshot.writer import packer
from tests import command
from tests.dmar import hand
from tests.engine.living import busy
from tests.every_command import commands

EVIL = "\x1b[31m\x9b2J\x07\b\r\x7f\x85\u202e\u2028\u2066"
"""A style, clear screen, the bell, backspace, carriage return, delete, next line, and bidirectional marks."""
LINE = "DMAR: [DMA Write] Request device [00:02.0] fault addr 7ff000 [fault reason 05] "

RUNS: dict[str, list[list[str]]] = {
    "dmar show": [["table"], ["damaged"], ["none"], ["table", "--json"]],
    "dmar lint": [["table"], ["damaged"], ["none"], ["table", "--json"]],
    "dmar topology": [["table"], ["table", "--pci", "pci"], ["table", "--pci", "badpci"], ["table", "--pci", "none"]],
    "dmar survey": [["."], [".", "--csv"], [".", "--json"], ["none"], [".", "--html", "none/page"]],
    "dmar diff": [["table", "other"], ["table", "none"], ["table", "other", "--json"]],
    "dmar build": [["json", "-o", "none/out"], ["badjson", "-o", "out"], ["none", "-o", "out"]],
    "explain": [["log"], ["EVIL"], ["log", "--json"], ["log", "--snapshot", "none"], ["--snapshot", "snapshot"]],
    "walk": [["snapshot", "--request", "EVIL"], ["none"], ["badsnapshot"], ["snapshot", "--request", "00:04.0 EVIL"]],
    "snapshot": [
        ["snapshot", "out.vtd"],
        ["none", "out.vtd"],
        ["snapshot", "none/out"],
        ["snapshot", "out", "--json"],
    ],
    "reach": [["snapshot"], ["snapshot", "--device", "EVIL"], ["none"], ["snapshot", "--symbols", "badsnapshot"]],
    "replay-trace": [["log", "--snapshot", "snapshot"], ["badsnapshot", "--snapshot", "snapshot"], ["none"]],
    "inspect": [["snapshot"], ["snapshot", "--json"], ["none"], ["snapshot", "--html", "none/page"]],
    "conform": [
        *(["--only", "EVIL"], ["--chapter", "EVIL"], ["--qemu", "none"], ["--qemu", "qemu"], ["--quirks-of", "EVIL"]),
        *(
            ["--export", "EVIL"],
            ["--checklist", "--only", "EVIL"],
            ["--junit", "none/out"],
            ["--qemu", "qemu", "--json"],
        ),
    ],
    "quirks": [["EVIL"], ["--version", "EVIL"]],
    "fuzz": [["--mode", "EVIL"], ["--qemu", "qemu"], ["--resume", "none"], ["--resume", "badsnapshot"]],
    "replay": [["badjson"], ["none"], ["badsnapshot"], ["log", "--python"]],
    "vm": [
        *(["--topology", "EVIL"], ["--iommu", "EVIL=EVIL"], ["--memory", "EVIL"], ["--host-device", "EVIL"]),
        *(["--qemu", "qemu"], ["--qemu", "qemu", "--check"], ["--qemu", "qemu", "--check", "--json"]),
        *(["--kernel", "none"], ["--accel", "EVIL"]),
    ],
    "qemu list": [[], ["--json"]],
    "qemu install": [["EVIL"]],
    "guest run": [["--variant", "EVIL"], ["--qemu", "qemu"], ["--kernel", "none"], ["--nested", "EVIL"]],
    "guest shell": [["--variant", "EVIL"], ["--qemu", "qemu"]],
    "guest variants": [["--qemu", "qemu"], ["--qemu", "none", "--json"]],
}
"""For each command what it is given. A word that is the name of a file stands for the file; EVIL for the text."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evil name, and evil files in it."""
    folder = tmp_path_factory.mktemp("outside") / f"folder {EVIL}"
    folder.mkdir()
    evil = EVIL.encode()
    units = hand.drhd(0xFED90000, hand.scope(1, 0, (2, 0))), hand.andd(1, b"\\" + evil + b"\0")
    table = bytearray(hand.table(*units))
    table[10:24], table[28:32] = evil[:14], b"\x1b\x9b\x85\r"
    for name, data in {
        "table": bytes(table),
        "other": hand.table(units[0], hand.andd(2, evil[::-1] + b"\0")),
        "damaged": bytes(table[:-5]),
        "json": json.dumps({"header": {}, "structures": []}).encode(),
        "badjson": json.dumps({"header": {}, "structures": [{"kind": EVIL}]}).encode(),
        "pci": json.dumps(PciTree([PciFunction(PciAddress(0, 0, 2, 0))]).to_plain()).encode(),
        "badpci": json.dumps([{"address": EVIL}]).encode(),
        "log": f"{EVIL} {LINE} {EVIL}\n".encode() * 3,
        "badsnapshot": evil,
        "qemu": b"#!/bin/sh\nprintf '%s'" + b" '" + evil + b"' >&2\nexit 1\n",
    }.items():
        (folder / f"{name} {EVIL}").write_bytes(data)
    (folder / f"qemu {EVIL}").chmod(stat.S_IRWXU)
    (folder / os.fsdecode(b"not text \xff\x9b\x1b")).write_bytes(b"no table\x1b")
    unit = busy().unit
    shown = UnitSnapshot(EVIL, registers_of(unit), unit.memory, 46, 0xFED90000)
    with packer(folder / f"snapshot {EVIL}") as packing:
        packing.take(Contents(EVIL, unit.memory, (shown,), None, EVIL, (EVIL,)))
        packing.finish()
    return folder


def unsafe(text: str) -> list[str]:
    return re.findall(r"[^\n\x20-\x7e]", "".join(char for char in text if char == "\n" or not char.isprintable()))


@pytest.mark.parametrize("name", commands())
def test_no_command_shows_what_a_terminal_obeys(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTD_QEMU", str(folder / f"qemu {EVIL}"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    seen = ""
    for words in [*RUNS[name], [f"--{EVIL}"], [EVIL] * 9]:
        given = [_given(word, folder) for word in words]
        done = command.vtd(*name.split(), *given)
        shown = (done.stdout + done.stderr).decode()
        assert unsafe(shown) == [], (words, shown)
        assert "Traceback" not in shown
        if "--json" in words and done.stdout:
            json.loads(done.stdout)
        seen += shown
    assert "x1b[31m" in seen  # what is evil was there, as an escape


FILES = frozenset(
    {"table", "other", "damaged", "json", "badjson", "pci", "badpci", "log", "snapshot", "badsnapshot", "qemu"}
    | {"none", "none/page", "out", "out.vtd"}
)


def _given(word: str, folder: Path) -> str:
    if word == ".":
        return str(folder)
    return str(folder / f"{word} {EVIL}") if word in FILES else word.replace("EVIL", EVIL)


def test_every_command_is_covered() -> None:
    assert set(RUNS) == set(commands())


# The parts.


def test_what_is_unprintable_is_an_escape() -> None:
    assert safe(f"a{EVIL}b\n") == r"a\x1b[31m\x9b2J\x07\x08\r\x7f\x85\u202e\u2028\u2066b\n"
    assert safe("Größe 漢字 \\ '") == "Größe 漢字 \\ '"
    assert safe_lines("a\x1b\n\x9bb\n") == "a\\x1b\n\\x9bb\n"


@pytest.mark.parametrize("only_ascii", [False, True])
def test_json_stays_what_it_is(only_ascii: bool) -> None:
    value = {"a" + EVIL: [EVIL, "Größe 漢字 \U0001f600 \U000e0001 \udcff\\", 7]}
    text = safe_json(value, only_ascii=only_ascii)
    assert json.loads(text) == value
    assert unsafe(text) == [] and r"\u009b2J" in text
    assert ("漢字 \U0001f600 " in text) is not only_ascii


def test_json_is_valid_whatever_the_locale_can_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", errors="backslashreplace"))
    output.print_json(["é", EVIL])
    sys.stdout.flush()
    assert json.loads(written.getvalue()) == ["é", EVIL]


def test_a_protected_stream_has_no_way_to_its_bytes() -> None:
    written = io.BytesIO()
    stream = protected(io.TextIOWrapper(written, "utf-8", write_through=True), "it")
    assert stream.write(f"{EVIL}\n") == len(EVIL) + 1
    print(EVIL, file=stream)
    stream.writelines([EVIL])
    assert unsafe(written.getvalue().decode()) == [] and written.getvalue().count(b"\\x1b[31m") == 3
    assert not hasattr(stream, "buffer") and protected(stream, "again") is stream
    beneath(stream).write("\x1b")
    assert written.getvalue().endswith(b"\x1b")


def test_a_terminal_gets_styles_and_bars_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in ("stdout", "stderr"):
        terminal = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, stream, protected(terminal, stream))
        console = output.console() if stream == "stdout" else output.error_console()
        console.print(Text(f"red {EVIL}", "red"))
        console.print(f"red {EVIL}", markup=False)
        with console.status(f"busy {EVIL}"):
            print(f"meanwhile {EVIL}", file=getattr(sys, stream))
        shown = terminal.getvalue()
        assert "\x1b[31mred" in shown and "x1b[31m" in shown
        rest = re.sub(r"\x1b\[[0-9;]*[mKA]|\x1b\[\?25[lh]|\r", "", shown)  # styles, and what redraws a line
        assert unsafe(rest) == []
        assert "\x1b[31m\x9b" not in shown and "\x9b" not in shown and "\u202e" not in shown
