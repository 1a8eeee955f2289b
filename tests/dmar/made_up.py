"""Tables unlike any in the corpus, as files in fixtures/dmar/made-up: `python -m tests.dmar.made_up` writes them.

Each comes with the findings it must have and the effects that it must have on Linux and Xen.
"""

from dataclasses import dataclass

from iommu.dmar.verdicts import Effect
from tests.dmar.hand import ROOT, andd, drhd, rmrr, scope, structure, table

FOLDER = ROOT / "fixtures" / "dmar" / "made-up"
OK, WARN, NO_IR, NO_DMA, OFF, HANG = Effect


@dataclass(frozen=True)
class Sample:
    """A table, the rules that object to it, and its effects on two systems."""

    data: bytes
    rules: set[str]
    linux: Effect = OK
    xen: Effect = OK


GPU, USB = scope(1, 0, (2, 0)), scope(1, 0, (20, 0))
ALL = drhd(0xFED91000, scope(3, 0xF0, (31, 0), number=2), scope(4, 0xF0, (15, 0)), flags=1)
GRAPHICS = drhd(0xFED90000, GPU)
_GOOD = table(GRAPHICS, ALL, flags=1)

SAMPLES = {
    "good": Sample(_GOOD, set()),
    "two-segments": Sample(
        table(
            GRAPHICS, ALL, drhd(0xFED92000, scope(2, 0x40, (1, 0)), segment=1), drhd(0xFED93000, flags=1, segment=1)
        ),
        set(),
    ),
    "three-hops": Sample(table(drhd(0xFED90000, scope(1, 0, (28, 0), (0, 0), (3, 1))), ALL, flags=1), set()),
    "bad-checksum": Sample(_GOOD[:9] + b"\x5a" + _GOOD[10:], {"header.checksum"}, WARN),
    "cut": Sample(_GOOD[:-5], {"table.damaged", "header.checksum", "interrupts.no-hpet"}, OFF, WARN),
    "zero-length": Sample(table(ALL, structure(1, b"", 0), flags=1), {"table.damaged"}, HANG, OFF),
    "unknown-type": Sample(
        table(GRAPHICS, ALL, structure(42, b"from the future!"), flags=1), {"structure.unknown-type"}
    ),
    "include-all-first": Sample(table(ALL, GRAPHICS, flags=1), {"include-all.not-last"}),
    "include-all-twice": Sample(table(ALL, drhd(0xFED92000, flags=1), flags=1), {"include-all.repeated"}, OK, OFF),
    "overlapping-rmrrs": Sample(
        table(ALL, rmrr(0x7B000000, 0x7B0FFFFF, USB), rmrr(0x7B0FF000, 0x7BFFFFFF, GPU), flags=1),
        {"rmrr.overlap"},
        OK,
        OFF,
    ),
    "reversed-rmrr": Sample(table(ALL, rmrr(0x7C000000, 0x7BFFFFFF, USB), flags=1), {"rmrr.reversed"}, WARN, OFF),
    "reserved-bits": Sample(
        table(drhd(0xFED90000, scope(1, 0, (2, 0), reserved=1), size=0xF0), ALL, flags=0x81),
        {"header.reserved", "structure.reserved", "scope.reserved"},
        WARN,
    ),
    "andd-without-scope": Sample(table(ALL, andd(1, b"\\_SB.PCI0.I2C0\0"), flags=1), {"andd.no-scope"}, WARN),
    "ioapic-missing": Sample(
        table(drhd(0xFED91000, scope(4, 0xF0, (15, 0)), flags=1), flags=1), {"interrupts.no-ioapic"}, NO_IR
    ),
}


def main() -> None:
    """Write them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, sample in SAMPLES.items():
        (FOLDER / f"{name}.dmar").write_bytes(sample.data)


if __name__ == "__main__":
    main()
