"""The batch translator in single cases: what surrounds the walks, and what it needs of a unit and its memory."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from iommu import FlatMemory, MisuseError, Policy, ProcessorCache, RemappingUnit
from iommu.batch import NO_ADDRESS, BatchTranslator
from iommu.engine.caches.tables import SecondStageRoot
from iommu.engine.formats import Formats
from iommu.engine.translation.second_stage import SecondStage
from iommu.snapshot import Snapshot
from iommu.snapshot.memory import PiecewiseMemory
from tests.batch import examples, test_legacy, test_scalable
from tests.batch.comparing import Asked, batch, compare, started
from tests.engine.breaks import BREAKS, INTERRUPTS, LEGACY, Break
from tests.engine.scalable_world import ADDRESS, ALL1, HOST, USER, P, first_stage, pass_through, second_stage
from tests.engine.world import DISK, GCMD, NIC, RW, World, mapped

PMEN, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT = 0x64, 0x68, 0x6C, 0x70, 0x78
IRE, SIRTP, IRTA, TE = 1 << 25, 1 << 24, 0xB8, 1 << 31
BLOCKED = NO_ADDRESS, 0
FIXTURES = Path(__file__).parents[2] / "fixtures" / "snapshots"
READ_ONLY = HOST | P | USER


def one(
    world: World, address: int, *, write: bool = True, source_id: int = NIC, pasid: int | None = None
) -> tuple[int, int]:
    """Host address and reason of one request."""
    return batch(world.unit, [Asked(source_id, address, write, pasid)])[0]


def test_a_page() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    assert one(world, 0x5123) == (0x9123, 0)
    assert one(world, 0x6000) == (NO_ADDRESS, 0x05)
    assert one(world, 0x6000, write=False) == (NO_ADDRESS, 0x06)
    assert one(world, 0x5000, source_id=DISK) == (NO_ADDRESS, 0x02)
    assert one(world, 0x5000, source_id=0x1234) == (NO_ADDRESS, 0x01)
    assert one(world, 0x5000, pasid=3) == (NO_ADDRESS, 0x31)


def test_nothing_is_asked() -> None:
    hosts, reasons = BatchTranslator(mapped().unit).translate([], [], [])
    assert (str(hosts.dtype), str(reasons.dtype), len(hosts), len(reasons)) == ("uint64", "uint8", 0, 0)


def test_memory_is_read_as_it_is_at_each_call() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    translator = BatchTranslator(world.unit)
    assert translator.translate([NIC], [0x5000], [True])[0][0] == 0x9000
    world.unit.translate(Asked(NIC, 0x5000, True).request())
    world.map(world.device(), 4, 0x5000, 0xA000 | RW)
    assert translator.translate([NIC], [0x5000], [True])[0][0] == 0xA000, "the unit itself still has the old page"


def test_the_registers_are_those_of_the_moment() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    translator = BatchTranslator(world.unit)
    world.unit.reset()
    assert translator.translate([NIC], [0x7000], [True])[0][0] == 0x7000, "translation is off"
    world.start()
    assert translator.translate([NIC], [0x5000], [True])[0][0] == 0x9000


def test_the_memory_can_be_released() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    translator = BatchTranslator(world.unit)
    translator.translate([NIC], [0x5000], [True])
    world.memory.release()


def test_a_request_with_its_own_root() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    world.memory.write(0xE0_0000, world.memory.read(world.root, 0x1000))
    world.put(0xE0_0000 + 16, 0)
    hosts, reasons = BatchTranslator(world.unit).translate(
        [NIC] * 3, [0x5000] * 3, [True] * 3, roots=[world.root, 0xE0_1000, 1 << 10]
    )
    assert (hosts.tolist(), reasons.tolist()) == ([0x9000, NO_ADDRESS, NO_ADDRESS], [0, 0x01, 0x30])


@pytest.mark.parametrize("protect", [True, False])
def test_protected_memory(protect: bool) -> None:
    world = mapped(0x5000, 0x30_0000 | RW, policy=Policy(protect_remapped=protect), protected_low=True)
    world.write(PLMBASE, 0x30_0000)
    world.write(PLMLIMIT, 0x30_0000)
    world.write(PMEN, 1 << 31)
    assert one(world, 0x5000) == (BLOCKED if protect else (0x30_0000, 0))
    world.write(GCMD, 0)
    assert (one(world, 0x30_0000), one(world, 0x2F_FFFF)) == (BLOCKED, (0x2F_FFFF, 0))


def test_identity_is_protected_below_version_2() -> None:
    """A policy that leaves remapped requests alone: an identity mapping does not count as one."""
    world = mapped(0x30_0000, 0x30_0000 | RW, policy=Policy(protect_remapped=False), protected_low=True)
    world.write(PLMBASE, 0x30_0000)
    world.write(PLMLIMIT, 0x30_0000)
    world.write(PMEN, 1 << 31)
    assert one(world, 0x30_0000) == BLOCKED


def test_the_interrupt_range() -> None:
    world = mapped(0xFEE0_0000, 0x9000 | RW, interrupt_remapping=True, queued_invalidation=True)
    assert (one(world, 0xFEE0_0000), one(world, 0xFEEF_FFFF, write=False)) == (BLOCKED, BLOCKED)
    world.write(IRTA, 0x8000, 8)
    world.write(GCMD, TE | SIRTP)
    world.write(GCMD, TE | IRE)
    assert one(world, 0xFEE0_0000) == (NO_ADDRESS, 0x29)
    world.write(GCMD, 0)
    assert (one(world, 0xFEE0_0000), one(world, 0xFEE0_0000, pasid=1)) == (BLOCKED, BLOCKED)


def test_a_request_with_a_pasid_is_translated_in_the_interrupt_range() -> None:
    world = pass_through(pasid=5)
    assert one(world, 0xFEE0_0000, pasid=5) == (NO_ADDRESS, 0x87)
    assert one(world, 0xFEF0_0000, pasid=5) == (0xFEF0_0000, 0)


@pytest.mark.parametrize(("wpe", "expected"), [(0, (HOST, 0)), (1, (NO_ADDRESS, 0x85))])
def test_supervisors_write_read_only_pages_without_wpe(wpe: int, expected: tuple[int, int]) -> None:
    world = first_stage(READ_ONLY, context={"rid_priv": 1}, pasid_entry={"wpe": wpe})
    assert one(world, ADDRESS) == expected
    assert one(world, ADDRESS, write=False) == (HOST, 0)


def test_supervisors_need_no_user_page() -> None:
    world = first_stage(HOST | P, context={"rid_priv": 1})
    assert one(world, ADDRESS, write=False) == (HOST, 0)
    assert one(first_stage(HOST | P), ADDRESS, write=False) == (NO_ADDRESS, 0x81)


def test_supervisors_are_refused_without_sre() -> None:
    assert one(first_stage(HOST | ALL1, context={"rid_priv": 1}, pasid_entry={"sre": 0}), ADDRESS) == (
        NO_ADDRESS,
        0x5D,
    )


def test_lines_in_processor_caches_are_seen_only_by_walks_that_snoop() -> None:
    for coherent, expected in ((True, 0x9000), (False, 0xB000)):
        world = mapped(0x5000, 0xB000 | RW)
        cached = ProcessorCache(world.memory)
        places = world.map(world.device(), 4, 0x5000, 0xB000 | RW)
        cached.write_u64(places[1], 0x9000 | RW)
        changed = {name: getattr(world.capabilities, name) for name in ("address_width",)}
        unit = started(RemappingUnit(cached, type(world.capabilities)(coherent=coherent, **changed)), world.root)
        assert batch(unit, [Asked(NIC, 0x5000, True)]) == [(expected, 0)]


def test_memory_in_pieces() -> None:
    world = second_stage()
    whole = world.memory.read(0, world.memory.size)
    pieces = PiecewiseMemory([(0, bytearray(whole[:0x5800])), (0x5800, bytearray(whole[0x5800:0x9000]))])
    asked = [Asked(NIC, address, False) for address in (ADDRESS, ADDRESS + 0x1000, 0)]
    compare(lambda memory: started(RemappingUnit(memory, world.capabilities), world.root | 1 << 10), pieces, asked)


@pytest.mark.parametrize("name", ["careless.vtd", "running.zip", "read-only.zip"])
def test_memory_of_a_snapshot(name: str) -> None:
    """In pages that are unpacked when they are read, or in a mapped file."""
    found = Snapshot.open(FIXTURES / name).units[0]
    asked = [
        Asked(source, address, write)
        for source in range(0x18, 0x40)
        for address in (0, 0x5000, 0x10_0000, 0x10_1FFF, 0x100_0000, 0xFEE0_0000)
        for write in (False, True)
    ]
    outcomes = batch(found.unit_without_caches(), asked)
    unit = found.unit_without_caches()
    for each, (host, reason) in zip(asked, outcomes, strict=True):
        unit.caches.invalidate_dma()
        outcome = unit.translate(each.request())
        expected = (NO_ADDRESS if outcome.host_address is None else outcome.host_address, int(outcome.fault or 0))
        assert (host, reason) == expected, each
    assert any(host != NO_ADDRESS for host, _ in outcomes)


OWN_RULES = [each for each in BREAKS.values() if each.mode != INTERRUPTS]


def check_own_rules(broken: type[Break], examples_tried: int, patch: pytest.MonkeyPatch) -> None:
    """A unit with a rule of tests/engine/breaks.py as its Formats."""
    patch.setattr(RemappingUnit, "Formats", broken)
    pick = Random(1)
    legacy = broken.mode == LEGACY
    make, check = (examples.legacy, test_legacy.check) if legacy else (examples.scalable, test_scalable.check)
    for _ in range(examples_tried):
        check(**make(pick))


@pytest.mark.parametrize("broken", OWN_RULES, ids=lambda it: it.__name__)
def test_a_unit_with_its_own_rules_is_followed(broken: type[Break], monkeypatch: pytest.MonkeyPatch) -> None:
    check_own_rules(broken, 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("broken", OWN_RULES, ids=lambda it: it.__name__)
def test_a_unit_with_its_own_rules_is_followed_at_length(
    broken: type[Break], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many examples show nearly every rule: with the specification's Formats instead, all but three would fail."""
    check_own_rules(broken, 15, monkeypatch)


def test_a_unit_with_a_low_bit_of_an_address_reserved_is_followed() -> None:
    class Odd(Formats):
        def reserved_in_context(self, entry: int) -> int:
            return super().reserved_in_context(entry) | 0x4000

    class OddUnit(RemappingUnit):
        Formats = Odd

    world = World()
    tops = [world.device(source_id) for source_id in (NIC, DISK)]
    assert [top & 0x4000 for top in tops] == [0, 0x4000], "one of them breaks the rule"
    unit = started(OddUnit(world.memory, world.capabilities), world.root)
    assert [reason for _, reason in batch(unit, [Asked(NIC, 0, True), Asked(DISK, 0, True)])] == [0x05, 0x0B]


def test_what_is_not_followed_is_refused() -> None:
    class Otherwise(SecondStage):
        def address_bits(self, tables: SecondStageRoot) -> int:
            return 20

    class Unit(RemappingUnit):
        SecondStage = Otherwise

    with pytest.raises(MisuseError, match=r"Unit has its own SecondStage.address_bits, which batches do not follow"):
        BatchTranslator(Unit(FlatMemory(0x1000)))
