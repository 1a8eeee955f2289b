"""Every lint rule has a made-up table that triggers it, at the right byte, and a near miss that does not."""

import time

import pytest

from iommu.dmar import Dmar
from iommu.dmar.lint import RULES
from iommu.dmar.verdicts import Effect, verdicts
from tests.dmar.hand import TABLES, andd, atsr, drhd, needs_corpus, rhsa, rmrr, satc, scope, sidp, structure, table

IOAPIC = scope(3, 0xF0, (31, 0), number=2)
HPET = scope(4, 0xF0, (15, 0))
GPU = scope(1, 0, (2, 0))
USB = scope(1, 0, (20, 0))
PORT = scope(2, 0, (28, 0))
UNIT = drhd(0xFED90000, IOAPIC, HPET, flags=1)
UNIT_SIZE = len(UNIT)
AFTER = 48 + UNIT_SIZE  # offset of a structure after UNIT


def after(*structures: bytes, **header: int) -> bytes:
    """A table of UNIT and these."""
    return table(UNIT, *structures, **header)  # type: ignore[arg-type]


def with_checksum(value: int) -> bytes:
    data = table(UNIT)
    return data[:9] + bytes([value]) + data[10:]


RIGHT = table(UNIT)[9]
NS = scope(5, 0, (30, 3), number=1)
PATH = b"\\_SB.PCI0.I2C0\0"

# rule: (table that triggers it, offset of its first finding, near miss)
CASES: dict[str, tuple[bytes, int, bytes]] = {
    "header.checksum": (with_checksum(RIGHT ^ 1), 9, table(UNIT)),
    "table.damaged": (table(drhd(0xFED90000, flags=1, length=17)), 50, table(drhd(0xFED90000, flags=1, length=16))),
    "header.revision": (table(UNIT, revision=2), 8, table(UNIT)),
    "header.width": (table(UNIT, width=53), 36, table(UNIT, width=52)),
    "header.reserved": (table(UNIT, flags=0x11), 37, table(UNIT, flags=0xF)),
    "header.x2apic-without-remapping": (table(UNIT, flags=2), 37, table(UNIT, flags=3)),
    "header.dma-remap-opt-out": (table(UNIT, flags=9), 37, table(UNIT, flags=7)),
    "table.no-units": (table(rmrr(0x100000, 0x100FFF, GPU)), 48, table(UNIT)),
    "structure.unknown-type": (after(structure(7, b"")), AFTER, after(sidp(GPU))),
    "structure.order": (
        table(rmrr(0x100000, 0x100FFF, GPU), UNIT),
        48 + 32,
        after(rmrr(0x100000, 0x100FFF, GPU), rmrr(0x200000, 0x200FFF, GPU), rhsa(0xFED90000, 0)),
    ),
    "structure.reserved": (table(drhd(0xFED90000, flags=3)), 52, table(drhd(0xFED90000, flags=1, size=0xF))),
    "andd.unterminated": (after(andd(1, PATH[:-1])), AFTER + 8, after(andd(1, PATH))),
    "andd.name": (after(andd(1, PATH[1:])), AFTER + 8, after(andd(1, PATH))),
    "andd.padding": (after(andd(1, PATH + b"\0x")), AFTER + 8 + 14, after(andd(1, PATH + b"\0\0"))),
    "drhd.base-zero": (table(drhd(0, flags=1)), 56, table(drhd(0x1000, flags=1))),
    "drhd.base-misaligned": (table(drhd(0xFED90800, flags=1)), 56, table(drhd(0xFED91000, flags=1))),
    "drhd.size-misaligned": (table(drhd(0xFED91000, size=1)), 56, table(drhd(0xFED92000, size=1))),
    "drhd.base-duplicate": (table(drhd(0x1000, GPU), drhd(0x1000)), 48 + 24 + 8, table(drhd(0x1000), drhd(0x2000))),
    "drhd.overlap": (table(drhd(0x10000, size=2), drhd(0x13000)), 72, table(drhd(0x10000, size=2), drhd(0x14000))),
    "drhd.beyond-width": (
        table(drhd(1 << 39, flags=1), width=39),
        56,
        table(drhd((1 << 39) - 0x1000, flags=1), width=39),
    ),
    "drhd.covers-nothing": (table(drhd(0x1000)), 48, table(drhd(0x1000, GPU))),
    "include-all.missing": (
        table(UNIT, drhd(0x1000, GPU, segment=1)),
        AFTER,
        table(UNIT, drhd(0x1000, flags=1, segment=1)),
    ),
    "include-all.repeated": (after(drhd(0x1000, flags=1)), AFTER + 4, after(drhd(0x1000, flags=1, segment=1))),
    "include-all.not-last": (after(drhd(0x1000, GPU)), AFTER, after(drhd(0x1000, GPU, segment=1))),
    "include-all.pci-scopes": (table(drhd(0x1000, PORT, flags=1)), 64, table(drhd(0x1000, IOAPIC, NS, flags=1))),
    "rhsa.no-unit": (after(rhsa(0xFED91000, 0)), AFTER + 8, after(rhsa(0xFED90000, 0))),
    "rhsa.repeated": (after(rhsa(0xFED90000, 0), rhsa(0xFED90000, 1)), AFTER + 28, after(rhsa(0xFED90000, 0))),
    "rmrr.misaligned": (after(rmrr(0x100000, 0x101000, GPU)), AFTER + 16, after(rmrr(0x100000, 0x100FFF, GPU))),
    "rmrr.reversed": (after(rmrr(0x100000, 0xFFFFF, GPU)), AFTER + 16, after(rmrr(0x100000, 0x100FFF, GPU))),
    "rmrr.overlap": (
        after(rmrr(0x100000, 0x101FFF, GPU), rmrr(0x101000, 0x102FFF, USB)),
        AFTER + 32 + 8,
        after(rmrr(0x100000, 0x101FFF, GPU), rmrr(0x102000, 0x102FFF, USB)),
    ),
    "rmrr.low-memory": (after(rmrr(0xFF000, 0xFFFFF, USB)), AFTER + 8, after(rmrr(0x100000, 0x100FFF, USB))),
    "rmrr.beyond-width": (
        after(rmrr(0x100000, (1 << 39) + 0xFFF, GPU), width=39),
        AFTER + 16,
        after(rmrr(0x100000, (1 << 39) - 1, GPU), width=39),
    ),
    "rmrr.no-scope": (after(rmrr(0x100000, 0x100FFF)), AFTER, after(rmrr(0x100000, 0x100FFF, GPU))),
    "rmrr.start-bus": (
        after(rmrr(0x100000, 0x100FFF, scope(1, 3, (0, 0)))),
        AFTER + 24 + 5,
        after(rmrr(0x100000, 0x100FFF, scope(1, 0xF0, (0, 0)), scope(1, 0, (28, 0), (0, 0)))),
    ),
    "scope.type-unknown": (table(drhd(0x1000, scope(6, 0, (2, 0)))), 64, table(drhd(0x1000, NS))),
    "scope.type-misplaced": (
        after(rmrr(0x100000, 0x100FFF, IOAPIC)),
        AFTER + 24,
        after(rmrr(0x100000, 0x100FFF, NS)),
    ),
    "scope.no-path": (table(drhd(0x1000, scope(1, 0))), 65, table(drhd(0x1000, GPU))),
    "scope.device-range": (
        table(drhd(0x1000, scope(1, 0, (2, 0), (32, 0)))),
        72,
        table(drhd(0x1000, scope(1, 0, (31, 7)))),
    ),
    "scope.reserved": (
        table(drhd(0x1000, scope(1, 0, (2, 0), flags=1))),
        66,
        after(sidp(scope(1, 0, (2, 0), flags=0x1F))),
    ),
    "scope.enumeration-id": (table(drhd(0x1000, scope(1, 0, (2, 0), number=1))), 68, table(drhd(0x1000, IOAPIC))),
    "scope.two-units": (
        table(drhd(0x1000, GPU), drhd(0x2000, GPU)),
        48 + 24 + 16,
        table(drhd(0x1000, GPU), drhd(0x2000, GPU, segment=1), drhd(0x3000, USB)),
    ),
    "scope.repeated": (table(drhd(0x1000, GPU, GPU)), 72, table(drhd(0x1000, GPU, USB))),
    "ioapic.repeated": (
        table(drhd(0x1000, IOAPIC), drhd(0x2000, IOAPIC)),
        48 + 24 + 16 + 4,
        table(drhd(0x1000, IOAPIC), drhd(0x2000, scope(3, 0xF0, (31, 0), number=3))),
    ),
    "hpet.repeated": (table(drhd(0x1000, HPET, HPET)), 76, table(drhd(0x1000, HPET, scope(4, 0, (0, 0), number=1)))),
    "interrupts.no-ioapic": (table(drhd(0x1000, HPET, flags=1), flags=1), 37, table(drhd(0x1000, HPET, flags=1))),
    "interrupts.no-hpet": (table(drhd(0x1000, IOAPIC, flags=1), flags=1), 37, table(UNIT, flags=1)),
    "namespace.undeclared": (table(drhd(0x1000, NS)), 68, table(drhd(0x1000, NS), andd(1, PATH))),
    "andd.no-scope": (after(andd(1, PATH)), AFTER + 7, table(drhd(0x1000, NS), andd(1, PATH))),
    "andd.repeated": (after(andd(1, PATH), andd(1, PATH)), AFTER + 23 + 7, after(andd(1, PATH), andd(2, PATH))),
    "atsr.all-ports-with-scopes": (after(atsr(PORT, flags=1)), AFTER + 4, after(atsr(PORT))),
    "atsr.no-scope": (after(atsr()), AFTER + 4, after(atsr(flags=1))),
    "atsr.repeated": (
        after(atsr(flags=1), atsr(flags=1)),
        AFTER + 12,
        after(atsr(flags=1), atsr(flags=1, segment=1)),
    ),
    "satc.no-scope": (after(satc()), AFTER, after(satc(GPU))),
    "satc.repeated": (after(satc(GPU), satc(GPU)), AFTER + 16 + 8, after(satc(GPU), satc(USB))),
    "sidp.no-scope": (after(sidp()), AFTER, after(sidp(GPU))),
    "sidp.repeated": (after(sidp(GPU), sidp(GPU)), AFTER + 16 + 8, after(sidp(GPU), sidp(USB))),
    "sidp.disagrees": (
        after(satc(GPU, flags=1), sidp(GPU)),
        AFTER + 16 + 8 + 2,
        after(satc(GPU, flags=1), sidp(scope(1, 0, (2, 0), flags=0x10), USB)),
    ),
}


def findings(data: bytes, rule: str) -> list[int]:
    return [finding.offset for finding in Dmar.parse(data, strict=False).lint() if finding.rule == rule]


def test_every_rule_has_its_pair_of_tables() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("rule", CASES)
def test_the_rule_triggers_at_the_right_byte(rule: str) -> None:
    data, offset, _ = CASES[rule]
    assert findings(data, rule)[:1] == [offset]


@pytest.mark.parametrize("rule", CASES)
def test_the_rule_accepts_a_near_miss(rule: str) -> None:
    assert findings(CASES[rule][2], rule) == []


def test_every_rule_has_a_source_and_advice() -> None:
    for rule in RULES.values():
        assert rule.source and rule.advice.endswith(".")
        assert rule.check.__doc__
        assert rule.id == rule.id.lower()


def test_reserved_bits_of_every_kind_are_found() -> None:
    odd = {
        table(UNIT, reserved=b"\0\0x\0\0\0\0\0\0\0"): ("header.reserved", 38),
        table(drhd(0x1000, size=0x10)): ("structure.reserved", 53),
        after(rmrr(0x100000, 0x100FFF, GPU, reserved=1)): ("structure.reserved", AFTER + 4),
        after(atsr(flags=1, reserved=1)): ("structure.reserved", AFTER + 5),
        after(atsr(flags=3)): ("structure.reserved", AFTER + 4),
        after(rhsa(0xFED90000, 0, reserved=1)): ("structure.reserved", AFTER + 4),
        after(andd(1, PATH, reserved=b"\1\0\0")): ("structure.reserved", AFTER + 4),
        after(satc(GPU, flags=2)): ("structure.reserved", AFTER + 4),
        after(satc(GPU, reserved=1)): ("structure.reserved", AFTER + 5),
        after(sidp(GPU, reserved=1)): ("structure.reserved", AFTER + 4),
        after(sidp(scope(1, 0, (2, 0), flags=0x20))): ("scope.reserved", AFTER + 8 + 2),
        table(drhd(0x1000, scope(1, 0, (2, 0), reserved=1))): ("scope.reserved", 67),
    }
    for data, (rule, offset) in odd.items():
        assert findings(data, rule) == [offset]


# Findings on real machines, each reviewed by hand: rule -> number of tables that have it.
SEEN = {
    "hpet.repeated": 6,  # chipsets whose HPET has one source-id for each of its eight timers
    "header.revision": 33,  # machines that write 2
    "rmrr.low-memory": 4,  # USB legacy emulation, a server's management controller
    "rmrr.start-bus": 4,  # an RMRR for a card behind a root port, by a bus number that can change
    "interrupts.no-hpet": 1,  # a workstation with two I/O hubs
    "header.x2apic-without-remapping": 1,
    "drhd.base-zero": 1,  # a disabled unit whose DRHD was left in
}


@needs_corpus
def test_real_tables_have_the_findings_that_were_reviewed() -> None:
    seen: dict[str, int] = {}
    for path in TABLES:
        for rule in {finding.rule for finding in Dmar.parse(path.read_bytes()).lint()}:
            seen[rule] = seen.get(rule, 0) + 1
    assert seen == SEEN


def test_a_very_long_table_is_checked_in_reasonable_time() -> None:
    regions = [rmrr(0x100000 + 0x2000 * n, 0x100FFF + 0x2000 * n, GPU) for n in range(20_000)]
    start = time.perf_counter()
    data = after(*regions)
    assert findings(data, "rmrr.overlap") == []
    assert verdicts(data)[1].effect == Effect.ACCEPTS
    assert time.perf_counter() - start < 20


def test_an_overlap_with_a_long_region_is_found_past_a_short_one_between() -> None:
    long, short, third = (0x100000, 0x1FFFFF), (0x110000, 0x110FFF), (0x180000, 0x180FFF)
    data = after(*(rmrr(*bounds, USB) for bounds in (third, long, short)))
    assert findings(data, "rmrr.overlap") == [AFTER + 32 + 8, AFTER + 64 + 8]
