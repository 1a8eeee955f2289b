"""Which freedom of the specification each QEMU version uses.

Where the specification leaves hardware a choice, a scenario allows several outcomes, and all of them are right. Which
one a QEMU takes is pinned here, for a change would otherwise go unseen. Quirks are something else: wrong outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

from qemu.vtd.quirks.quirk import FIRST, Version

EXPECTED = 0
"""The outcome of a version without a line: what the scenario expects, none of the others that it allows."""


@dataclass(frozen=True)
class Freedom:
    """One scenario in which QEMU takes another outcome than the expected one.

    Attributes:
        scenario: its id.
        outcome: which of the scenario's `allowed`, counted from 1.
        because: what in QEMU makes it so.
        first: the first version known to do so.
        gone: the first version that no longer does; None when every later one does.
    """

    scenario: str
    outcome: int
    because: str
    first: Version = FIRST
    gone: Version | None = None


CONTEXT_GLOBAL = "each context-cache invalidation that names a domain is performed as a global one"
SRTP_RESETS = "a new root table resets the context cache and the IOTLB"
NO_ENTRY_CACHE = "without KVM, the interrupt entry is read from memory for each interrupt"
COLLAPSED = "vtd_try_collapse_fault drops a fault while one of the same source-id is pending"
PER_LEVEL = "the walk checks R and W of an entry before it reads the next table"
NO_UPPER_CACHE = "only whole translations are cached, no upper entries"
NO_FAULT_CACHE = "what faults is cached nowhere, with caching mode too"
TE_RESETS = "turning translation off resets the context cache and the IOTLB"
MASK_8_BITS = "a page-selective invalidation compares the low 8 bits of the page number only"
BUSY = "vtd_handle_ccmd_write and vtd_handle_iotlb_write return before the command while the queue is on"
UPPER_ABSENT = "vtd_init defines the upper addresses of messages as read-only"
DATA_32_BITS = "vtd_init gives IEDATA 32 bits"
WAIT_FOR_NOTHING = "vtd_process_wait_desc refuses a wait descriptor that asks for nothing"
TM_RESERVED = "bit 62 is reserved unless stale-tm is set"
NO_RANGE_ERRORS = "vtd_mem_ir_ops takes aligned writes of DWORDs, and the memory core refuses the others"
NO_PASID_CACHE = "the PASID-table entry is read from memory for each walk"
SPLIT = "the memory core takes an access apart by its alignment, and refuses parts shorter than 32 bits"
LOWER_ONLY = "vtd_mem_write takes 64 bits for a register of 32 as its lower half"
EVICTED_ALL = "vtd_update_iotlb drops all translations once it has cached VTD_IOTLB_MAX_SIZE, 1024"

FREEDOMS: tuple[Freedom, ...] = (
    Freedom("cache.capacity.1030-pages", 1, EVICTED_ALL),
    Freedom("cache.change.from-pass-through.root-pointer-keeps", 1, SRTP_RESETS),
    Freedom("cache.context.domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.large.1g-page-above", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.large.2m-beside", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.large.2m-page-above", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.queue-12", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.queue-18", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.queue-9", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.register-12", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.register-18", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.range.register-9", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("cache.root.outlives-srtp", 1, SRTP_RESETS),
    Freedom("cache.tables.level-2-hint", 1, NO_UPPER_CACHE),
    Freedom("cache.tables.level-2-unused-page", 1, NO_UPPER_CACHE),
    Freedom("cache.tables.level-3-hint", 1, NO_UPPER_CACHE),
    Freedom("cache.tables.level-3-unused-page", 1, NO_UPPER_CACHE),
    Freedom("cache.tables.level-4-hint", 1, NO_UPPER_CACHE),
    Freedom("cache.tables.level-4-unused-page", 1, NO_UPPER_CACHE),
    Freedom("fault.compression.other-reason", 1, COLLAPSED),
    Freedom("ir.cache.other-index", 1, NO_ENTRY_CACHE),
    Freedom("ir.cache.stale", 1, NO_ENTRY_CACHE),
    Freedom("legacy.compression.same-device", 1, COLLAPSED),
    Freedom("legacy.permission.missing-above-reserved-below", 1, PER_LEVEL),
    Freedom("order.walk.table-before-permission", 1, PER_LEVEL),
    Freedom("queue.accepted.idle-wait", 1, WAIT_FOR_NOTHING),
    Freedom("queue.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("registers.access.pair-feaddr", 1, UPPER_ABSENT),
    Freedom("registers.access.pair-fectl", 1, LOWER_ONLY, first=(11, 0, 0)),
    Freedom("registers.access.pair-ieaddr", 1, LOWER_ONLY, first=(11, 0, 0)),
    Freedom("registers.access.pair-iectl", 1, LOWER_ONLY, first=(11, 0, 0)),
    Freedom("registers.access.read-64-unaligned", 1, SPLIT),
    Freedom("registers.access.write-64-unaligned-gcmd", 1, SPLIT),
    Freedom("registers.bits.feuaddr", 1, UPPER_ABSENT),
    Freedom("registers.bits.iedata", 1, DATA_32_BITS),
    Freedom("registers.bits.ieuaddr", 1, UPPER_ABSENT),
    Freedom("registers.ccmd.while-queue-is-on", 1, BUSY),
    Freedom("registers.gcmd.off-and-on", 1, TE_RESETS),
    Freedom("registers.iotlb.while-queue-is-on", 1, BUSY),
    Freedom("registers.iva.upper-half", 1, MASK_8_BITS, gone=(10, 0, 0)),
    Freedom("setup.caching.absent-context", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.absent-level-1", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.absent-level-2", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.absent-level-3", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.absent-level-4", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.absent-root", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.faulty-context", 1, NO_FAULT_CACHE),
    Freedom("setup.caching.reserved-bit", 1, NO_FAULT_CACHE),
    Freedom("setup.device-tlb.transient-level-1", 1, TM_RESERVED, first=(10, 0, 0)),
    Freedom("setup.device-tlb.transient-level-2", 1, TM_RESERVED, first=(10, 0, 0)),
    Freedom("setup.device-tlb.transient-level-3", 1, TM_RESERVED, first=(10, 0, 0)),
    *(
        Freedom(f"ir.dma.{what}", 1, NO_RANGE_ERRORS)
        for what in ("one-byte", "two-bytes", "three-bytes", "unaligned", "read")
    ),
    Freedom("ir.subhandle.wraps", 1, "vtd_interrupt_remap_msi adds in 16 bits"),
    *(Freedom(f"ir.cache.{what}", 1, NO_ENTRY_CACHE) for what in ("beside-3", "beside-8", "new-table", "off-and-on")),
    *(
        Freedom(f"ir.change.{what}", 1, NO_ENTRY_CACHE, first=(10, 0, 0))
        for what in ("made-absent-stale", "source", "for-another-device")
    ),
    *(
        Freedom(f"ir.source.svt-3-sq-{sq}", 1, "vtd_irte_get takes SVT 3 for a failed validation", first=(10, 0, 0))
        for sq in range(4)
    ),
    Freedom("scalable.cache.entry.new-domain", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.only-context-cache", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.only-iotlb", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.other-pasid", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.pasid-new-domain", 1, NO_PASID_CACHE),
    Freedom("scalable.cache.entry.stale", 1, NO_PASID_CACHE),
    *(Freedom(f"scalable.cache.first.hint-1-level-{level}", 1, NO_UPPER_CACHE) for level in (2, 3, 4)),
    Freedom("scalable.cache.srtp.alone", 1, SRTP_RESETS),
    *(
        Freedom(f"scalable.caching.absent-{what}", 1, NO_FAULT_CACHE, first=(8, 0, 0))
        for what in ("directory", "entry")
    ),
    Freedom("scalable.first.missing-above-reserved-below", 1, PER_LEVEL, first=(11, 0, 0)),
)


def freedom_of(scenario: str, version: Version) -> int:
    """The outcome that a version takes in that scenario: one of its `allowed`, counted from 1, or EXPECTED."""
    for freedom in FREEDOMS:
        known = freedom.first <= version and (freedom.gone is None or version < freedom.gone)
        if freedom.scenario == scenario and known:
            return freedom.outcome
    return EXPECTED
