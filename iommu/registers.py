"""The registers of a remapping unit (spec chapter 11): offset, width, fields, what software may do to each, reset.

IVA, IOTLB and the fault recording registers stand where CAP.FRO and ECAP.IRO say, all others at fixed offsets.
"""

from enum import IntEnum
from typing import Any, ClassVar

from iommu.fields import Layout, Rule, address, enumerated, field, flag

RW, RW1C, WO = Rule.RW, Rule.RW1C, Rule.WO


class Register(Layout):
    """A register: a layout with an `offset` from the register base, in bytes, and a `reset` value."""

    offset: ClassVar[int] = -1
    reset: ClassVar[int] = 0

    def __init_subclass__(cls, *, offset: int = -1, reset: int = 0, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.offset, cls.reset = offset, reset

    @classmethod
    def mask_of(cls, rule: Rule) -> int:
        """All bits that software accesses by `rule`."""
        return sum(part.mask for part in cls.fields.values() if part.rule is rule)


class TableMode(IntEnum):
    """RTADDR.TTM: how the root table is read."""

    LEGACY = 0
    SCALABLE = 1
    ABORT_DMA = 3


class Granularity(IntEnum):
    """CCMD.CIRG, IOTLB.IIRG and what hardware answers in CAIG and IAIG."""

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

    ESRTPS = flag(63, "setting the root table pointer invalidates the caches")
    ESIRTPS = flag(62, "setting the interrupt table pointer invalidates the cache")
    ECMDS = flag(61, "enhanced commands")
    FS5LP = flag(60, "first-stage 5-level paging")
    PI = flag(59, "posted interrupts")
    FS1GP = flag(56, "first-stage 1 GiB pages")
    DRD = flag(55, "read draining")
    DWD = flag(54, "write draining")
    MAMV = field(53, 48, "largest address mask of a page-selective invalidation")
    NFR = field(47, 40, "number of fault recording registers, less one")
    PSI = flag(39, "page-selective invalidation")
    SSLPS = field(37, 34, "second-stage large pages: bit 0 2 MiB, bit 1 1 GiB")
    FRO = field(33, 24, "offset of the fault recording registers, in 16 bytes")
    ZLR = flag(22, "zero-length reads of write-only pages")
    MGAW = field(21, 16, "largest guest address width, less one")
    SAGAW = field(12, 8, "page-table depths: bit 1 3 levels, bit 2 4 levels, bit 3 5 levels")
    CM = flag(7, "caching mode: not-present entries may be cached")
    PHMR = flag(6, "protected high-memory region")
    PLMR = flag(5, "protected low-memory region")
    RWBF = flag(4, "write-buffer flushing is needed")
    AFL = flag(3, "advanced fault logging (withdrawn)")
    ND = field(2, 0, "domain-ids have 4 + 2 * ND bits")


class ECAP(Register, bits=64, offset=0x10, section="11.4.3"):
    """What the unit can do, continued."""

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
    """Global command: one change at a time, its result in GSTS."""

    TE = flag(31, "translation on or off", rule=WO)
    SRTP = flag(30, "latch RTADDR", rule=WO)
    WBF = flag(27, "flush the write buffer", rule=WO)
    QIE = flag(26, "invalidation queue on or off", rule=WO)
    IRE = flag(25, "interrupt remapping on or off", rule=WO)
    SIRTP = flag(24, "latch IRTA", rule=WO)
    CFI = flag(23, "compatibility-format interrupts pass", rule=WO)


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


class CCMD(Register, bits=64, offset=0x28, section="11.4.6.1"):
    """Context-cache invalidation."""

    ICC = flag(63, "start; 0 again when done", rule=WO)
    CIRG = enumerated(62, 61, Granularity, "granularity asked for", rule=RW)
    CAIG = enumerated(60, 59, Granularity, "granularity performed")
    FM = field(33, 32, "function bits of SID to ignore: 0 none, 1 bit 2, 2 bits 2:1, 3 bits 2:0", rule=WO)
    SID = field(31, 16, "source-id", rule=WO)
    DID = field(15, 0, "domain-id", rule=RW)


class FSTS(Register, bits=32, offset=0x34, section="11.4.7.1"):
    """Fault status."""

    FRI = field(15, 8, "fault recording register with the first pending fault")
    ITE = flag(6, "device-TLB invalidation timed out", rule=RW1C)
    ICE = flag(5, "wrong device-TLB invalidation completion", rule=RW1C)
    IQE = flag(4, "invalidation queue error", rule=RW1C)
    PPF = flag(1, "a fault recording register holds a fault")
    PFO = flag(0, "a fault was lost", rule=RW1C)


class FECTL(Register, bits=32, offset=0x38, section="11.4.7.2", reset=1 << 31):
    """Fault event control."""

    IM = flag(31, "hold fault events back", rule=RW)
    IP = flag(30, "a fault event is held back")


class FEDATA(Register, bits=32, offset=0x3C, section="11.4.7.3"):
    """Fault event data."""

    IMD = field(15, 0, "message data", rule=RW)


class FEADDR(Register, bits=32, offset=0x40, section="11.4.7.4"):
    """Fault event address, low half."""

    MA = address(31, 2, "message address", rule=RW)


class FEUADDR(Register, bits=32, offset=0x44, section="11.4.7.5"):
    """Fault event address, high half."""

    MUA = field(31, 0, "message address 63:32", rule=RW)


class IVA(Register, bits=64, section="11.4.6.2"):
    """Invalidate address: what IOTLB's page-selective command works on. Stands at ECAP.IRO * 16."""

    ADDR = address(63, 12, "first page", rule=RW)
    IH = flag(6, "only leaf entries changed", rule=RW)
    AM = field(5, 0, "low page-number bits to ignore: 2**AM pages", rule=RW)


class IOTLB(Register, bits=64, section="11.4.6.3"):
    """IOTLB invalidation. Stands at ECAP.IRO * 16 + 8."""

    IVT = flag(63, "start; 0 again when done", rule=WO)
    IIRG = enumerated(61, 60, Granularity, "granularity asked for", rule=RW)
    IAIG = enumerated(58, 57, Granularity, "granularity performed")
    DR = flag(49, "drain reads", rule=RW)
    DW = flag(48, "drain writes", rule=RW)
    DID = field(47, 32, "domain-id", rule=RW)


class FRCD(Register, bits=128, section="11.4.7.6"):
    """Fault recording register n. Stands at CAP.FRO * 16 + 16 * n."""

    F = flag(127, "holds a fault", rule=RW1C)
    T1 = flag(126, "request type, with T2: T1 T2 = 00 write, 10 read, 01 page request, 11 atomic")
    AT = field(125, 124, "address type: 0 untranslated, 1 translation request, 2 translated")
    PV = field(123, 104, "PASID, where PP is 1")
    FR = field(103, 96, "fault reason")
    PP = flag(95, "the request had a PASID")
    EXE = flag(94, "execute requested")
    PRIV = flag(93, "privileged mode requested")
    T2 = flag(92, "see T1")
    SID = field(79, 64, "source-id")
    FI = address(63, 12, "page address")


FIXED_REGISTERS: tuple[type[Register], ...] = (
    VER, CAP, ECAP, GCMD, GSTS, RTADDR, CCMD, FSTS, FECTL, FEDATA, FEADDR, FEUADDR,
)  # fmt: skip
"""The registers whose offset does not depend on the capabilities."""
