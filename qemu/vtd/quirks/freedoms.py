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
NO_RANGE_ERRORS = "vtd_mem_ir_ops takes aligned writes of DWORDs, and the memory core refuses the others"
NO_TABLE_CACHE = "the IOTLB holds whole translations, and nothing else of a walk is cached"
NO_FAULT_CACHE = "only translations and valid context entries are cached, with caching mode too"
QUEUE_ONLY = "vtd_handle_ccmd_write and vtd_handle_iotlb_write return at once while the queue is on"
DROPS_MORE = "a page-selective invalidation drops more pages than it names"
COLLAPSED = "vtd_try_collapse_fault drops a fault while one of the same source-id is pending"
PER_LEVEL = "the walk checks R and W of an entry before it reads the next table"
NO_PASID_CACHE = "the PASID-table entry is read from memory for each walk"
ANY_TYPE = "a PASID-based invalidation drops entries of every translation type"

FREEDOMS: tuple[Freedom, ...] = (
    Freedom("cache.context.domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("cache.root.outlives-srtp", 1, SRTP_RESETS),
    Freedom("ir.cache.other-index", 1, NO_ENTRY_CACHE),
    Freedom("ir.cache.stale", 1, NO_ENTRY_CACHE),
    Freedom("legacy.compression.same-device", 1, COLLAPSED),
    Freedom("legacy.permission.missing-above-reserved-below", 1, PER_LEVEL),
    Freedom("order.walk.table-before-permission", 1, PER_LEVEL),
    Freedom("queue.context.other-domain", 1, CONTEXT_GLOBAL),
    Freedom("registers.bits.feuaddr", 1, "vtd_init has the register read-only"),
    Freedom("registers.bits.ieuaddr", 1, "vtd_init has the register read-only"),
    Freedom("registers.bits.iedata", 1, "vtd_init lets software write all 32 bits"),
    Freedom("registers.gcmd.off-and-on", 1, "vtd_handle_gcmd_te resets the caches"),
    Freedom("registers.iva.upper-half", 1, DROPS_MORE, gone=(10, 0, 0)),
    Freedom("registers.ccmd.while-queue-is-on", 1, QUEUE_ONLY),
    Freedom("registers.iotlb.while-queue-is-on", 1, QUEUE_ONLY),
    Freedom("fault.compression.other-reason", 1, COLLAPSED),
    *(
        Freedom(f"cache.range.{by}-{mask}", 1, DROPS_MORE, gone=(10, 0, 0))
        for by in ("register", "queue")
        for mask in (9, 12, 18)
    ),
    *(
        Freedom(f"cache.large.{what}", 1, DROPS_MORE, gone=(10, 0, 0))
        for what in ("2m-beside", "2m-page-above", "1g-page-above")
    ),
    Freedom("cache.change.from-pass-through.root-pointer-keeps", 1, SRTP_RESETS),
    *(
        Freedom(f"cache.tables.level-{level}-{what}", 1, NO_TABLE_CACHE)
        for level in (4, 3, 2)
        for what in ("hint", "unused-page")
    ),
    Freedom("queue.accepted.idle-wait", 1, "vtd_process_wait_desc refuses a wait without SW, IF and FN"),
    *(Freedom(f"setup.caching.absent-level-{level}", 1, NO_FAULT_CACHE) for level in (4, 3, 2, 1)),
    *(
        Freedom(f"setup.caching.{what}", 1, NO_FAULT_CACHE)
        for what in ("reserved-bit", "absent-context", "faulty-context", "absent-root")
    ),
    *(
        Freedom(f"setup.device-tlb.transient-level-{level}", 1, "TM is reserved without stale-tm", first=(10, 0, 0))
        for level in (1, 2, 3)
    ),
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
    Freedom("scalable.cache.second.by-pasid", 1, ANY_TYPE, first=(10, 0, 0)),
    Freedom("scalable.cache.srtp.alone", 1, SRTP_RESETS),
    Freedom("scalable.first.missing-above-reserved-below", 1, PER_LEVEL),
)


def freedom_of(scenario: str, version: Version) -> int:
    """The outcome that a version takes in that scenario: one of its `allowed`, counted from 1, or EXPECTED."""
    for freedom in FREEDOMS:
        known = freedom.first <= version and (freedom.gone is None or version < freedom.gone)
        if freedom.scenario == scenario and known:
            return freedom.outcome
    return EXPECTED
