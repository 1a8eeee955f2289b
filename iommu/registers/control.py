"""Capabilities, commands, status, table pointers and invalidation by register (spec 11.4.1 to 11.4.6, 11.4.10)."""

from collections.abc import Sequence
from enum import IntEnum

from iommu.fields import Rule, address, enumerated, field, flag
from iommu.registers.register import Register

RW, WO = Rule.RW, Rule.WO


class TableMode(IntEnum):
    """RTADDR.TTM: how the root table is read."""

    LEGACY = 0
    SCALABLE = 1
    ABORT_DMA = 3


class Granularity(IntEnum):
    """CCMD.CIRG and IOTLB.IIRG, and what hardware returns in CAIG and IAIG."""

    NONE = 0
    GLOBAL = 1
    DOMAIN = 2
    SELECTIVE = 3


class VER(Register, bits=32, offset=0x00, section="11.4.1"):
    """Architecture version."""

    MAX = field(7, 4, "major version")
    MIN = field(3, 0, "minor version")


class CAP(Register, bits=64, offset=0x08, section="11.4.2"):
    """What the unit can do."""

    ESRTPS = flag(63, "setting the root-table pointer invalidates the caches")
    ESIRTPS = flag(62, "setting the interrupt-table pointer invalidates the cache")
    ECMDS = flag(61, "enhanced commands")
    FS5LP = flag(60, "first-stage 5-level paging")
    PI = flag(59, "posted interrupts")
    FS1GP = flag(56, "first-stage 1 GiB pages")
    DRD = flag(55, "read draining")
    DWD = flag(54, "write draining")
    MAMV = field(53, 48, "largest address mask of a page-selective invalidation")
    NFR = field(47, 40, "number of fault recording registers, minus 1")
    PSI = flag(39, "page-selective invalidation")
    SSLPS = field(37, 34, "second-stage large pages: bit 0 2 MiB, bit 1 1 GiB")
    FRO = field(33, 24, "offset of the fault recording registers, in 16 bytes")
    ZLR = flag(22, "zero-length reads of write-only pages")
    MGAW = field(21, 16, "largest guest address width, minus 1")
    SAGAW = field(12, 8, "page-table levels: bit 1 for 3, bit 2 for 4, bit 3 for 5")
    CM = flag(7, "caching mode: not-present entries may be cached")
    PHMR = flag(6, "protected high-memory region")
    PLMR = flag(5, "protected low-memory region")
    RWBF = flag(4, "write-buffer flushing is needed")
    AFL = flag(3, "advanced fault logging (withdrawn)")
    ND = field(2, 0, "domain-ids have 4 + 2 * ND bits")


class ECAP(Register, bits=64, offset=0x10, section="11.4.3"):
    """What the unit can do, second part."""

    SMS = flag(58, "stop markers")
    RPRIVS = flag(53, "RID_PRIV")
    ADMS = flag(52, "abort-DMA mode")
    PMS = flag(51, "performance monitoring")
    RPS = flag(49, "RID_PASID")
    SMPWCS = flag(48, "scalable-mode page-walk coherency")
    FSTS = flag(47, "first-stage translation")
    SSTS = flag(46, "second-stage translation in scalable mode")
    SSADS = flag(45, "second-stage accessed and dirty")
    VCS = flag(44, "virtual commands")
    SMTS = flag(43, "scalable mode")
    PDS = flag(42, "page-request draining")
    DIT = flag(41, "device-TLB invalidation throttling")
    PASID = flag(40, "PASIDs")
    PSS = field(39, 35, "PASIDs have PSS + 1 bits")
    EAFS = flag(34, "extended accessed")
    NWFS = flag(33, "no-write in translation requests")
    SRS = flag(31, "supervisor requests")
    ERS = flag(30, "execute requests")
    PRS = flag(29, "page requests")
    NEST = flag(26, "nested translation")
    MTS = flag(25, "memory types")
    MHMV = field(23, 20, "largest index mask of an interrupt-entry invalidation")
    IRO = field(17, 8, "offset of IVA and IOTLB, in 16 bytes")
    SC = flag(7, "snoop control")
    PT = flag(6, "pass-through")
    EIM = flag(4, "extended interrupt mode")
    IR = flag(3, "interrupt remapping")
    DT = flag(2, "device-TLBs")
    QI = flag(1, "queued invalidation")
    C = flag(0, "coherent access to the tables")


class GCMD(Register, bits=32, offset=0x18, section="11.4.4.1"):
    """Global command: one change at a time; the result is in GSTS."""

    TE = flag(31, "translation on or off", rule=WO)
    SRTP = flag(30, "latch RTADDR", rule=WO)
    WBF = flag(27, "flush the write buffer", rule=WO, needs="write_buffer_flush")
    QIE = flag(26, "invalidation queue on or off", rule=WO, needs="queued_invalidation")
    IRE = flag(25, "interrupt remapping on or off", rule=WO, needs="interrupt_remapping")
    SIRTP = flag(24, "latch IRTA", rule=WO, needs="interrupt_remapping")
    CFI = flag(23, "compatibility-format interrupts pass", rule=WO, needs="interrupt_remapping")


class GSTS(Register, bits=32, offset=0x1C, section="11.4.4.2"):
    """Global status."""

    TES = flag(31, "translation is on")
    RTPS = flag(30, "root table pointer is set")
    WBFS = flag(27, "write-buffer flush in progress")
    QIES = flag(26, "invalidation queue is on")
    IRES = flag(25, "interrupt remapping is on")
    IRTPS = flag(24, "interrupt table pointer is set")
    CFIS = flag(23, "compatibility-format interrupts pass")


class RTADDR(Register, bits=64, offset=0x20, section="11.4.5"):
    """Root table address; takes effect with GCMD.SRTP."""

    RTA = address(63, 12, "root table", rule=RW)
    TTM = enumerated(11, 10, TableMode, "translation table mode", rule=RW)


class IRTA(Register, bits=64, offset=0xB8, section="11.4.10", needs="interrupt_remapping"):
    """Interrupt remapping table address; takes effect with GCMD.SIRTP."""

    IRTA = address(63, 12, "table", rule=RW)
    EIME = flag(11, "32-bit destinations", rule=RW, needs="extended_interrupts")
    S = field(3, 0, "2**(S+1) entries", rule=RW)


class CCMD(Register, bits=64, offset=0x28, section="11.4.6.1"):
    """Context-cache invalidation."""

    ICC = flag(63, "start; reads as 0 when done", rule=RW)
    CIRG = enumerated(62, 61, Granularity, "granularity requested", rule=RW)
    CAIG = enumerated(60, 59, Granularity, "granularity performed")
    FM = field(33, 32, "function bits of SID to ignore: 0 none, 1 bit 2, 2 bits 2:1, 3 bits 2:0", rule=WO)
    SID = field(31, 16, "source-id", rule=WO)
    DID = field(15, 0, "domain-id", rule=RW)


class IVA(Register, bits=64, section="11.4.6.4"):
    """Invalidate address: the pages of IOTLB's page-selective command."""

    ADDR = address(63, 12, "first page", rule=RW)
    IH = flag(6, "only leaf entries changed", rule=RW)
    AM = field(5, 0, "low page-number bits to ignore: 2**AM pages", rule=RW)

    @classmethod
    def places(cls, cap: int, ecap: int) -> Sequence[int]:
        """Where ECAP.IRO says."""
        return (16 * ECAP.IRO.get(ecap),)


class IOTLB(Register, bits=64, section="11.4.6.3"):
    """IOTLB invalidation."""

    IVT = flag(63, "start; reads as 0 when done", rule=RW)
    IIRG = enumerated(61, 60, Granularity, "granularity requested", rule=RW)
    IAIG = enumerated(58, 57, Granularity, "granularity performed")
    DR = flag(49, "drain reads", rule=RW)
    DW = flag(48, "drain writes", rule=RW)
    DID = field(47, 32, "domain-id", rule=RW)

    @classmethod
    def places(cls, cap: int, ecap: int) -> Sequence[int]:
        """Directly after IVA."""
        return (16 * ECAP.IRO.get(ecap) + 8,)
