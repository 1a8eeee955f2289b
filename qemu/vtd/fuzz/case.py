"""A case: what software and devices do on a fresh machine. It is a file, and a scenario that runs on any platform."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from iommu.errors import MisuseError
from iommu.files.documents import Reader, read_json, shown
from iommu.files.writing import write_file
from qemu.vtd.conformance import setups
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.conformance.setups import Setup
from qemu.vtd.fuzz.actions import Action, parse
from qemu.vtd.platform import Platform

FORMAT = "vtdlab fuzz case 1"
SETUPS: dict[str, Setup] = {
    name: each for name, each in vars(setups).items() if isinstance(each, Setup) and not each.needs
}
"""The setups a case can have, by the names of conformance/setups.py."""

QUEUE = 0x101000
"""Where the queue is, if the start turns it on: the first page that a bench gives away after the root table."""
INTERRUPTS = 0x101000
"""Where the interrupt-remapping table is, of 256 entries, if the start turns interrupt remapping on."""
ROOT = 0x100000
"""The root table."""
FREE = 0x110000
"""From here on, a case may use memory for its tables."""

Steps = tuple[tuple[str, ...], ...]
"""What was observed after each action; the last element holds the pending faults and FSTS at the end."""


def _legacy(bench: Bench) -> None:
    bench.turn_on()


def _legacy_queue(bench: Bench) -> None:
    bench.turn_on()
    bench.driver.start_queue(bench.new_table())


def _scalable(bench: Bench) -> None:
    bench.scalable.turn_on()


def _queue(bench: Bench) -> None:
    bench.driver.start_queue(bench.new_table())


def _wide_queue(bench: Bench) -> None:
    bench.driver.start_queue(bench.new_table(), wide=True)


def _interrupts(bench: Bench) -> None:
    bench.driver.set_interrupt_table(bench.new_table())
    bench.driver.enable_interrupts()


def _extended(bench: Bench) -> None:
    bench.driver.set_interrupt_table(bench.new_table(), extended=True)
    bench.driver.enable_interrupts()


_STARTS: dict[str, tuple[Callable[[Bench], None] | None, Sequence[str]]] = {
    "off": (None, ()),
    "legacy": (_legacy, ("bench.turn_on()",)),
    "legacy, queue": (_legacy_queue, ("bench.turn_on()", "bench.driver.start_queue(bench.new_table())")),
    "scalable": (_scalable, ("bench.scalable.turn_on()",)),
    "queue": (_queue, ("bench.driver.start_queue(bench.new_table())",)),
    "queue, wide": (_wide_queue, ("bench.driver.start_queue(bench.new_table(), wide=True)",)),
    "interrupts": (
        _interrupts,
        ("bench.driver.set_interrupt_table(bench.new_table())", "bench.driver.enable_interrupts()"),
    ),
    "interrupts, extended": (
        _extended,
        ("bench.driver.set_interrupt_table(bench.new_table(), extended=True)", "bench.driver.enable_interrupts()"),
    ),
}
STARTS = tuple(_STARTS)
"""What is turned on before the first action."""


@runtime_checkable
class Prepared(Protocol):
    """A platform that can be at a start already."""

    def prepare(self, start: str, bench: Bench) -> bool:
        """Get ready for a start, one of STARTS. Returns whether all of it is done; otherwise the case does it."""
        ...


@dataclass(frozen=True)
class Case:
    """Actions on a machine that was just reset.

    Attributes:
        setup: the name of the unit in conformance/setups.py.
        start: what is turned on first, one of STARTS. The root table is empty then.
        actions: what is done.
    """

    setup: str
    start: str
    actions: tuple[Action, ...]

    def perform(self, bench: Bench, *, marked: bool = False) -> None:
        """Do all of it. With `marked`, the log has a line between two actions."""
        turn_on, _ = _STARTS[self.start]
        platform = bench.platform
        if not (isinstance(platform, Prepared) and platform.prepare(self.start, bench)) and turn_on is not None:
            turn_on(bench)
        for action in self.actions:
            action.perform(bench)
            if marked:
                bench.note(_MARK)

    def scenario(self, id_: str = "fuzz.case", title: str = "", expect: tuple[str, ...] = ()) -> Scenario:
        """The same as a scenario of the catalogue."""
        return Scenario(id_, "", title, self.perform, expect, setup=SETUPS[self.setup])

    def observe(self, platform: Platform) -> tuple[Steps, Exception | None]:
        """What is observed on a platform, and what cut it short, if anything did. Raises Unreachable."""
        scenario = Scenario("fuzz.case", "", "", partial(self.perform, marked=True), (), setup=SETUPS[self.setup])
        seen = scenario.observe(platform)
        steps: list[tuple[str, ...]] = []
        step: list[str] = []
        for line in seen.lines:
            if line == _MARK:
                steps.append(tuple(step))
                step = []
            else:
                step.append(line)
        return (*steps, tuple(step)), seen.cause

    def python(self, expect: Sequence[str], title: str = "", section: str = "") -> str:
        """A scenario that can be pasted into a chapter of the catalogue."""
        lines = [f'@scenario("fuzz.name-it", "{section}", *{_tuple(expect)}, setup=setups.{self.setup})']
        lines += ["def name_it(bench: Bench) -> None:", f'    """{title or "Found by vtd fuzz."}"""']
        lines += [f"    {line}" for line in _STARTS[self.start][1]]
        lines += [f"    {action.python()}" for action in self.actions]
        return "\n".join(lines) + "\n"

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {"setup": self.setup, "start": self.start, "actions": [action.plain() for action in self.actions]}

    @classmethod
    def parse(cls, reader: Reader) -> Case:
        """From a file. Raises MisuseError that names the place."""
        setup, start = reader.text("setup"), reader.text("start")
        if setup not in SETUPS:
            raise MisuseError(f"{reader.where}.setup: {shown(setup)} is not a kind of unit")
        if start not in STARTS:
            raise MisuseError(f"{reader.where}.start: {shown(start)} is not one of {', '.join(map(repr, STARTS))}")
        actions = reader.list("actions")
        where = f"{reader.where}.actions"
        return cls(setup, start, tuple(parse(each, f"{where}[{number}]") for number, each in enumerate(actions)))


_MARK = "--"


def flat(steps: Steps) -> tuple[str, ...]:
    """The lines of all steps, as a scenario has them."""
    return tuple(line for step in steps for line in step)


@dataclass(frozen=True)
class Found:
    """A case on which a QEMU differed, with both outcomes.

    Attributes:
        case: the case.
        qemu: the version that differed.
        expected: what the model with that version's quirks does.
        seen: what that QEMU did.
        origin: where it comes from: "seed 7, legacy, case 1234".
        trace: what QEMU's vtd_* trace events said, when the case was run again with them on.
    """

    case: Case
    qemu: str
    expected: Steps
    seen: Steps
    origin: str = ""
    trace: tuple[str, ...] = field(default=(), compare=False)

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {
            "format": FORMAT,
            "qemu": self.qemu,
            "origin": self.origin,
            **self.case.plain(),
            "expected": self.expected,
            "seen": self.seen,
            "trace": self.trace,
        }

    @classmethod
    def parse(cls, plain: Any, where: str) -> Found:
        """From a file, whose name is `where`. Raises MisuseError."""
        reader = Reader(plain, where, {*cls._KEYS})
        if reader.text("format") != FORMAT:
            raise MisuseError(f"{where}.format: {shown(reader.text('format'))} is not {FORMAT!r}")
        expected, seen = (_steps(reader, key) for key in ("expected", "seen"))
        trace = _lines(reader.list("trace"), f"{where}.trace")
        return cls(Case.parse(reader), reader.text("qemu"), expected, seen, reader.text("origin"), trace)

    _KEYS = ("format", "qemu", "origin", "setup", "start", "actions", "expected", "seen", "trace")


def read_found(path: Path) -> Found:
    """A case from a file. Raises InputError or MisuseError, which name the file and the place in it."""
    return Found.parse(read_json(path), str(path))


def write_found(path: Path, found: Found) -> None:
    """Write a case to a file. Raises OSError."""
    write_file(path, (json.dumps(found.plain(), indent=1) + "\n").encode())


def _steps(reader: Reader, key: str) -> Steps:
    return tuple(_lines(each, f"{reader.where}.{key}[{number}]") for number, each in enumerate(reader.list(key)))


def _lines(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise MisuseError(f"{where}: {shown(value)} is not a list of texts")
    return tuple(value)


def _tuple(lines: Sequence[str]) -> str:
    return "(" + "".join(f"\n    {line!r}," for line in lines) + "\n)"
