"""Freedom has a name: where the architecture lets hardware choose, or public sources leave a doubt."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.registers import QueueFault
from iommu.structures import ResponseCode


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How one unit uses its freedom. The defaults are the strictest reading.

    Attributes:
        compress_faults: a fault is dropped, without overflow, while another from its source-id is pending
            (spec 7.2.1 allows it).
        permission_per_level: a missing permission is reported at the entry that lacks it, not at the leaf; a
            reserved bit further down then goes unseen (doubt D-4).
        depth_before_type: a legacy context entry's depth that the unit does not walk, 0x03, comes before its type
            that does not take such a request, 0x0D (doubt D-1).
        pass_through_by_deepest: in legacy mode, pass-through by a context entry that does not name the deepest tables
            the unit walks is told as LGN.1, 0x04 (doubt D-2).
        records_restart: turning translation off lets the next fault be recorded in the first register again
            (doubt D-23).
        translation_off_drops: in scalable mode's units (ECAP.SMTS), turning translation off drops all that is cached
            for DMA; one source says so.
        malformed_interrupt_faults: with interrupt remapping on, a request without PASID in the interrupt range that
            is no DWORD write raises 0x29; otherwise it is dropped without a fault (doubt D-6).
        source_validated_first: the source of an interrupt is validated, 0x26, before the reserved fields of its
            entry, 0x24 (doubt D-8).
        reserved_validation_fails: the reserved source validation type 3 is a failed validation, 0x26, not a reserved
            field, 0x24 (doubt D-10).
        posted_form_ignored: a unit without posted interrupts ignores IM instead of holding it reserved, 0x24
            (doubt D-11).
        cache_faulting: with caching mode, what is not present or erroneous is cached wherever it may be: contexts,
            PASID entries, second-stage translations and interrupt entries, never a first stage's (spec 6.1 lets a
            unit do so); otherwise nothing more than without caching mode.
        absent_interrupts_cached: interrupt-remapping entries that are not present are cached even without caching
            mode, so that making one present needs an invalidation (doubt D-31).
        unused_data_checked: the upper half of a remappable request's data must be 0 even where the data are not used
            (doubt D-32).
        cache_upper_levels: paging-structure caches are in use (spec 6.2.5 lets a unit have them).
        cache_capacity: entries each cache holds.
        nested_absent_is_no_permission: a first-stage table that the second stage does not map is told as one
            without read permission (SFS.6, SFS.7), not as a second-stage entry that is absent (doubt D-18).
        rid_pasid_must_be_zero: a RID_PASID that is not 0 on a unit without ECAP.RPS is a reserved field, not
            ignored (doubt D-5).
        rid_pasid_beyond_is_invalid: a RID_PASID beyond the directory is told as SCT.4, not as SCT.9 (doubt D-5).
        withdrawn_bits_reserved: NXE, SMEP and SSEE of a PASID-table entry are reserved, not ignored (doubt D-17).
        snooped_by_coherency: without ECAP.SMPWCS, a walk is snooped where ECAP.C says that tables are (doubt D-27).
        protect_remapped: protected memory regions block remapped requests too, as from architecture version 2 on
            they always do (spec 11.4.8).
        idle_wait_accepted: a wait descriptor that asks for nothing, IF = SW = FN = 0, does nothing; otherwise it is
            refused as reserved (doubt D-12).
        queue_moves_while_on: IQA can be written while the queue is on, which then begins anew there; otherwise the
            write is ignored (doubt D-13).
        queue_address_resets_tail: a write of IQA that is not ignored sets IQT to 0 (doubt D-13).
        status_write_fault: the error a wait descriptor's failed status write is told as (doubt D-14).
        status_write_fault_taken: the head moves past that wait descriptor (doubt D-14).
        page_event_per_group: only the last page request of a group sets PPR, not each (doubt D-15).
        overflow_response: what the unit answers the last request of a group that it cannot queue, so that the device
            tries again; None for no answer (doubt D-16).
        blocked_page_response: the same for a page request that was blocked by a fault. No public source says.
        pasid_invalidation_drops_second_stage: a PASID-selective invalidation of the IOTLB drops what the second stage
            alone translated in the domain, too (doubt D-21).
    """

    compress_faults: bool = False
    permission_per_level: bool = False
    depth_before_type: bool = False
    pass_through_by_deepest: bool = False
    records_restart: bool = False
    translation_off_drops: bool = True
    malformed_interrupt_faults: bool = True
    source_validated_first: bool = False
    reserved_validation_fails: bool = False
    posted_form_ignored: bool = False
    cache_faulting: bool = True
    absent_interrupts_cached: bool = False
    unused_data_checked: bool = False
    cache_upper_levels: bool = True
    cache_capacity: int = 1 << 20
    nested_absent_is_no_permission: bool = False
    rid_pasid_must_be_zero: bool = False
    rid_pasid_beyond_is_invalid: bool = False
    withdrawn_bits_reserved: bool = False
    snooped_by_coherency: bool = False
    protect_remapped: bool = True
    idle_wait_accepted: bool = True
    queue_moves_while_on: bool = False
    queue_address_resets_tail: bool = False
    status_write_fault: QueueFault = QueueFault.FETCH
    status_write_fault_taken: bool = False
    page_event_per_group: bool = False
    overflow_response: ResponseCode | None = ResponseCode.SUCCESS
    blocked_page_response: ResponseCode | None = ResponseCode.FAILURE
    pasid_invalidation_drops_second_stage: bool = False
    privileged_needs_supervisor: bool = False
    nested_pointers_within_host: bool = False
    unused_descriptor_fields_checked: bool = True
