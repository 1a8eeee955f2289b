"""Changes are reported by meaning."""

from itertools import pairwise

import pytest

from iommu.dmar import Dmar
from iommu.dmar.difference import difference
from tests.dmar.hand import TABLES, andd, atsr, drhd, needs_corpus, rhsa, rmrr, scope, sidp, structure, table

GPU, USB = scope(1, 0, (2, 0)), scope(1, 0, (20, 0))
UNIT = drhd(0x1000, GPU)
ALL = drhd(0x2000, scope(3, 0xF0, (31, 0), number=2), flags=1)

CASES = {
    "nothing": (table(UNIT, ALL), table(UNIT, ALL), []),
    "width": (table(ALL, width=39), table(ALL, width=46), ["header: host_address_width was 38, is 45"]),
    "a unit moved": (
        table(UNIT, ALL),
        table(drhd(0x8000, GPU), ALL),
        ["unit at 0x1000: base was 0x1000, is 0x8000"],
    ),
    "the unit with INCLUDE_PCI_ALL moved": (
        table(UNIT, ALL),
        table(UNIT, drhd(0x9000, flags=1)),
        ["unit at 0x2000: base was 0x2000, is 0x9000", "unit at 0x2000: scope ioapic f0:1f.0 disappeared"],
    ),
    "a scope appeared": (
        table(UNIT, ALL),
        table(drhd(0x1000, GPU, USB), ALL),
        ["unit at 0x1000: scope endpoint 00:14.0 appeared"],
    ),
    "a unit appeared": (table(ALL), table(UNIT, ALL), ["table: DRHD unit at 0x1000 appeared"]),
    "a region disappeared": (
        table(ALL, rmrr(0x100000, 0x100FFF, USB)),
        table(ALL),
        ["table: RMRR region 0x100000 to 0x100fff disappeared"],
    ),
    "a region grew": (
        table(ALL, rmrr(0x100000, 0x100FFF, USB)),
        table(ALL, rmrr(0x100000, 0x101FFF, USB)),
        ["region 0x100000 to 0x100fff: limit was 0x100fff, is 0x101fff"],
    ),
    "units in another order": (
        table(UNIT, drhd(0x2000, USB)),
        table(drhd(0x2000, USB), UNIT),
        ["table: order of units was 0x1000, 0x2000, is 0x2000, 0x1000"],
    ),
    "a register set grew": (
        table(ALL),
        table(drhd(0x2000, scope(3, 0xF0, (31, 0), number=2), flags=1, size=4)),
        ["unit at 0x2000: size was 0x0, is 0x4"],
    ),
    "an affinity": (table(ALL, rhsa(0x2000, 0)), table(ALL, rhsa(0x2000, 1)), [
        "affinity of the unit at 0x2000: proximity_domain was 0, is 1"
    ]),
    "a name": (table(ALL, andd(1, b"\\A\0")), table(ALL, andd(1, b"\\B\0")), [
        "table: ANDD ACPI device \\A disappeared", "table: ANDD ACPI device \\B appeared"
    ]),
    "ports": (table(ALL, atsr(flags=1)), table(ALL, atsr(scope(2, 0, (28, 0)))), [
        "ATSR: flags was 0x1, is 0x0", "ATSR: scope bridge 00:1c.0 appeared"
    ]),
    "a property": (table(ALL, sidp(GPU)), table(ALL, sidp(scope(1, 0, (2, 0), flags=8))), [
        "SIDP, endpoint 00:02.0: flags was 0x0, is 0x8"
    ]),
    "bytes of an unknown structure": (table(ALL, structure(9, b"a")), table(ALL, structure(9, b"b")), [
        "structure of type 9: data was 61, is 62"
    ]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_changes_are_reported_by_meaning(case: str) -> None:
    old, new, expected = CASES[case]
    assert [str(change) for change in difference(Dmar.parse(old), Dmar.parse(new))] == expected


@needs_corpus
def test_a_real_table_differs_from_others_and_not_from_itself() -> None:
    tables = [Dmar.parse(path.read_bytes()) for path in TABLES]
    for one, other in pairwise(tables):
        assert difference(one, one) == []
        assert bool(difference(one, other)) == (one.to_dict() != other.to_dict())
