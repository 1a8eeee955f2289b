"""Every command that reads something, run whole in this process: what it prints and how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from unittest.mock import patch

import typer

from iommu.cli import main as cli
from iommu.errors import VtdError
from tests.fuzz import readers
from tests.fuzz.way import Way

COMMANDS: dict[str, Sequence[str]] = {
    "dmar show FILE": ("tables", "texts", "images", "archives"),
    "dmar show --json FILE": ("tables",),
    "dmar lint FILE": ("tables",),
    "dmar lint --json FILE": ("tables",),
    "dmar topology --pci PCI FILE": ("tables",),
    "dmar topology --json --pci FILE TABLE": ("pci trees",),
    "dmar topology --pci FILE TABLE": ("pci trees",),
    "dmar survey FILE": ("tables",),
    "dmar survey --csv FILE": ("tables",),
    "dmar diff TABLE FILE": ("tables",),
    "dmar build FILE --output OUT": ("table documents",),
    "dmar build --exact FILE --output OUT": ("table documents",),
    "explain FILE": ("logs",),
    "explain --json FILE": ("logs",),
    "explain -- TEXT": ("words",),
    "explain --snapshot FILE": ("snapshots",),
    "walk FILE --request 00:04.0\xa0write\xa00x5000": ("snapshots",),
    "walk SNAPSHOT --fields --request TEXT": ("requests",),
    "snapshot OUT FILE": ("snapshots", "snapshot folders"),
    "snapshot --tables-only OUT FILE": ("snapshots",),
    "inspect FILE": ("snapshots", "snapshot folders"),
    "inspect --json FILE": ("snapshots",),
    "inspect --html OUT FILE": ("snapshots",),
    "inspect --root-table 0x1000 FILE": ("cores",),
    "replay-trace FILE --snapshot SNAPSHOT": ("traces", "parquets"),
    "replay-trace FILE --json --output OUT --snapshot SNAPSHOT": ("traces",),
    "reach FILE": ("snapshots", "snapshot folders"),
    "reach --json --stale FILE": ("snapshots",),
    "reach --html OUT FILE": ("snapshots",),
    "reach --never 0x1000-0x8fff --device 00:04.0 FILE": ("snapshots",),
    "reach --symbols FILE SNAPSHOT": ("kernels",),
    "reach --host TEXT SNAPSHOT": ("words",),
    "replay --python FILE": ("cases",),
    "quirks TEXT": ("words",),
    "quirks --version TEXT": ("words",),
}
"""Commands, and the ways whose inputs they get. FILE is the input, TEXT its text, the other capitals are files."""

NOT_FUZZED = {
    "fuzz": "runs QEMUs; its checkpoints are a way of their own",
    "conform": "reads only QEMU's answers and a file of its own cache",
    "vm": "starts a QEMU; its options and QEMU's answers are ways of their own",
    "qemu list": "reads no input",
    "qemu install": "reads Debian's package lists, which apt checks",
    "guest run": "starts a guest; what it reads from outside is QEMU's answers and the guest's console",
    "guest shell": "as guest run",
    "guest variants": "reads no input",
}
"""Commands that get no inputs of this fuzzer, and why."""


_make_app = cli.make_app


class Ended(Exception):
    """A command ended in a way in which none may."""


@cache
def _app() -> typer.Typer:
    return _make_app()


def run(words: Sequence[str]) -> tuple[int, str, str]:
    """Run `vtd` with these words: its exit status, standard output and standard error."""
    with ExitStack() as stack:
        streams = []
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            stack.enter_context(patch.object(sys, name, stream))
            streams.append(stream)
        stack.enter_context(patch.object(sys, "argv", ["vtd", *words]))
        stack.enter_context(patch.object(cli, "make_app", _app))
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        printed = []
        for stream in streams:
            stream.flush()
            printed.append(stream.buffer.getvalue().decode("utf-8"))
    return status, printed[0], printed[1]


def check(words: Sequence[str]) -> str:
    """Run a command: its error if it has one. Raises Ended for what none may do."""
    status, out, errors = run(words)
    if status not in (0, 1, 2):
        raise Ended(f"exit status {status}: {words}")
    if status == 2 and (not errors.strip() or "Traceback" in errors):
        raise Ended(f"no reason for status 2: {errors!r}")
    for text in (out, errors):
        for char in text:
            if not char.isprintable() and char != "\n":
                raise Ended(f"{char!r} is printed by {words}")
    if "--json" in words and status != 2:
        json.loads(out)
    return errors.strip() if status == 2 else ""


def _way(command: str, of: str) -> Way:
    inputs = next(way for way in readers.WAYS if way.name == of)

    def read(data: bytes, place: Path) -> None:
        places = {"FILE": str(place), "OUT": str(place.with_name("out")), "TEXT": data.decode("utf-8", "replace")}
        places["TEXT"] = places["TEXT"].replace("\0", "")
        for name, contents in _BESIDE.items():
            places[name] = str(place.with_name(name))
            if name in command:
                Path(places[name]).write_bytes(contents())
        if refused := check([places.get(word, word.replace("\xa0", " ")) for word in command.split(" ")]):
            raise VtdError(refused.splitlines()[-1])

    return Way(f"vtd {command} < {of}", inputs.seeds, inputs.change, read)


_BESIDE: dict[str, Callable[[], bytes]] = {
    "TABLE": lambda: readers.tables()[0],
    "PCI": lambda: readers.pci_trees()[0],
    "SNAPSHOT": lambda: readers.one_files()[0],
}

WAYS = tuple(_way(command, of) for command, names in COMMANDS.items() for of in names)
