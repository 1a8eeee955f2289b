"""The fast lane in a campaign: its batches count, and what differs there becomes a case of the slow lane."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu.vtd.errors import QemuDied
from qemu.vtd.fuzz import campaign as campaigns
from qemu.vtd.fuzz.campaign import Campaign, streams
from qemu.vtd.fuzz.case import Case
from qemu.vtd.fuzz.fast import Fast
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lane.lane import FastLane
from qemu.vtd.fuzz.lane.result import BatchResult, Difference
from qemu.vtd.fuzz.lanes import Batch
from qemu.vtd.probe import Build
from qemu.vtd.quirks import quirks_of, unit_with
from tests.qemu_vtd.remains import nothing_remains

BATCH = Batch(1, "legacy", 3, range(3000, 3100), "WIDE")
# B has no root entry: the unit blocks its write with fault 0x01.
ACTIONS = (
    ("poke", 0x20, 0x100000, 8),
    ("poke", 0x18, 0xC000_0000, 4),
    ("dma", "B", "read", 0x5000),
    ("dma", "B", "write", 0x5000),
    ("faults",),
)


def test_a_campaign_in_both_lanes(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "_FEW", 8)
    slow, fast = streams([build.path], ["legacy"], 1000, 1, pytest.fail)
    assert (slow.cases, fast.cases) == (8, 992)
    with nothing_remains():
        Campaign([slow, fast], tmp_path, 2).run()
    assert slow.done + slow.left_out == 8
    assert fast.done > 900
    assert "0x05" in fast.learning.reached
    assert slow.groups == fast.groups == {}


def _seen(monkeypatch: pytest.MonkeyPatch, *differences: Difference) -> None:
    monkeypatch.setattr(
        FastLane, "run", lambda lane, number, cases: BatchResult(cases, differences=list(differences))
    )


def test_a_difference_is_repeated_in_the_slow_lane(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the model lacks a quirk, by which 7.2 and 10.0 write PV; without such a quirk nothing differs."""
    _seen(monkeypatch, Difference("legacy", 1, 3, 7, "record", "one", "another", ACTIONS))
    lane = Fast(build.path, unit_with([each for each in quirks_of(build.version) if each.id != "Q08"]))
    try:
        result = lane.run(BATCH)
    finally:
        lane.close()
    ((number, (like, found)),) = result.differences.items()
    assert number == 3007
    assert found.case.setup == "WIDE"
    assert [action.name for action in found.case.actions] == ["poke", "poke", "dma", "faults"]
    assert found.origin == "seed 1, legacy, batch 3, case 7 of the fast lane"
    assert found.expected != found.seen
    # What cannot be repeated is not dropped.
    assert like == Likeness("fast lane", "record", "", "") or like.kind == "faults"


def test_more_than_a_few_are_counted(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    _seen(monkeypatch, *(Difference("legacy", 1, 3, n, "record", "one", "another") for n in range(50)))
    lane = Fast(build.path)
    try:
        result = lane.run(BATCH)
    finally:
        lane.close()
    assert len(result.differences) == 20
    assert result.further == 30
    assert {found.case for _, found in result.differences.values()} == {Case("WIDE", "off", ())}


def test_a_batch_that_ends_qemu_is_a_difference(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def run(lane: FastLane, number: int, cases: int) -> BatchResult:
        tried.append(number)
        raise QemuDied(-11)

    monkeypatch.setattr(FastLane, "run", run)
    lane = Fast(build.path)
    try:
        with nothing_remains():
            result = lane.run(BATCH)
            lane.close()
    finally:
        lane.close()
    assert tried == [3, 3]
    ((like, found),) = result.differences.values()
    assert (like.kind, like.seen) == ("end of QEMU", "cut short: QEMU ended by SIGSEGV")
    assert "batch 3 of the fast lane" in found.origin
