"""What each fault reason means to the person who has to fix it, and where to look first.

The conditions are those of spec 7.1.3 (DMA) and 5.1.4 (interrupts); the advice names their usual causes in practice.
"""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.reasons import FaultReason as R


class Advice(NamedTuple):
    """For one reason: what the unit found, in a sentence, and the possible causes, the most likely first."""

    means: str
    look: tuple[str, ...]


# Causes that several reasons share.
_FLUSH = "the entry is still in the CPU's caches: with ECAP.C = 0, software must flush the table entries it writes"
_FREED = "the page that holds the table was freed or reused while the unit still uses it: its contents are garbage"
_WIDTH = "an address at or above the host address width given in the DMAR (it can be smaller than the CPU's)"
_POINTER = "the pointer to the table is wrong: garbage, a virtual address, or above the host address width"
_REVISION = "a bit is set that belongs to a newer revision or to a capability that this unit does not have"
_WRONG_UNIT = "the tables were set up on another unit: the DRHD scopes of the DMAR say which unit a device is behind"
_BUS = "the bus number: devices behind renumbered bridges, hot-plugged ones and virtual functions are on other buses"
_ALIAS = (
    "the request carries another requester id than the device's own: behind a PCIe-to-PCI bridge it is the bridge's; "
    "some devices use function 0 or a function that does not exist"
)
_EARLY = (
    "the device does DMA although no driver runs it: it was left running by the firmware, by the previous kernel "
    "(kexec), or by a driver that was unloaded without stopping it"
)
_UNMAPPED = (
    "the buffer was unmapped while the device still had it: stop the queue and wait for the device before unmapping"
)
_NEVER = "the address was never mapped: the device was given a physical or virtual address instead of a DMA address"
_RMRR = "the device uses reserved firmware memory (RMRR) that was not mapped for it: compare `vtd dmar topology`"
_READ_ONLY = "the buffer was mapped for reading only: check the DMA direction that the driver gave when mapping it"
_WRITE_ONLY = (
    "the buffer was mapped for writing only: check the DMA direction; most devices read the descriptors they write"
)
_STALE = (
    "a stale translation: an entry changed and the IOTLB was not invalidated, or with a wrong domain-id or page range"
)
_CACHING_MODE = (
    "the unit has CAP.CM = 1, as many virtual units do: after making an entry present, software must invalidate too"
)
_STALE_CONTEXT = (
    "a stale context entry: after changing it, invalidate the context cache and then the IOTLB, in that order"
)
_STALE_PASID = "a stale PASID entry: after changing it, invalidate the PASID cache and then the IOTLB of that PASID"
_NO_CONTEXT = (
    _EARLY,
    _ALIAS,
    _WRONG_UNIT,
    "the unit has CAP.CM = 1: after making a context entry present, software must invalidate the context cache",
    _FLUSH,
)
_LARGE = "a large page of a size that the unit does not support (CAP.SSLPS), or one that is not aligned to its size"
_ROOT = "RTADDR holds a wrong address, or GCMD.SRTP was not issued after the last write to it"
_NO_ATS = "the device sends translated requests although ATS is disabled in it: a faulty device, or an attack"
_ENTRY = "the entry to look at is in the interrupt remapping table, at IRTA + 16 * index"
_OUTPUT_FEE = "a page is mapped to host memory 0xFEE00000 to 0xFEEFFFFF: no DMA may be translated to that range"
_STRAY = "a stray DMA write: the address of a buffer was 0xFEExxxxx by mistake"
_NOT_ATOMIC = "the table is in memory that does not support atomic updates: device memory, or a ROM"
_GUEST_UNREADABLE = (
    "the second stage does not map the guest memory that holds the table, or maps it for writing only",
    _STALE,
)

ADVICE: dict[R, Advice] = {
    R.LRT_2: Advice(
        "There is no context table for the device's bus: its root entry is not present.",
        (_BUS, _ALIAS, _WRONG_UNIT, _FLUSH),
    ),
    R.LCT_2: Advice("The device has not been set up for DMA: its context entry is not present.", _NO_CONTEXT),
    R.LCT_4: Advice(
        "The context entry asks for something that this unit does not support, or the top table cannot be read.",
        (
            "AW: a number of levels that CAP.SAGAW does not offer; the units of one machine can differ",
            "TT: pass-through without ECAP.PT, or device-TLBs without ECAP.DT",
            "SSPTPTR points to an address where there is no memory",
            _FREED,
        ),
    ),
    R.LGN_1: Advice(
        "The address is beyond what the device's tables can map (the smaller of CAP.MGAW and the entry's AW).",
        (
            "the driver set a DMA mask wider than the domain's address width, or gave the device an unmapped address",
            "AW in the context entry is smaller than the number of levels that the tables have",
            "with pass-through: an address beyond the host address width, so the descriptor is probably corrupt",
        ),
    ),
    R.LGN_2: Advice(
        "The device wrote to a page that is not mapped, or not mapped for writing.",
        (_UNMAPPED, _READ_ONLY, _NEVER, _RMRR, _STALE, _CACHING_MODE),
    ),
    R.LGN_3: Advice(
        "The device read from a page that is not mapped, or not mapped for reading.",
        (
            _UNMAPPED,
            "the device prefetches past the end of a buffer, and the next page is not mapped",
            _WRITE_ONLY,
            _NEVER,
            _RMRR,
            _STALE,
            _CACHING_MODE,
        ),
    ),
    R.LSL_1: Advice(
        "A second-stage table below the top one cannot be read: there is no memory at its address.",
        (_POINTER, _FREED, _FLUSH),
    ),
    R.LRT_1: Advice("The root table cannot be read: there is no memory at its address.", (_ROOT, _WIDTH)),
    R.LCT_1: Advice(
        "The context table cannot be read: there is no memory at its address.", (_POINTER, _FREED, _FLUSH)
    ),
    R.LRT_3: Advice(
        "The root entry is present and has reserved bits set.",
        (
            _WIDTH,
            "the table has scalable-mode entries, but RTADDR.TTM said legacy mode when SRTP was issued",
            _FREED,
        ),
    ),
    R.LCT_3: Advice(
        "The context entry is present and has reserved bits set.",
        (
            "the domain-id has more bits than CAP.ND offers",
            "a present entry was changed in place, and the unit read it half written: clear P first",
            _WIDTH,
            _FREED,
        ),
    ),
    R.LSL_2: Advice(
        "A second-stage entry is present and has reserved bits set.",
        (
            _LARGE,
            "SNP without ECAP.SC: the units of one machine can differ, and a domain can span several of them",
            _WIDTH,
            _FREED,
        ),
    ),
    R.LCT_5: Advice(
        "The device uses its device-TLB (ATS), but its context entry does not allow that.",
        (
            "ATS is enabled in the device while TT in its context entry is not 1: set TT before enabling ATS, "
            "and disable ATS before clearing it",
            _NO_ATS,
            _STALE_CONTEXT,
        ),
    ),
    R.LGN_4: Advice("The address translates to the interrupt address range.", (_OUTPUT_FEE,)),
    R.IR_20: Advice(
        "The interrupt message has reserved bits set.",
        (
            "the device's MSI address and data were written by hand instead of by the interrupt remapping code",
            _STRAY,
        ),
    ),
    R.IR_21: Advice(
        "The index in the message is beyond the end of the interrupt remapping table.",
        (
            "an MSI message from before remapping was enabled is read as an index",
            "IRTA.S gives a smaller table than was allocated, or the subhandle (MSI data) makes the index too large",
            "in an I/O APIC entry, bit 15 of the index is bit 11 of the entry",
        ),
    ),
    R.IR_22: Advice(
        "The interrupt remapping entry is not present.",
        (
            "the interrupt was freed while the device could still send it: mask it in the device first",
            "the entry is in another unit's table: each unit has its own, and the device is behind this one",
            "after kexec, a device still sends interrupts that the previous kernel had set up",
            _ENTRY,
        ),
    ),
    R.IR_23: Advice(
        "The interrupt remapping table cannot be read: there is no memory at its address.",
        ("IRTA holds a wrong address, or GCMD.SIRTP was not issued after the last write to it", _WIDTH),
    ),
    R.IR_24: Advice(
        "The interrupt remapping entry has reserved bits set.",
        (
            "DST: with IRTA.EIME = 0 the 8-bit APIC id is in bits 15:8 of DST, and all its other bits must be 0",
            "IM (posted form) is set on a unit without CAP.PI",
            "the unit read the entry between two 8-byte writes: write all 16 bytes at once, or clear P first",
            _ENTRY,
        ),
    ),
    R.IR_25: Advice(
        "An interrupt message in compatibility format was blocked.",
        (
            "the device's MSI, HPET or I/O APIC entry still has the format from before remapping was enabled: its "
            "driver did not set the interrupt up again, or this kernel never did",
            _STRAY,
            "messages in compatibility format pass only with GSTS.CFIS = 1 and IRTA.EIME = 0",
        ),
    ),
    R.IR_26: Advice(
        "The interrupt came from another source-id than its entry allows.",
        (
            "the requester id is an alias: that of a PCIe-to-PCI bridge, of a virtual or of a phantom function",
            "an I/O APIC or HPET: its source-id is the one in the DMAR's device scope, not that of a PCI device",
            "SVT = 2 compares with a range of bus numbers: SID 15:8 is the first bus, SID 7:0 the last",
            "a device assigned to one guest tries to raise another's interrupts",
            _ENTRY,
        ),
    ),
    R.IR_27: Advice(
        "The posted-interrupt descriptor cannot be read: there is no memory at its address.",
        (
            "the descriptor's address is split in the entry: bits 31:6 are in bits 63:38, bits 63:32 in bits 127:96",
            "the virtual processor was freed before the entries that point to its descriptor",
            _ENTRY,
        ),
    ),
    R.IR_28: Advice(
        "The posted-interrupt descriptor has reserved bits set.",
        (
            "the descriptor was freed or reused",
            "the entry's address points to something else: a descriptor has 64 bytes, aligned to 64",
            _ENTRY,
        ),
    ),
    R.IR_29: Advice(
        "A request to the interrupt address range is not an interrupt message.",
        (
            "a stray DMA address: a read of 0xFEExxxxx, or a write that is not an aligned DWORD",
            "rarely, a faulty device",
        ),
    ),
    R.RTA_1: Advice(
        "RTADDR.TTM selects a mode that this unit does not support.",
        ("scalable mode (1) needs ECAP.SMTS, abort-DMA mode (3) needs ECAP.ADMS; 2 is the withdrawn extended mode",),
    ),
    R.RTA_2: Advice(
        "A request with a PASID came while the unit was in legacy mode.",
        ("PASID is enabled in the device but the unit is not in scalable mode: disable PASID in the device",),
    ),
    R.RTA_3: Advice(
        "A page request came while the unit was in legacy mode.",
        ("PRI is enabled in the device but the unit is not in scalable mode: disable PRI in the device",),
    ),
    R.RTA_4: Advice(
        "The unit is in abort-DMA mode, which blocks every request.",
        ("the operating system has not taken over yet: it sets up its tables and changes RTADDR.TTM with SRTP",),
    ),
    R.RTA_5: Advice(
        "The device asked to execute, which units of version 8 and later do not know.",
        ("disable execute permission in the device's PASID capability",),
    ),
    R.SRT_1: Advice("The root table cannot be read: there is no memory at its address.", (_ROOT, _WIDTH)),
    R.SRT_2: Advice(
        "There is no context table for the device: this half of its bus's root entry is not present.",
        (
            "devices 0 to 15 and 16 to 31 of a bus have a context table each: often only the lower one is set up",
            _BUS,
            _ALIAS,
            _WRONG_UNIT,
            _FLUSH,
        ),
    ),
    R.SRT_3: Advice("Half of the root entry is present and has reserved bits set.", (_WIDTH, _FREED)),
    R.SCT_1: Advice("The context table cannot be read: there is no memory at its address.", (_POINTER, _FREED)),
    R.SCT_2: Advice("The device has not been set up for DMA: its context entry is not present.", _NO_CONTEXT),
    R.SCT_3: Advice(
        "The context entry is present and has reserved bits set.",
        (
            "DTE needs ECAP.DT, PRE needs ECAP.PRS, PASIDE needs ECAP.PASID, RID_PRIV needs ECAP.RPRIVS",
            "a scalable-mode context entry has 32 bytes, and its index is device and function modulo 128",
            _FREED,
        ),
    ),
    R.SCT_4: Advice(
        "The context entry contradicts itself.",
        (
            "PRE is set while DTE is 0: page requests need the device-TLB",
            "RID_PASID is beyond the end of the PASID directory, which covers 2**(PDTS+13) PASIDs",
            _FREED,
        ),
    ),
    R.SCT_5: Advice(
        "The device uses its device-TLB (ATS), but its context entry does not allow that.",
        (
            "ATS is enabled in the device while DTE in its context entry is 0: set DTE before enabling ATS, and "
            "disable ATS before clearing it",
            _NO_ATS,
            _STALE_CONTEXT,
        ),
    ),
    R.SCT_6: Advice(
        "The request has a PASID, but the context entry does not allow any.",
        ("PASIDE in the context entry is 0: set it before enabling PASID in the device", _STALE_CONTEXT),
    ),
    R.SCT_7: Advice(
        "The PASID is beyond the end of the PASID directory.",
        (
            "PDTS in the context entry is too small: the directory has 2**(PDTS+7) entries, each for 64 PASIDs",
            _STALE_CONTEXT,
        ),
    ),
    R.SCT_8: Advice(
        "The device sent a page request, but its context entry does not allow any.",
        ("PRE in the context entry is 0: set it before enabling PRI in the device", _STALE_CONTEXT),
    ),
    R.SCT_9: Advice(
        "The request has the PASID that its context entry reserves for requests without one, RID_PASID.",
        (
            "the device was given the PASID in RID_PASID, which is often 0: give it another",
            "without ECAP.RPS, RID_PASID is 0, and no request may carry that PASID",
        ),
    ),
    R.SPD_1: Advice("The PASID directory cannot be read: there is no memory at its address.", (_POINTER, _FREED)),
    R.SPD_2: Advice(
        "There is no PASID table for this PASID: its PASID directory entry is not present.",
        ("the PASID was never attached, or was freed while the device still used it", _FLUSH, _STALE_PASID),
    ),
    R.SPD_3: Advice("The PASID directory entry is present and has reserved bits set.", (_WIDTH, _FREED)),
    R.SPT_1: Advice("The PASID table cannot be read: there is no memory at its address.", (_POINTER, _FREED)),
    R.SPT_2: Advice(
        "The PASID has no address space: its PASID table entry is not present.",
        (
            "the process exited or the PASID was freed while the device still used it: drain the device first",
            "requests without PASID use the entry of RID_PASID (usually 0), which must be present too",
            _STALE_PASID,
            _FLUSH,
        ),
    ),
    R.SPT_3: Advice(
        "The PASID table entry is present and has reserved bits set.",
        (
            "SSADE needs ECAP.SSADS, PWSNP needs SMPWCS, PGSNP needs SC, EAFE needs EAFS, SRE needs SRS, "
            "and memory types need MTS",
            "the domain-id has more bits than CAP.ND offers",
            _REVISION,
            _WIDTH,
            _FREED,
        ),
    ),
    R.SPT_4: Advice(
        "The PASID table entry asks for something that this unit does not support.",
        (
            "PGTT: first stage needs ECAP.FSTS, second stage ECAP.SSTS, nested ECAP.NEST, pass-through ECAP.PT",
            "AW: a number of second-stage levels that CAP.SAGAW does not offer",
            "FSPM: five first-stage levels need CAP.FS5LP",
        ),
    ),
    R.SPT_5: Advice(
        "The device asked to execute, but the unit or the PASID entry does not allow that.",
        (
            "the unit has no execute requests (ECAP.ERS), or ERE in the PASID entry is 0",
            "current revisions of VT-d have no execute requests: disable execute permission in the device's PASID "
            "capability",
        ),
    ),
    R.SPT_6: Advice(
        "The request is privileged, but the PASID entry does not allow that.",
        (
            "SRE in the PASID entry is 0 while privileged mode is enabled in the device's PASID capability",
            "for a request without PASID: RID_PRIV is set in the context entry",
        ),
    ),
    R.SFS_1: Advice(
        "A first-stage table below the top one cannot be read: there is no memory at its address.", (_POINTER, _FREED)
    ),
    R.SFS_2: Advice(
        "The first stage does not map the address.",
        (
            _UNMAPPED,
            _NEVER,
            "shared virtual memory: the page is not resident, and the device did not ask for it first (ATS and PRI)",
            _RMRR,
            _STALE,
        ),
    ),
    R.SFS_3: Advice(
        "A first-stage entry is present and has reserved bits set.",
        (
            "a page of 1 GiB without CAP.FS1GP",
            _WIDTH,
            "the tables are shared with a CPU, which uses bits that are reserved to this unit",
            _FREED,
        ),
    ),
    R.SFS_4: Advice(
        "The top first-stage table cannot be read: there is no memory at its address.",
        ("FSPTPTR in the PASID entry is wrong; with nested translation it is a guest address", _FREED),
    ),
    R.SFS_5: Advice(
        "A first-stage table of the guest is beyond what the second stage can map.",
        (
            "FSPTPTR and the pointers in the guest's tables must be guest addresses, not host addresses",
            "AW in the PASID entry (second stage) is too small for the guest's memory",
        ),
    ),
    R.SFS_6: Advice("The second stage does not let the unit read the guest's top table.", _GUEST_UNREADABLE),
    R.SFS_7: Advice("The second stage does not let the unit read one of the guest's tables.", _GUEST_UNREADABLE),
    R.SFS_8: Advice(
        "The unit must set an accessed or dirty flag in one of the guest's tables, but may not write there.",
        ("the second stage maps the guest's tables read-only (write tracking, copy-on-write)", _STALE),
    ),
    R.SFS_9: Advice(
        "The unit must set an accessed or dirty flag in a first-stage entry, but its walks are not coherent.",
        (
            "PWSNP in the PASID entry is 0, or the unit lacks ECAP.SMPWCS: software has to set A and D in the "
            "entries in advance",
        ),
    ),
    R.SFS_10: Advice("The unit could not set an accessed or dirty flag in a first-stage entry.", (_NOT_ATOMIC,)),
    R.SSS_1: Advice(
        "A second-stage table below the top one cannot be read: there is no memory at its address.",
        (_POINTER, _FREED),
    ),
    R.SSS_2: Advice(
        "The second stage does not map the address.",
        (
            _UNMAPPED,
            _NEVER,
            _RMRR,
            "nested translation: the guest memory that the first stage maps is not mapped in the second stage",
            _STALE,
            _CACHING_MODE,
        ),
    ),
    R.SSS_3: Advice(
        "A second-stage entry is present and has reserved bits set.",
        (_LARGE, "SNP without ECAP.SC", _WIDTH, _FREED),
    ),
    R.SSS_4: Advice(
        "The top second-stage table cannot be read: there is no memory at its address.",
        ("SSPTPTR in the PASID entry is wrong", _FREED),
    ),
    R.SSS_5: Advice(
        "The unit must set an accessed or dirty flag in a second-stage entry, but its walks are not coherent.",
        ("SSADE = 1 in the PASID entry requires PWSNP = 1 there, which needs ECAP.SMPWCS",),
    ),
    R.SSS_6: Advice("The unit could not set an accessed or dirty flag in a second-stage entry.", (_NOT_ATOMIC,)),
    R.SGN_1: Advice(
        "The address is not canonical: its top bits are not all equal.",
        (
            "four first-stage levels map the lowest and the highest 2**47 bytes; five levels map 2**56 bytes each",
            "the DMA address was allocated for a second stage of 48 bits, of which a first stage maps only the lower "
            "half",
        ),
    ),
    R.SGN_2: Advice(
        "A user request to a supervisor page.",
        (
            "U/S is 0 in the page's entry or in an entry above it",
            "requests without PASID are user requests unless RID_PRIV is set in the context entry",
        ),
    ),
    R.SGN_3: Advice(
        "The device asked to execute from a page that does not allow that.",
        ("XD is set in the page's entry or in an entry above it",),
    ),
    R.SGN_4: Advice(
        "The address is beyond the host address width: that of a pass-through request, or one it translates to.",
        (
            "pass-through takes host addresses only: a corrupt descriptor, or a DMA address from an earlier domain",
            _WIDTH,
        ),
    ),
    R.SGN_5: Advice(
        "The address is beyond what the second stage can map (the smaller of CAP.MGAW and the entry's AW).",
        (
            "the device's DMA mask is wider than the domain's address width",
            "nested translation: the first stage gives an address beyond the guest's memory",
        ),
    ),
    R.SGN_6: Advice(
        "The device wrote to a page that is mapped, but not for writing.",
        (
            _READ_ONLY,
            "the page is shared copy-on-write, or write-protected to track changes",
            "the permission was added without invalidating the IOTLB",
            _STALE,
        ),
    ),
    R.SGN_7: Advice("The device read from a page that is mapped, but not for reading.", (_WRITE_ONLY, _STALE)),
    R.SGN_8: Advice(
        "The address translates to the interrupt address range.",
        (
            _OUTPUT_FEE,
            "with pass-through: a request with a PASID to 0xFEExxxxx is not an interrupt message, and is blocked",
        ),
    ),
    R.SGN_10: Advice(
        "The PASID has more bits than the unit supports.",
        ("the device was given a PASID of more than ECAP.PSS + 1 bits",),
    ),
}
