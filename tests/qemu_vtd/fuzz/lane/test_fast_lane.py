"""The fast lane: batches agree on every QEMU, whatever is wrong is noticed, and nothing is left behind."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from iommu.errors import MisuseError
from iommu.registers import FRCD
from qemu.vtd import quirks
from qemu.vtd.agent import Op
from qemu.vtd.errors import PropertyMissing, QemuDied, QemuTimeout
from qemu.vtd.fuzz.lane.areas import DATA, MAILBOX, OWN, SCRIPT, SIZE, TABLES
from qemu.vtd.fuzz.lane.batch import Side
from qemu.vtd.fuzz.lane.effects import Writes
from qemu.vtd.fuzz.lane.lane import FastLane
from qemu.vtd.fuzz.lane.modes import MODES
from qemu.vtd.fuzz.lane.predictor import Expected, Predictor
from qemu.vtd.fuzz.lane.steps import Steps
from qemu.vtd.fuzz.lane.worlds import Worlds
from qemu.vtd.probe import Build
from tests.qemu_vtd import remains
from tests.qemu_vtd.suites import SUITES, qemu_of

CASES = 512


@pytest.fixture(scope="module")
def running(build: Build) -> Iterator[FastLane]:
    with FastLane(build.path, "legacy", 3) as lane:
        yield lane


REACHED = {
    "legacy": {1, 2, 3, 4, 5, 6, 7, 9, 0xA, 0xB, 0xC},
    "legacy-on-scalable": {1, 2, 3, 4, 5, 6, 7, 9, 0xA, 0xB, 0xC},
    "second": {1, 2, 3, 4, 5, 6, 7, 8, 9, 0xA, 0xB, 0xC, 0x58},
    "first": {1, 2, 8, 9, 0xA, 0xB, 0x50, 0x51, 0x58, 0x5B, 0x70, 0x71, 0x72, 0x73, 0x80, 0x81, 0x85},
}
"""The fault codes that a few thousand cases are sure to have recorded."""


@pytest.mark.parametrize("mode", REACHED)
@pytest.mark.parametrize("suite", ["", *SUITES])
def test_batches_agree_on_every_qemu(build: Build, suite: str, mode: str) -> None:
    """Of every kind: cases that share a root table, and such as have their own."""
    try:
        lane = FastLane(qemu_of(suite) if suite else build.path, mode, 1)
    except PropertyMissing as error:
        pytest.skip(str(error))
    with lane:
        results = [lane.run(number, 1024) for number in range(4)]
    assert [str(each) for result in results for each in result.differences] == []
    assert set().union(*(result.recorded for result in results)) >= REACHED[mode]
    assert sum(result.cases for result in results) > 4000
    # What the batch engine cannot follow is rare.
    assert sum(result.left_to_scalar for result in results) < 80


@pytest.mark.parametrize("suite", ["", *SUITES])
def test_batches_agree_on_units_that_offer_more_or_less(build: Build, suite: str) -> None:
    cases = 0
    for mode in MODES.keys() - REACHED.keys():
        try:
            lane = FastLane(qemu_of(suite) if suite else build.path, mode, 1)
        except PropertyMissing:
            continue
        with lane:
            result = lane.run(3, 512)
        assert [str(each) for each in result.differences] == []
        cases += result.cases
    assert cases > (2000 if not suite else 5000)


def test_bits_that_the_unit_sets_in_the_tables_of_another_case_are_expected() -> None:
    """In case 408 an entry of another world, in which A is clear, maps the page."""
    with FastLane(qemu_of("sid"), "first", 2006) as lane:
        assert lane.run(99).differences == []


def test_the_same_numbers_make_the_same_batch(running: FastLane) -> None:
    first = [running.run(number, CASES) for number in (5, 6, 7)]
    again = [running.run(number, CASES) for number in (7, 5, 6)]
    for one, other in zip(first, [again[1], again[2], again[0]], strict=True):
        assert (one.reasons, one.recorded, one.quirks) == (other.reasons, other.recorded, other.quirks)
        assert not one.differences and not other.differences
    assert first[0].reasons != first[1].reasons


def test_a_prediction_of_another_fault_is_noticed(running: FastLane, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Predictor.expect

    def wrong(predictor: Predictor, worlds: Worlds) -> Expected:
        expected = right(predictor, worlds)
        case = int(np.flatnonzero(expected.records.high)[7])
        expected.records.high[case] ^= np.uint64(FRCD.FR.mask >> 64 & FRCD.make(FR=1) >> 64)
        return expected

    monkeypatch.setattr(Predictor, "expect", wrong)
    (found,) = running.run(20, CASES).differences
    assert found.what == "batch engine"
    assert found.expected.startswith("fault") and found.seen.startswith("fault")


def test_a_prediction_of_another_place_is_noticed(running: FastLane, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Predictor.expect

    def wrong(predictor: Predictor, worlds: Worlds) -> Expected:
        expected = right(predictor, worlds)
        case = int(np.flatnonzero(expected.writes.there)[7])
        expected.writes.hosts[case] ^= np.uint64(0x1000)
        return expected

    monkeypatch.setattr(Predictor, "expect", wrong)
    (found,) = running.run(24, CASES).differences
    assert found.what == "batch engine"


def test_a_wrong_byte_is_noticed(running: FastLane, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Writes.apply

    def wrong(writes: Writes, image: object, first: int, last: int) -> None:
        right(writes, image, first, last)  # type: ignore[arg-type]
        row = int(np.flatnonzero(writes.there & ~writes.inverts)[3])
        if first <= row < last:
            image.memory.write(int(writes.hosts[row]), b"\x97")  # type: ignore[attr-defined]

    monkeypatch.setattr(Writes, "apply", wrong)
    (found,) = running.run(28, CASES).differences
    assert found.what == "batch engine"
    assert "96969696 written" in found.expected and "97969696 written" in found.seen
    assert list(found.actions[-3])[:3] == ["dma", "B", "write"]


@pytest.mark.parametrize(
    "address",
    [0x5008, TABLES + 0x1008, TABLES + SIZE + 0x10, DATA + 0x3000, DATA + SIZE - 8, OWN + SIZE, MAILBOX + 0x100,
     SCRIPT + 0x100, OWN + SIZE - 8],
    ids=hex,
)  # fmt: skip
def test_a_stray_write_is_noticed_anywhere(running: FastLane, monkeypatch: pytest.MonkeyPatch, address: int) -> None:
    wait = running._agent.wait

    def wait_and_spoil(what: str) -> None:
        wait(what)
        running.machine.memory.write_u64(address, running.machine.memory.read_u64(address) ^ 0x40)

    monkeypatch.setattr(running._agent, "wait", wait_and_spoil)
    found = running.run(32, CASES).differences
    assert [each.what for each in found] in (["stray write"], ["data"])
    monkeypatch.undo()
    assert not running.run(33, CASES).differences


def test_the_case_that_makes_a_stray_write_is_found(running: FastLane, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the QEMU wrote elsewhere in case 77, in memory that nothing uses."""
    fill, address = Steps.fill, TABLES + SIZE + 0x5008

    def wrong(steps: Steps, worlds: Worlds, alive: NDArray[np.bool_], *, shared_root: bool) -> None:
        fill(steps, worlds, alive, shared_root=shared_root)
        steps._cases[77, 3] = (Op.WRITE_32, address, 1)

    monkeypatch.setattr(Steps, "fill", wrong)
    (found,) = running.run(36, CASES).differences
    assert (found.what, found.case) == ("stray write", 77)
    assert found.seen == f"{address:#x}: 0x0000000000000001"
    assert found.actions
    monkeypatch.undo()
    for side in running._sides:
        side._steps = None
    assert not running.run(40, CASES).differences


def test_without_a_quirk_its_cases_differ(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q02: an entry of all ones. The other quirks still explain what they explain."""
    kept = tuple(each for each in quirks.QUIRKS if each.id != "Q02")
    monkeypatch.setattr(quirks, "QUIRKS", kept)
    with FastLane(build.path, "legacy", 1) as lane:
        result = lane.run(0, 2048)
    assert {each.what for each in result.differences} == {"record"}
    assert all("fault 0xc" in each.expected for each in result.differences)
    assert all("fault 0x7" in each.seen or "fault 0x3" in each.seen for each in result.differences)


def in_the_middle(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Do something while the QEMU runs a batch."""
    make = Side.make

    def act_and_make(side: Side, number: int, cases: int) -> object:
        action()
        return make(side, number, cases)

    monkeypatch.setattr(Side, "make", act_and_make)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_a_qemu_that_ends_in_the_middle_is_one_error(
    build: Build, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before, files = remains.children(), remains.open_files()

    def run() -> None:
        with FastLane(build.path, "legacy", 1, timeout=1.0) as lane:
            lane.run(0, 2048)
            in_the_middle(monkeypatch, lambda: os.kill(lane.machine.pid, number))
            with pytest.raises(QemuDied if number == signal.SIGKILL else QemuTimeout):
                # On a busy machine a batch may be over before the signal comes: then the next one is tried.
                for batch in range(1, 20):
                    lane.run(batch, 2048)
                    with suppress(ProcessLookupError):
                        os.kill(lane.machine.pid, signal.SIGCONT)

    run()
    assert remains.children() <= before
    assert remains.open_files() == files


def test_what_is_no_batch_is_refused(running: FastLane) -> None:
    for number, cases in ((0, -1), (0, 100_000), (-1, 10)):
        with pytest.raises(MisuseError, match=f"not {cases} and {number}"):
            running.run(number, cases)
    with pytest.raises(MisuseError, match="no mode 'fast'; it has legacy, second, first"):
        FastLane(mode="fast")
