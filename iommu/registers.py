"""The registers of a remapping unit (spec chapter 11): offset, width, fields, what software may do to each, reset.

IVA, IOTLB and the fault recording registers stand where CAP.FRO and ECAP.IRO say, all others at fixed offsets.
"""

from enum import IntEnum
from typing import Any, ClassVar

from iommu.fields import Layout, Rule, address, enumerated, field, flag

RW, RW1C, WO = Rule.RW, Rule.RW1C, Rule.WO


class Register(Layout):
    """A register: a layout with an `offset` from the register base, in bytes, and a `reset` value.

    `needs` names the capability without which there is no such register: it reads as 0 and writes are ignored.
    """

    offset: ClassVar[int] = -1
    reset: ClassVar[int] = 0
    needs: ClassVar[str] = ""

    def __init_subclass__(cls, *, offset: int = -1, reset: int = 0, needs: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.offset, cls.reset, cls.needs = offset, reset, needs or cls.needs

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


class QueueFault(IntEnum):
    """IQERCD.IQEI: what is wrong with the invalidation queue."""

    NO_INFORMATION = 0
    TAIL = 1
    """The tail lies beyond the queue."""
    FETCH = 2
    TYPE = 3
    """No such descriptor, or not on this unit, in this mode, in this width."""
    RESERVED = 4
    """A reserved field or encoding, or an address mask that is too large."""
    WIDTH = 5
    """The table mode needs descriptors of the other width."""
    ALIGNMENT = 6
    """The tail is not a multiple of the descriptors' width."""
    TABLE_MODE = 7


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


class EventControl(Register, bits=32):
    """One event's mask: the fault, invalidation and page request events have one each."""

    IM = flag(31, "hold the event back", rule=RW)
    IP = flag(30, "an event is held back")


class EventData(Register, bits=32):
    """One event's message data."""

    IMD = field(15, 0, "message data", rule=RW)


class EventAddress(Register, bits=32):
    """One event's message address, low half."""

    MA = address(31, 2, "message address", rule=RW)


class EventUpperAddress(Register, bits=32):
    """One event's message address, high half."""

    MUA = field(31, 0, "message address 63:32", rule=RW)


class FECTL(EventControl, offset=0x38, section="11.4.7.2", reset=1 << 31):
    """Fault event control."""


class FEDATA(EventData, offset=0x3C, section="11.4.7.3"):
    """Fault event data."""


class FEADDR(EventAddress, offset=0x40, section="11.4.7.4"):
    """Fault event address, low half."""


class FEUADDR(EventUpperAddress, offset=0x44, section="11.4.7.5"):
    """Fault event address, high half."""


class IECTL(EventControl, offset=0xA0, section="11.4.9.5", needs="queued_invalidation", reset=1 << 31):
    """Invalidation event control."""


class IEDATA(EventData, offset=0xA4, section="11.4.9.6", needs="queued_invalidation"):
    """Invalidation event data."""


class IEADDR(EventAddress, offset=0xA8, section="11.4.9.7", needs="queued_invalidation"):
    """Invalidation event address, low half."""


class IEUADDR(EventUpperAddress, offset=0xAC, section="11.4.9.8", needs="queued_invalidation"):
    """Invalidation event address, high half."""


class PECTL(EventControl, offset=0xE0, section="11.4.11.5", needs="page_requests", reset=1 << 31):
    """Page request event control."""


class PEDATA(EventData, offset=0xE4, section="11.4.11.6", needs="page_requests"):
    """Page request event data."""


class PEADDR(EventAddress, offset=0xE8, section="11.4.11.7", needs="page_requests"):
    """Page request event address, low half."""


class PEUADDR(EventUpperAddress, offset=0xEC, section="11.4.11.8", needs="page_requests"):
    """Page request event address, high half."""


class AFLOG(Register, bits=64, offset=0x58, section="11.4.7.7", needs="advanced_fault_log"):
    """Advanced fault log; withdrawn, and reads as 0 without CAP.AFL, which nothing here offers."""


class PMEN(Register, bits=32, offset=0x64, section="11.4.8.1", needs="protected_memory"):
    """Protected memory: on or off."""

    EPM = flag(31, "protected regions on", rule=RW)
    PRS = flag(0, "protected regions are on")


class PLMBASE(Register, bits=32, offset=0x68, section="11.4.8.2", needs="protected_low"):
    """Protected low memory: first byte; 1 MiB granules."""

    PLMB = address(31, 20, "base", rule=RW)


class PLMLIMIT(Register, bits=32, offset=0x6C, section="11.4.8.3", needs="protected_low"):
    """Protected low memory: last granule."""

    PLML = address(31, 20, "limit; the bits below count as ones", rule=RW)


class PHMBASE(Register, bits=64, offset=0x70, section="11.4.8.4", needs="protected_high"):
    """Protected high memory: first byte; 1 MiB granules."""

    PHMB = address(63, 20, "base", rule=RW)


class PHMLIMIT(Register, bits=64, offset=0x78, section="11.4.8.5", needs="protected_high"):
    """Protected high memory: last granule."""

    PHML = address(63, 20, "limit; the bits below count as ones", rule=RW)


class IQH(Register, bits=64, offset=0x80, section="11.4.9.1", needs="queued_invalidation"):
    """Invalidation queue head: byte offset of the descriptor hardware takes next."""

    QH = address(18, 4, "head")


class IQT(Register, bits=64, offset=0x88, section="11.4.9.2", needs="queued_invalidation"):
    """Invalidation queue tail: byte offset of the first descriptor software has not written."""

    QT = address(18, 4, "tail", rule=RW)


class IQA(Register, bits=64, offset=0x90, section="11.4.9.3", needs="queued_invalidation"):
    """Invalidation queue address."""

    IQA = address(63, 12, "queue", rule=RW)
    DW = flag(11, "descriptors of 256 bits", rule=RW)
    QS = field(2, 0, "2**QS pages of 4 KiB", rule=RW)


class ICS(Register, bits=32, offset=0x9C, section="11.4.9.4", needs="queued_invalidation"):
    """Invalidation completion status."""

    IWC = flag(0, "a wait descriptor with IF has completed", rule=RW1C)


class IQERCD(Register, bits=64, offset=0xB0, section="11.4.9.9", needs="queued_invalidation"):
    """What went wrong with the queue."""

    ICESID = field(63, 48, "source-id of the wrong completion, while FSTS.ICE")
    ITESID = field(47, 32, "source-id of the device that timed out, while FSTS.ITE")
    IQEI = enumerated(3, 0, QueueFault, "error of the queue, while FSTS.IQE")


class IRTA(Register, bits=64, offset=0xB8, section="11.4.10.1", needs="interrupt_remapping"):
    """Interrupt remapping table address; takes effect with GCMD.SIRTP."""

    IRTA = address(63, 12, "table", rule=RW)
    EIME = flag(11, "32-bit destinations", rule=RW)
    S = field(3, 0, "2**(S+1) entries", rule=RW)


class PQH(Register, bits=64, offset=0xC0, section="11.4.11.1", needs="page_requests"):
    """Page request queue head: byte offset of the request software handles next."""

    PQH = address(18, 5, "head", rule=RW)


class PQT(Register, bits=64, offset=0xC8, section="11.4.11.2", needs="page_requests"):
    """Page request queue tail: byte offset where hardware writes next."""

    PQT = address(18, 5, "tail", rule=RW)


class PQA(Register, bits=64, offset=0xD0, section="11.4.11.3", needs="page_requests"):
    """Page request queue address."""

    PQA = address(63, 12, "queue", rule=RW)
    PQS = field(2, 0, "2**PQS pages of 4 KiB", rule=RW)


class PRS(Register, bits=32, offset=0xDC, section="11.4.11.4", needs="page_requests"):
    """Page request status."""

    PRO = flag(1, "a page request was lost", rule=RW1C)
    PPR = flag(0, "a page request is pending", rule=RW1C)


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


# Memory type ranges: what they say is kept, and left to whoever combines it with the tables' types.


class MTRRCAP(Register, bits=64, offset=0x100, section="11.4", needs="memory_types"):
    """Memory type ranges: what there are."""

    WC = flag(10, "write combining")
    FIX = flag(8, "fixed ranges")
    VCNT = field(7, 0, "variable ranges")


class MTRRDEF(Register, bits=64, offset=0x108, section="11.4", needs="memory_types"):
    """Memory type ranges: the default type."""

    E = flag(11, "on", rule=RW)
    FE = flag(10, "fixed ranges on", rule=RW)
    TYPE = field(7, 0, "default type", rule=RW)


class MTRRFIX(Register, bits=64, section="11.4", needs="memory_types"):
    """Eight sub-ranges of a fixed memory type range."""

    TYPES = field(63, 0, "a type each", rule=RW)


class MTRRBASE(Register, bits=64, section="11.4", needs="memory_types"):
    """A variable memory type range: base."""

    BASE = address(63, 12, "base", rule=RW)
    TYPE = field(7, 0, "type", rule=RW)


class MTRRMASK(Register, bits=64, section="11.4", needs="memory_types"):
    """A variable memory type range: mask."""

    MASK = address(63, 12, "mask", rule=RW)
    V = flag(11, "valid", rule=RW)


# Registers of features that no unit here offers: declared, so that their place is known; they read as 0.


class PERFCAP(Register, bits=64, offset=0x300, section="11.4", needs="performance_monitoring"):
    """Performance counters: what there are."""

    CS = field(54, 52, "counter stride is 2**(CS+10) bytes")
    PCCS = flag(51, "per-counter capabilities")
    IOS = flag(50, "interrupt on overflow")
    GFS = flag(49, "freeze on overflow")
    FILTERS = field(36, 32, "filters")
    NEG = field(28, 24, "event groups")
    CW = field(22, 16, "counter width")
    NC = field(15, 0, "counters")


class PERFCFGOFF(Register, bits=32, offset=0x310, section="11.4", needs="performance_monitoring"):
    """Offset of the counters' configuration."""

    OFFSET = field(31, 0, "bytes")


class PERFFRZOFF(Register, bits=32, offset=0x314, section="11.4", needs="performance_monitoring"):
    """Offset of the freeze status."""

    OFFSET = field(31, 0, "bytes")


class PERFOVFOFF(Register, bits=32, offset=0x318, section="11.4", needs="performance_monitoring"):
    """Offset of the overflow status."""

    OFFSET = field(31, 0, "bytes")


class PERFCNTROFF(Register, bits=32, offset=0x31C, section="11.4", needs="performance_monitoring"):
    """Offset of the counters."""

    OFFSET = field(31, 0, "bytes")


class PERFINTRSTS(Register, bits=32, offset=0x324, section="11.4", needs="performance_monitoring"):
    """Performance event status."""

    PIS = flag(0, "a counter has overflowed", rule=RW1C)


class PERFINTRCTL(EventControl, offset=0x328, section="11.4", reset=1 << 31, needs="performance_monitoring"):
    """Performance event control."""


class PERFINTRDATA(EventData, offset=0x32C, section="11.4", needs="performance_monitoring"):
    """Performance event data."""


class PERFINTRADDR(EventAddress, offset=0x330, section="11.4", needs="performance_monitoring"):
    """Performance event address, low half."""


class PERFINTRUADDR(EventUpperAddress, offset=0x334, section="11.4", needs="performance_monitoring"):
    """Performance event address, high half."""


class PERFEVNTCAP(Register, bits=64, section="11.4", needs="performance_monitoring"):
    """The events of one group."""

    ES = field(27, 0, "events")


class ECMD(Register, bits=64, offset=0x400, section="11.4", needs="enhanced_commands"):
    """Enhanced command: writing starts it."""

    OA = field(63, 16, "operand A", rule=RW)
    CMD = field(7, 0, "command", rule=RW)


class ECEO(Register, bits=64, offset=0x408, section="11.4", needs="enhanced_commands"):
    """Enhanced command: operand B."""

    OB = field(63, 0, "operand B", rule=RW)


class ECRSP(Register, bits=64, offset=0x410, section="11.4", needs="enhanced_commands"):
    """Enhanced command: response."""

    SC = field(7, 1, "status, 0 success")
    IP = flag(0, "in progress")


class ECSTS(Register, bits=64, offset=0x420, section="11.4", needs="enhanced_commands"):
    """Enhanced command: status."""


class ECCAP(Register, bits=64, section="11.4", needs="enhanced_commands"):
    """Enhanced commands there are, a bit each."""

    COMMANDS = field(63, 0, "commands")


class VCMD(Register, bits=64, offset=0xE00, section="11.4", needs="virtual_commands"):
    """Virtual command: writing starts it."""

    OP = field(63, 16, "operand", rule=RW)
    CMD = field(7, 0, "command", rule=RW)


class VCMD_EO(Register, bits=64, offset=0xE08, section="11.4", needs="virtual_commands"):
    """Virtual command: operand B."""

    OB = field(63, 0, "operand B", rule=RW)


class VCRSP(Register, bits=64, offset=0xE10, section="11.4", needs="virtual_commands"):
    """Virtual command: response."""

    RSLT = field(63, 16, "result")
    SC = field(7, 1, "status, 0 success")
    IP = flag(0, "in progress")


class VCCAP(Register, bits=64, offset=0xE30, section="11.4", needs="virtual_commands"):
    """Virtual commands there are."""

    PAS = flag(0, "PASID allocation")


FIXED_REGISTERS: tuple[tuple[str, type[Register], int], ...] = (
    *(
        (layout.__name__, layout, layout.offset)
        for layout in vars().copy().values()
        if isinstance(layout, type) and issubclass(layout, Register) and layout.offset >= 0
    ),
    *((f"MTRRFIX{n}", MTRRFIX, offset) for n, offset in enumerate((0x120, 0x128, 0x130, *range(0x138, 0x178, 8)))),
    *((f"MTRRBASE{n}", MTRRBASE, 0x180 + 16 * n) for n in range(10)),
    *((f"MTRRMASK{n}", MTRRMASK, 0x188 + 16 * n) for n in range(10)),
    *((f"ECCAP{n}", ECCAP, 0x430 + 8 * n) for n in range(4)),
)
"""Name, layout and offset of every register whose place does not depend on the capabilities."""
