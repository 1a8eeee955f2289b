"""What each fault reason means to whoever has to fix it, and where to look first.

The conditions are those of spec 7.1.3 (DMA) and 5.1.4 (interrupts); the advice is what causes them in practice.
"""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.reasons import FaultReason as R


class Advice(NamedTuple):
    """For one reason: what the unit saw, and causes, the likeliest first."""

    means: str
    look: tuple[str, ...]


# Causes that many reasons share.
_FLUSH = "the table was written but is still in the CPU's caches: with ECAP.C = 0 software flushes what it writes"
_SCALABLE_FLUSH = "the entry is still in the CPU's caches: without ECAP.C (SMPWCS below the PASID entry) flush it"
_FREED = "the page of the table was freed or reused while the unit still points to it: poisoned or foreign contents"
_WIDTH = "an address at or above the host address width of the DMAR (CPUID's physical width may be larger)"
_NOWHERE = "the pointer above it is wrong: garbage, a virtual address, or above the host address width"
_REVISION = "bits of a newer revision, or of a capability this unit does not have, are set"
_WRONG_UNIT = "the tables were set up on another unit: the DMAR's DRHD scopes say which unit a device is behind"
_ALIAS = (
    "the request carries another requester id than the device's own: behind a PCIe-to-PCI bridge it is the bridge's; "
    "some devices use function 0 or a function that does not exist"
)
_EARLY = (
    "the device does DMA without its driver: left running by the firmware, by a kernel before kexec, "
    "or by a driver that went away without stopping it"
)
_UNMAPPED = "the buffer was unmapped while the device still had it: stop the queue and wait before unmapping"
_NEVER = "the address was never mapped: a physical or virtual address was given to the device, not a DMA address"
_RMRR = "firmware memory (RMRR) that the device uses was not mapped for it: compare with `vtd dmar topology`"
_STALE_OLD = (
    "a stale translation: an entry changed and the IOTLB was not invalidated, or with another domain-id or page range"
)
_CACHING = "a unit with CAP.CM = 1 (most virtual ones) needs an invalidation for entries that become present too"
_STALE_CONTEXT = (
    "a stale context: after changing the entry, invalidate the context cache, then the IOTLB, in that order"
)
_STALE_PASID = "a stale PASID entry: after changing it, invalidate the PASID cache, then the PASID's IOTLB"
_LARGE = "a large page that the unit does not offer (CAP.SSLPS), or that is not aligned to its size"
_IRTE_STALE = "the entry changed and the interrupt entry cache was not invalidated"
_WHO = "the index says which: look up the entry in the interrupt remapping table (IRTA + 16 * index)"
_OUTPUT_FEE = "a page is mapped to host memory 0xFEE00000-0xFEEFFFFF: no DMA translation may lead there"

ADVICE: dict[R, Advice] = {
    R.LRT_2: Advice(
        "The device's bus has no context table.",
        (
            "the bus number: renumbered bridges, hot-plugged and virtual functions are on other buses",
            _ALIAS,
            _WRONG_UNIT,
            _FLUSH,
        ),
    ),
    R.LCT_2: Advice(
        "Nobody has set the device up for DMA: its context entry is not present.",
        (_EARLY, _ALIAS, _WRONG_UNIT, "a unit with CAP.CM = 1 needs a context-cache invalidation first", _FLUSH),
    ),
    R.LCT_4: Advice(
        "The context entry asks for something this unit does not have.",
        (
            "AW: a number of levels that is not in CAP.SAGAW; units of one machine can differ",
            "TT: pass-through without ECAP.PT, or device-TLBs without ECAP.DT",
            "the second-stage table pointer leads to where there is no memory",
            _FREED,
        ),
    ),
    R.LGN_1: Advice(
        "The address is beyond what the device's tables can map (the smaller of CAP.MGAW and the entry's AW).",
        (
            "the driver set a DMA mask wider than the domain's address width, or passed an address by hand",
            "AW in the context entry is smaller than the number of levels that were built",
            "in pass-through, an address beyond the host's memory: a corrupt descriptor",
        ),
    ),
    R.LGN_2: Advice(
        "The device wrote to a page that is not mapped, or not for writing.",
        (
            _UNMAPPED,
            "the buffer was mapped for reading only: the direction given when mapping (to the device, from it)",
            _NEVER,
            _RMRR,
            _STALE_OLD,
            _CACHING,
        ),
    ),
    R.LGN_3: Advice(
        "The device read from a page that is not mapped, or not for reading.",
        (
            _UNMAPPED,
            "prefetching past the end of a buffer: the page behind it is not mapped",
            "the buffer was mapped for writing only; most devices read the descriptors they write",
            _NEVER,
            _RMRR,
            _STALE_OLD,
            _CACHING,
        ),
    ),
    R.LSL_1: Advice(
        "A table below the top one is where there is no memory.",
        (_NOWHERE, _FREED, _FLUSH),
    ),
    R.LRT_1: Advice(
        "The root table is where there is no memory.",
        ("RTADDR, and whether SRTP was given after writing it", _WIDTH),
    ),
    R.LCT_1: Advice("The context table is where there is no memory.", (_NOWHERE, _FREED, _FLUSH)),
    R.LRT_3: Advice(
        "The root entry is present, and bits that must be 0 are not.",
        (_WIDTH, "scalable-mode entries read in legacy mode: RTADDR.TTM when SRTP was given", _FREED),
    ),
    R.LCT_3: Advice(
        "The context entry is present, and bits that must be 0 are not.",
        (
            "a domain-id wider than CAP.ND offers",
            "an entry that was present was changed in place: the unit saw it half written. Clear P first",
            _WIDTH,
            _FREED,
        ),
    ),
    R.LSL_2: Advice(
        "A second-stage entry maps something, and bits that must be 0 are not.",
        (
            _LARGE,
            "SNP on a unit without ECAP.SC: units of one machine differ, and a domain may span several",
            _WIDTH,
            _FREED,
        ),
    ),
    R.LCT_5: Advice(
        "A device with a device-TLB (ATS) is not allowed to use it.",
        (
            "ATS is enabled in the device, but TT in its context entry is not 1: set it first, clear it last",
            "the device sends translated requests although ATS is off in it: a device fault, or an attack",
            _STALE_CONTEXT,
        ),
    ),
    R.LGN_4: Advice("The translation leads to the interrupt address range.", (_OUTPUT_FEE,)),
    R.IR_20: Advice(
        "The interrupt message has bits set that must be 0.",
        (
            "the device's MSI address and data were written by hand, not from the remapping code",
            "a write to 0xFEExxxxx that was meant as DMA: a stray pointer",
        ),
    ),
    R.IR_21: Advice(
        "The message's index is beyond the interrupt remapping table.",
        (
            "an MSI message left from before remapping was set up, read as an index",
            "IRTA.S is smaller than what was allocated, or the subhandle (MSI data) adds too much",
            "in an I/O APIC entry, index bit 15 is bit 11",
        ),
    ),
    R.IR_22: Advice(
        "The interrupt's remapping entry is not present.",
        (
            "the interrupt was freed while the device could still send it: mask it in the device first",
            "a second unit: entries are per unit, and the device is behind another one",
            "kexec: a device still sends what the kernel before had set up",
            _WHO,
        ),
    ),
    R.IR_23: Advice(
        "The interrupt remapping table is where there is no memory.", ("IRTA, and SIRTP after it", _WIDTH)
    ),
    R.IR_24: Advice(
        "The interrupt remapping entry has bits set that must be 0.",
        (
            "DST: without IRTA.EIME an APIC id of 8 bits stands in bits 15:8; all others are 0",
            "the posted form (IM) on a unit without CAP.PI",
            "an entry changed in two writes was used in between: write it with one of 16 bytes",
            _WHO,
        ),
    ),
    R.IR_25: Advice(
        "A message in the old format, while remapping is on.",
        (
            "the device's MSI, HPET or I/O APIC entry was not rewritten when remapping was turned on: set up again, "
            "or never by this kernel",
            "a stray DMA write to 0xFEExxxxx",
            "compatibility format passes only with GSTS.CFIS = 1 and IRTA.EIME = 0",
        ),
    ),
    R.IR_26: Advice(
        "The interrupt came from another source-id than its entry allows.",
        (
            "the requester id is an alias: behind a PCIe-to-PCI bridge, of a virtual function, of a phantom function",
            "an I/O APIC or HPET: its source-id is what the DMAR's device scope says, not a PCI device's",
            "SVT = 2 compares a range of bus numbers: the first in SID 15:8, the last in SID 7:0",
            "a device of one guest raises interrupts of another",
            _WHO,
        ),
    ),
    R.IR_27: Advice(
        "The posted-interrupt descriptor is where there is no memory.",
        ("PDA in the entry: bits 31:6 and 63:32 stand apart", "the virtual processor was freed before its entries"),
    ),
    R.IR_28: Advice(
        "The posted-interrupt descriptor has bits set that must be 0.",
        ("the descriptor was freed or reused: 64 bytes, aligned to 64", "PDA points to something else"),
    ),
    R.IR_29: Advice(
        "A request in the interrupt range that is not an interrupt message.",
        ("a read of 0xFEExxxxx, or a write that is not one DWORD: a stray DMA address, rarely a broken device",),
    ),
    R.RTA_1: Advice(
        "RTADDR.TTM names a mode this unit does not have.",
        ("scalable mode (1) needs ECAP.SMTS, abort-DMA (3) ECAP.ADMS; 2 is the withdrawn extended mode",),
    ),
    R.RTA_2: Advice(
        "A request with a PASID while the unit is in legacy mode.",
        ("PASID is enabled in the device, but the unit is not in scalable mode: turn it off in the device",),
    ),
    R.RTA_3: Advice(
        "A page request while the unit is in legacy mode.",
        ("PRI is enabled in the device, but the unit is not in scalable mode: turn it off in the device",),
    ),
    R.SRT_1: Advice("The root table is where there is no memory.", ("RTADDR, and whether SRTP was given", _WIDTH)),
    R.SRT_2: Advice(
        "The device's half bus has no context table: devices 0-15 and 16-31 have one each.",
        (
            "the upper half (devices 16 to 31) was never set",
            "the bus number: renumbered bridges, hot-plugged and virtual functions are on other buses",
            _ALIAS,
            _WRONG_UNIT,
            _SCALABLE_FLUSH,
        ),
    ),
    R.SRT_3: Advice("Half a root entry is present, and bits that must be 0 are not.", (_WIDTH, _FREED)),
    R.SCT_1: Advice("The context table is where there is no memory.", (_NOWHERE, _FREED)),
    R.SCT_2: Advice(
        "Nobody has set the device up for DMA: its context entry is not present.",
        (_EARLY, _ALIAS, _WRONG_UNIT, "a unit with CAP.CM = 1 needs a context-cache invalidation", _SCALABLE_FLUSH),
    ),
    R.SCT_3: Advice(
        "The context entry is present, and bits that must be 0 are not.",
        (
            "DTE without ECAP.DT, PRE without ECAP.PRS, RID_PRIV without ECAP.RPRIVS",
            "scalable entries have 32 bytes: the index is device and function modulo 128",
            _FREED,
        ),
    ),
    R.SCT_4: Advice("The context entry asks for something this unit does not have.", (_REVISION, _FREED)),
    R.SCT_5: Advice(
        "A device with a device-TLB (ATS) is not allowed to use it.",
        (
            "ATS is enabled in the device, but DTE in its context entry is 0: set it first, clear it last",
            "translated requests although ATS is off in the device: a device fault, or an attack",
            _STALE_CONTEXT,
        ),
    ),
    R.SCT_6: Advice(
        "The request carries a PASID, and the context entry does not allow any.",
        ("PASIDE in the context entry: set it before PASID is enabled in the device", _STALE_CONTEXT),
    ),
    R.SCT_7: Advice(
        "The PASID is beyond the directory.",
        (
            "PDTS: the directory has 2**(PDTS+7) entries of 64 PASIDs each",
            "the device was given a PASID wider than ECAP.PSS + 1 bits",
        ),
    ),
    R.SCT_8: Advice(
        "A page request, and the context entry does not allow any.",
        ("PRE in the context entry: set it before PRI is enabled in the device", _STALE_CONTEXT),
    ),
    R.SCT_9: Advice(
        "The PASID for requests without one is beyond the directory.",
        ("RID_PASID against PDTS", "RID_PASID is used only with ECAP.RPS; otherwise it is to be 0"),
    ),
    R.SPD_1: Advice("The PASID directory is where there is no memory.", (_NOWHERE, _FREED)),
    R.SPD_2: Advice(
        "None of the 64 PASIDs around this one has a table.",
        ("the PASID was never attached, or was freed while the device used it", _SCALABLE_FLUSH, _STALE_PASID),
    ),
    R.SPD_3: Advice("The PASID directory entry is present, and bits that must be 0 are not.", (_WIDTH, _FREED)),
    R.SPT_1: Advice("The PASID table is where there is no memory.", (_NOWHERE, _FREED)),
    R.SPT_2: Advice(
        "The PASID has no address space: its entry is not present.",
        (
            "the process exited, or the PASID was freed, while the device still used it: drain the device first",
            "requests without PASID use RID_PASID, as a rule 0: its entry has to be there too",
            _STALE_PASID,
            _SCALABLE_FLUSH,
        ),
    ),
    R.SPT_3: Advice(
        "The PASID table entry is present, and bits that must be 0 are not.",
        (_REVISION, "SSADE, PWSNP, PGSNP, EAFE, SRE, memory types: each needs its bit in ECAP", _WIDTH, _FREED),
    ),
    R.SPT_4: Advice(
        "The PASID table entry asks for something this unit does not have.",
        (
            "PGTT: first stage needs ECAP.FSTS, second ECAP.SSTS, nested ECAP.NEST, pass-through ECAP.PT",
            "AW: a number of second-stage levels that is not in CAP.SAGAW",
            "FSPM: five first-stage levels need CAP.FS5LP",
        ),
    ),
    R.SPT_5: Advice(
        "An execute request, and the PASID entry does not allow any.",
        ("ERE in the PASID entry", "current revisions have no execute requests: turn them off in the device"),
    ),
    R.SPT_6: Advice(
        "A privileged request, and the PASID entry does not allow any.",
        ("SRE in the PASID entry, RID_PRIV in the context entry", "privileged mode is enabled in the device's PASID"),
    ),
    R.SFS_1: Advice("A first-stage table is where there is no memory.", (_NOWHERE, _FREED)),
    R.SFS_2: Advice(
        "Nothing is mapped at that address.",
        (
            _UNMAPPED,
            _NEVER,
            "shared virtual memory: the page is not resident and the device did not ask for it (PRI, ATS)",
            _RMRR,
            _STALE_OLD,
        ),
    ),
    R.SFS_3: Advice(
        "A first-stage entry is present, and bits that must be 0 are not.",
        (
            "1 GiB pages need CAP.FS1GP",
            _WIDTH,
            "the CPU's tables are shared, and it uses bits the unit holds reserved",
            _FREED,
        ),
    ),
    R.SFS_4: Advice(
        "The top first-stage table is where there is no memory.",
        ("FSPTPTR in the PASID entry; where nested it is a guest address", _FREED),
    ),
    R.SFS_5: Advice(
        "The guest's own tables lie beyond what the second stage can map.",
        ("FSPTPTR and table pointers are guest addresses: host addresses were put there", "AW of the second stage"),
    ),
    R.SFS_6: Advice(
        "The second stage gives no read permission for the guest's top table.",
        ("the guest's memory is not mapped, or write-only, in the second stage", _STALE_OLD),
    ),
    R.SFS_7: Advice(
        "The second stage gives no read permission for one of the guest's tables.",
        ("the guest's memory is not mapped, or write-only, in the second stage", _STALE_OLD),
    ),
    R.SFS_8: Advice(
        "The unit has to set accessed or dirty in a guest's table and may not write there.",
        ("the second stage maps the guest's tables read-only (write-tracking, copy on write)",),
    ),
    R.SFS_9: Advice(
        "The unit has to set accessed or dirty, but its walks are not coherent.",
        ("PWSNP in the PASID entry is 0, or the unit lacks ECAP.SMPWCS: set A and D in the entries beforehand",),
    ),
    R.SFS_10: Advice(
        "The unit could not set accessed or dirty.",
        ("the table is in memory that cannot be written atomically: a device's, or a ROM",),
    ),
    R.SSS_1: Advice("A second-stage table is where there is no memory.", (_NOWHERE, _FREED)),
    R.SSS_2: Advice(
        "Nothing is mapped at that address.",
        (_UNMAPPED, _NEVER, _RMRR, _STALE_OLD, _CACHING),
    ),
    R.SSS_3: Advice(
        "A second-stage entry maps something, and bits that must be 0 are not.",
        (_LARGE, "SNP on a unit without ECAP.SC", _WIDTH, _FREED),
    ),
    R.SSS_4: Advice(
        "The top second-stage table is where there is no memory.", ("SSPTPTR in the PASID entry", _FREED)
    ),
    R.SSS_5: Advice(
        "The unit has to set accessed or dirty, but its walks are not coherent.",
        ("SSADE = 1 goes with PWSNP = 1 in the PASID entry, which needs ECAP.SMPWCS",),
    ),
    R.SSS_6: Advice(
        "The unit could not set accessed or dirty.",
        ("the table is in memory that cannot be written atomically: a device's, or a ROM",),
    ),
    R.SGN_1: Advice(
        "The address is not canonical: its top bits are not all equal.",
        (
            "48-bit tables take addresses below 2**47 and the top 2**47; with five levels it is 2**56",
            "an address for a 4-level second stage was used with a first stage: half of it is missing",
        ),
    ),
    R.SGN_2: Advice(
        "A user request to a page of the supervisor.",
        (
            "U/S is 0 in the page's entry or in one above it",
            "requests without PASID are user requests unless RID_PRIV is set",
        ),
    ),
    R.SGN_3: Advice("An execute request to a page that has XD.", ("XD in the page's entry or in one above it",)),
    R.SGN_4: Advice(
        "The address, in pass-through or as the result, is beyond the host address width.",
        (
            "pass-through takes host addresses only: a corrupt descriptor, or an address of a domain used before",
            _WIDTH,
        ),
    ),
    R.SGN_5: Advice(
        "The address is beyond what the second stage can map (the smaller of CAP.MGAW and AW).",
        ("the DMA mask is wider than the domain", "nested: a guest address beyond the guest's memory"),
    ),
    R.SGN_6: Advice(
        "The device wrote to a page that is mapped, but not for writing.",
        (
            "the buffer was mapped for reading only: the direction given when mapping (to the device, from it)",
            "a page shared copy-on-write, or write-protected for tracking",
            "permissions were widened without invalidating the IOTLB",
            _STALE_OLD,
        ),
    ),
    R.SGN_7: Advice(
        "The device read from a page that is mapped, but not for reading.",
        ("the buffer was mapped for writing only; most devices read the descriptors they write", _STALE_OLD),
    ),
    R.SGN_8: Advice(
        "The translation leads to the interrupt address range.",
        (_OUTPUT_FEE, "a request with a PASID to 0xFEExxxxx in pass-through is not an interrupt, and is blocked"),
    ),
}
