"""What each system does with made-up tables: the expected effects come from the systems' sources."""

import pytest

from iommu.dmar.verdicts import Effect, verdicts
from tests.dmar.hand import TABLES, andd, atsr, drhd, needs_corpus, rhsa, rmrr, scope, structure, table

IOAPIC = scope(3, 0xF0, (31, 0), number=2)
GPU = scope(1, 0, (2, 0))
UNIT = drhd(0xFED90000, IOAPIC, flags=1)
BAD_SUM = table(UNIT)[:9] + b"\0" + table(UNIT)[10:]
OK, WARN, NO_IR, NO_DMA, OFF, HANG = Effect

# case: table, Linux, Xen
CASES: dict[str, tuple[bytes, Effect, Effect]] = {
    "plain": (table(UNIT, rmrr(0x100000, 0x100FFF, GPU), flags=1), OK, OK),
    "checksum": (BAD_SUM, WARN, OK),
    "unknown type": (table(UNIT, structure(99, b"x" * 8)), OK, OK),
    "no unit": (table(), OFF, OFF),
    "unit at 0": (table(UNIT, drhd(0, GPU)), OFF, OFF),
    "unit at all ones": (table(drhd((1 << 64) - 1, GPU)), OK, OFF),
    "width field 0": (table(UNIT, width=1), OFF, OFF),
    "width field 10": (table(UNIT, width=11), OFF, OK),
    "width field 11": (table(UNIT, width=12), OK, OK),
    "same unit twice": (table(drhd(0x1000, GPU), drhd(0x1000, GPU)), WARN, OK),
    "same base, two segments": (table(drhd(0x1000, GPU), drhd(0x1000, GPU, segment=1)), OK, OK),
    "INCLUDE_PCI_ALL twice": (table(UNIT, drhd(0x1000, flags=1)), OK, OFF),
    "INCLUDE_PCI_ALL in two segments": (table(UNIT, drhd(0x1000, flags=1, segment=1)), OK, OK),
    "size byte with reserved bits": (table(drhd(0x1000, GPU, size=0x10)), WARN, OK),
    "RMRR within a page": (table(UNIT, rmrr(0x100000, 0x101000, GPU)), WARN, OK),
    "RMRR reversed": (table(UNIT, rmrr(0x101000, 0x100FFF, GPU)), WARN, OFF),
    "RMRRs overlap": (table(UNIT, rmrr(0x100000, 0x101FFF, GPU), rmrr(0x101000, 0x101FFF, GPU)), OK, OFF),
    "RMRRs touch": (table(UNIT, rmrr(0x100000, 0x100FFF, GPU), rmrr(0x101000, 0x101FFF, GPU)), OK, OK),
    "RMRR without device": (table(UNIT, rmrr(0x100000, 0x100FFF)), OK, WARN),
    "ALL_PORTS twice": (table(UNIT, atsr(flags=1), atsr(flags=1)), OK, OFF),
    "RHSA of no unit": (table(UNIT, rhsa(0x1000, 0)), WARN, OK),
    "ANDD without NUL": (table(drhd(0x1000, scope(5, 0, (3, 0), number=1)), andd(1, b"\\X")), OFF, OK),
    "ANDD without scope": (table(UNIT, andd(1, b"\\X\0")), WARN, OK),
    "ANDD with scope": (table(drhd(0x1000, scope(5, 0, (3, 0), number=1)), andd(1, b"\\X\0")), OK, OK),
    "scope type 9": (table(drhd(0x1000, scope(9, 0, (3, 0)))), WARN, OK),
    "scope of length 0": (table(drhd(0x1000, scope(1, 0, (3, 0), length=0))), HANG, OFF),
    "scope without path": (table(drhd(0x1000, scope(1, 0))), OK, OFF),
    "structure of length 0": (table(UNIT, structure(1, b"", 0)), HANG, OFF),
    "structure passes the end": (table(UNIT, drhd(0x1000, GPU, length=25)), OFF, WARN),
    "DMA_REMAP_OPT_OUT": (table(UNIT, flags=8), NO_DMA, OK),
    "DMA_REMAP_OPT_OUT against DMA_CTRL_PLATFORM_OPT_IN": (table(UNIT, flags=0xD), NO_DMA, OK),
    "DMA_REMAP_OPT_OUT and no unit": (table(flags=8), OFF, OFF),
    "INTR_REMAP without I/O APIC": (table(drhd(0x1000, flags=1), flags=1), NO_IR, OK),
}


@pytest.mark.parametrize("case", CASES)
def test_each_system_follows_its_source(case: str) -> None:
    data, linux, xen = CASES[case]
    effects = {verdict.system: verdict.effect for verdict in verdicts(data)}
    assert effects == {"Linux": linux, "Xen": xen, "Windows": None}


def test_reasons_name_the_byte_and_the_function() -> None:
    linux, _, windows = verdicts(table(UNIT, rmrr(0x100000, 0x101000, GPU)))
    (reason,) = linux.reasons
    assert (reason.offset, reason.source) == (48 + len(UNIT) + 8, "rmrr_sanity_check")
    assert windows.reasons == ()


@needs_corpus
def test_real_tables_are_accepted_except_one_with_a_unit_at_0() -> None:
    refused = {
        (path.stem, verdict.system)
        for path in TABLES
        for verdict in verdicts(path.read_bytes())
        if verdict.effect is not None and verdict.effect != Effect.ACCEPTS
    }
    assert refused == {("90513e675e02db8f", "Linux"), ("90513e675e02db8f", "Xen")}
