"""From a source-id to its translation, legacy mode: root table by bus, context table by device and function."""

from enum import IntEnum

from iommu.fields import Layout, address, enumerated, field, flag, ignored


class TranslationType(IntEnum):
    """ContextEntry.TT."""

    UNTRANSLATED_ONLY = 0
    """Second stage; translation and translated requests are blocked."""
    WITH_DEVICE_TLB = 1
    """Second stage; translation and translated requests too. Needs ECAP.DT."""
    PASS_THROUGH = 2
    """Host address = address. Needs ECAP.PT."""


class RootEntry(Layout, bits=128, section="9.1"):
    """Root entry, legacy mode: one per bus."""

    CTP = address(63, 12, "context table")
    P = flag(0, "present")


class ContextEntry(Layout, bits=128, section="9.3"):
    """Context entry, legacy mode: one per device and function."""

    DID = field(87, 72, "domain-id")
    AVAIL = ignored(70, 67, "ignored, for software")
    AW = field(66, 64, "address width: 1 39-bit, 3 levels; 2 48-bit, 4 levels; 3 57-bit, 5 levels")
    SSPTPTR = address(63, 12, "second-stage table")
    TT = enumerated(3, 2, TranslationType, "translation type")
    FPD = flag(1, "fault processing disabled")
    P = flag(0, "present")
