"""The recording of a scenario: it changes nothing, leaves nothing out, and says it in the words of the field."""

from __future__ import annotations

import pytest

from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.conformance.stimulus.events import RecordingPlatform, Requested, record
from qemu.vtd.conformance.stimulus.walk import Box, walk_of
from qemu.vtd.conformance.stimulus.words import Step, steps_of
from qemu.vtd.platform import Platform


def by_id(id_: str) -> Scenario:
    return next(scenario for scenario in catalogue() if scenario.id == id_)


def steps(id_: str, kind: str) -> list[Step]:
    return [step for step in steps_of(record(by_id(id_))) if step.kind == kind]


def walk(id_: str, number: int) -> list[Box]:
    event = steps(id_, "device")[number].event
    assert event is not None
    return walk_of(event)


@pytest.mark.parametrize("scenario", catalogue(), ids=lambda scenario: scenario.id)
def test_recording_changes_no_outcome_and_every_dma_is_a_step(scenario: Scenario) -> None:
    recording = record(scenario)
    assert recording.lines == scenario.expect
    found = steps_of(recording)
    assert found
    senders = {*scenario.setup.topology.source_ids, "pin"}
    lines = [line for line in scenario.expect if " -> " in line and line.split()[0] in senders]
    assert len([step for step in found if step.kind == "device"]) >= len(lines)


def test_every_method_of_a_platform_is_recorded() -> None:
    """A platform that gets another method needs it in stimulus/events.py too."""
    methods = {name for name, value in vars(Platform).items() if callable(value) and not name.startswith("_")}
    assert methods <= set(vars(RecordingPlatform))


def test_entries_are_named_with_their_fields() -> None:
    found = [(step.text, step.detail, step.where) for step in steps("cache.iotlb.write-after-read", "memory")]
    assert found[-3:] == [
        ("second-stage entry, level 1, 0x5000", "R=1 ADDR=0x800000", 0x104028),
        ("root entry, bus 0x00", "P=1 CTP=0x105000", 0x100000),
        ("context entry, 00:04.0", "P=1 SSPTPTR=0x101000 AW=2 DID=1", 0x105200),
    ]


def test_registers_are_named_with_their_fields() -> None:
    found = [(step.text, step.detail) for step in steps("cache.iotlb.write-after-read", "register")]
    assert ("write RTADDR 0x100000", "RTA=0x100000") in found
    assert ("write GCMD 0x80000000", "TE=1") in found
    assert ("write IOTLB 0x9003000000000000", "DW=1 DR=1 IIRG=GLOBAL IVT=1") in found


def test_a_change_says_what_was_there_before() -> None:
    found = [step.detail for step in steps("legacy.fpd.0c", "memory")]
    assert "SNP=1 (was 0)" in found


def test_descriptors_and_interrupt_entries_are_named() -> None:
    (descriptor,) = steps("queue.wait.status", "memory")
    assert descriptor.text == "descriptor, at offset 0x0"
    assert descriptor.detail == "TYPE=WAIT SW=1 STDATA=0x5a17c0de STADDR=0x2f0000"
    (entry,) = steps("ir.source.bus", "memory")
    assert entry.text == "interrupt-remapping entry, index 0x1"
    assert "SVT=BUS" in entry.detail


def test_reserved_bits_are_shown() -> None:
    assert any("reserved 0x" in step.detail for step in steps("legacy.context.not-present-rest-ignored", "memory"))
    eighth = [step.detail for step in steps("scalable.reserved.pasid-entry.eighth", "memory")]
    assert "reserved bit 448 (was 0)" in eighth
    assert "reserved bit 511 (was 0)" in eighth


def test_what_the_bench_prepares_is_no_step() -> None:
    texts = [step.text for step in steps_of(record(by_id("registers.translation.never-on")))]
    assert texts[0] == "A (00:04.0) writes 4 bytes at 0x800010"


def test_a_walk_has_every_level_and_arrives() -> None:
    boxes = walk("cache.iotlb.write-after-read", 0)
    assert [box.title for box in boxes] == [
        "request",
        "root entry",
        "context entry",
        *(f"second-stage entry, level {level}" for level in (4, 3, 2, 1)),
        "host 0x800010",
    ]
    assert boxes[-2].where == "entry 0x5, at 0x104028"
    assert [box.state for box in boxes] == [*["passed"] * 7, "arrived"]


def test_a_walk_says_where_it_stopped() -> None:
    *_, iotlb, end = walk("cache.iotlb.write-after-read", 1)
    assert (iotlb.title, iotlb.where, iotlb.state) == ("IOTLB", "cached", "stopped")
    assert end.title == "blocked"
    assert end.where == "fault 0x05"


def test_an_interrupt_has_its_entry_and_its_end() -> None:
    request, entry, end = walk("ir.source.bus-beyond", 0)
    assert request.note == "remappable format"
    assert (entry.where, entry.state) == ("index 0x1", "stopped")
    assert end.where == "fault 0x26"


def test_a_blocked_request_has_a_stop_in_every_scenario() -> None:
    for scenario in catalogue():
        for event in record(scenario).events:
            if isinstance(event, Requested) and event.outcome.fault is not None:
                assert [box.state for box in walk_of(event)].count("stopped") == 2, scenario.id
