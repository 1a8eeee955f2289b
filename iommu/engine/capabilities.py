"""What a unit can do, and the CAP and ECAP registers that say so (spec 11.4.2, 11.4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from iommu.errors import MisuseError
from iommu.registers import CAP, ECAP

_WIDTHS = {3: 39, 4: 48, 5: 57}
# What CAP.FRO and ECAP.IRO can say: 10 bits, in units of 16 bytes.
_OFFSETS = range(0, 0x4000, 16)

# Flags of this class and the bits that declare them.
_CAP_FLAGS = {
    "invalidate_on_root_pointer": CAP.ESRTPS,
    "invalidate_on_interrupt_pointer": CAP.ESIRTPS,
    "first_stage_5_level": CAP.FS5LP,
    "posted_interrupts": CAP.PI,
    "first_stage_1g": CAP.FS1GP,
    "drain_reads": CAP.DRD,
    "drain_writes": CAP.DWD,
    "page_selective": CAP.PSI,
    "zero_length_read": CAP.ZLR,
    "caching_mode": CAP.CM,
    "protected_high": CAP.PHMR,
    "protected_low": CAP.PLMR,
    "write_buffer_flush": CAP.RWBF,
}
_ECAP_FLAGS = {
    "stop_markers": ECAP.SMS,
    "rid_priv": ECAP.RPRIVS,
    "abort_dma": ECAP.ADMS,
    "rid_pasid": ECAP.RPS,
    "scalable_coherent": ECAP.SMPWCS,
    "first_stage": ECAP.FSTS,
    "second_stage": ECAP.SSTS,
    "second_stage_dirty": ECAP.SSADS,
    "scalable_mode": ECAP.SMTS,
    "page_request_drain": ECAP.PDS,
    "invalidation_throttle": ECAP.DIT,
    "pasid": ECAP.PASID,
    "extended_accessed": ECAP.EAFS,
    "no_write_requests": ECAP.NWFS,
    "supervisor_requests": ECAP.SRS,
    "execute_requests": ECAP.ERS,
    "page_requests": ECAP.PRS,
    "nested": ECAP.NEST,
    "snoop_control": ECAP.SC,
    "memory_types": ECAP.MTS,
    "pass_through": ECAP.PT,
    "extended_interrupts": ECAP.EIM,
    "interrupt_remapping": ECAP.IR,
    "device_tlb": ECAP.DT,
    "queued_invalidation": ECAP.QI,
    "coherent": ECAP.C,
}
# What each flag cannot be without.
_NEEDS = {
    "scalable_mode": ("queued_invalidation",),
    "device_tlb": ("queued_invalidation",),
    "posted_interrupts": ("interrupt_remapping",),
    "extended_interrupts": ("interrupt_remapping",),
    "invalidate_on_interrupt_pointer": ("interrupt_remapping",),
    "first_stage": ("scalable_mode",),
    "second_stage": ("scalable_mode",),
    "nested": ("first_stage", "second_stage"),
    "first_stage_5_level": ("first_stage",),
    "first_stage_1g": ("first_stage",),
    "extended_accessed": ("first_stage",),
    "second_stage_dirty": ("second_stage",),
    "scalable_coherent": ("scalable_mode",),
    "rid_pasid": ("scalable_mode",),
    "rid_priv": ("scalable_mode",),
    "abort_dma": ("queued_invalidation",),
    "pasid": ("scalable_mode",),
    "supervisor_requests": ("pasid",),
    "execute_requests": ("pasid",),
    "page_requests": ("scalable_mode", "device_tlb"),
    "page_request_drain": ("page_requests",),
    "stop_markers": ("page_requests",),
    "no_write_requests": ("device_tlb",),
    "invalidation_throttle": ("device_tlb",),
    "page_1g": ("page_2m",),
}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """One unit's capabilities; the defaults make a complete legacy-mode unit, `full` one that can do everything.

    Attributes:
        version: architecture version, major << 4 | minor.
        address_width: bits of the largest guest address (CAP.MGAW + 1).
        host_address_width: bits of a host address, from the DMAR; address bits beyond it are reserved.
        levels: the page-table depths it walks (CAP.SAGAW), out of 3, 4, 5; by default all that `address_width` needs.
        domain_id_bits: 4, 6, ... 16.
        page_2m, page_1g: second-stage large pages.
        max_address_mask: largest AM of a page-selective invalidation (CAP.MAMV); 0 to 63.
        max_index_mask: largest IM of an interrupt-entry invalidation (ECAP.MHMV); 0 to 15.
        pasid_bits: width of a PASID (ECAP.PSS + 1); 1 to 20.
        fault_records: fault recording registers, 1 to 256.
        fault_record_offset, iotlb_offset: register offsets in bytes, multiples of 16 (CAP.FRO, ECAP.IRO).
        The others are the flags of CAP and ECAP whose meaning they spell out.

    Raises:
        MisuseError: a combination no unit can have; the message says why.
    """

    version: int = 0x10
    address_width: int = 48
    host_address_width: int = 48
    levels: tuple[int, ...] = ()
    domain_id_bits: int = 16
    page_2m: bool = True
    page_1g: bool = True
    max_address_mask: int = 18
    max_index_mask: int = 15
    pasid_bits: int = 20
    fault_records: int = 1
    fault_record_offset: int = 0x220
    iotlb_offset: int = 0xF0

    pass_through: bool = True
    zero_length_read: bool = True
    page_selective: bool = True
    drain_reads: bool = True
    drain_writes: bool = True
    queued_invalidation: bool = True
    interrupt_remapping: bool = True
    coherent: bool = False
    snoop_control: bool = False
    memory_types: bool = False
    caching_mode: bool = False
    write_buffer_flush: bool = False
    protected_low: bool = False
    protected_high: bool = False
    device_tlb: bool = False
    extended_interrupts: bool = False
    posted_interrupts: bool = False
    invalidate_on_root_pointer: bool = False
    invalidate_on_interrupt_pointer: bool = False
    abort_dma: bool = False
    scalable_mode: bool = False
    scalable_coherent: bool = False
    first_stage: bool = False
    first_stage_5_level: bool = False
    first_stage_1g: bool = False
    second_stage: bool = False
    second_stage_dirty: bool = False
    nested: bool = False
    pasid: bool = False
    rid_pasid: bool = False
    rid_priv: bool = False
    supervisor_requests: bool = False
    execute_requests: bool = False
    extended_accessed: bool = False
    page_requests: bool = False
    page_request_drain: bool = False
    stop_markers: bool = False
    no_write_requests: bool = False
    invalidation_throttle: bool = False

    def __post_init__(self) -> None:
        if not self.levels:
            depths = tuple(level for level in _WIDTHS if _WIDTHS[level] - 9 < self.address_width)
            object.__setattr__(self, "levels", depths)
        for wrong, why in (
            (not 0 <= self.version < 256, "version is major << 4 | minor"),
            (not 31 <= self.address_width <= 57, "address_width is 31 to 57"),
            (not 32 <= self.host_address_width <= 52, "host_address_width is 32 to 52"),
            (not set(self.levels) <= set(_WIDTHS), "levels are out of 3, 4, 5"),
            (self.domain_id_bits not in range(4, 17, 2), "domain_id_bits is 4, 6, ... 16"),
            (not 0 <= self.max_address_mask < 64, "max_address_mask is 0 to 63"),
            (not 0 <= self.max_index_mask < 16, "max_index_mask is 0 to 15"),
            (not 1 <= self.pasid_bits <= 20, "pasid_bits is 1 to 20"),
            (not 1 <= self.fault_records <= 256, "fault_records is 1 to 256"),
            (self.fault_record_offset not in _OFFSETS, "fault_record_offset is a multiple of 16 below 0x4000"),
            (self.iotlb_offset not in _OFFSETS, "iotlb_offset is a multiple of 16 below 0x4000"),
        ):
            if wrong:
                raise MisuseError(f"impossible capabilities: {why}")
        for name, needed in _NEEDS.items():
            if getattr(self, name) and not all(getattr(self, other) for other in needed):
                raise MisuseError(f"impossible capabilities: {name} needs {' and '.join(needed)}")
        if self._overlapping():
            raise MisuseError("impossible capabilities: the fault records and IVA/IOTLB overlap other registers")

    def _overlapping(self) -> bool:
        first, last = self.fault_record_offset, self.fault_record_offset + 16 * self.fault_records
        fixed = 0xF0 if self.page_requests else 0xC0 if self.interrupt_remapping else 0x48
        return min(self.iotlb_offset, first) < fixed or (first < self.iotlb_offset + 16 and self.iotlb_offset < last)

    @classmethod
    def full(cls, **changes: Any) -> Capabilities:
        """A unit that can do everything, but for what would change the rules for all: caching mode, RWBF, ESRTPS.

        `changes` are fields that differ.
        """
        but = ("caching_mode", "write_buffer_flush", "invalidate_on_root_pointer", "invalidate_on_interrupt_pointer")
        flags = {name: name not in but for name in (*_CAP_FLAGS, *_ECAP_FLAGS)}
        return cls(**{**flags, "address_width": 57, "host_address_width": 52, **changes})

    @cached_property
    def offered(self) -> frozenset[str]:
        """The flags that are set, by name, as `Field.needs` and `Register.needs` use them."""
        flags = {part.name for part in fields(self) if getattr(self, part.name) is True}
        if self.protected_low or self.protected_high:
            flags.add("protected_memory")
        return frozenset(flags)

    @cached_property
    def cap(self) -> int:
        """The CAP register."""
        return CAP.make(
            **{part.name: getattr(self, name) for name, part in _CAP_FLAGS.items()},
            MAMV=self.max_address_mask,
            NFR=self.fault_records - 1,
            SSLPS=self.page_2m | self.page_1g << 1,
            FRO=self.fault_record_offset // 16,
            MGAW=self.address_width - 1,
            SAGAW=sum(1 << level - 2 for level in self.levels),
            ND=(self.domain_id_bits - 4) // 2,
        )

    @cached_property
    def ecap(self) -> int:
        """The ECAP register."""
        return ECAP.make(
            **{part.name: getattr(self, name) for name, part in _ECAP_FLAGS.items()},
            IRO=self.iotlb_offset // 16,
            MHMV=self.max_index_mask if self.interrupt_remapping else 0,
            PSS=self.pasid_bits - 1 if self.pasid else 0,
        )

    @classmethod
    def from_registers(cls, cap: int, ecap: int, host_address_width: int, version: int = 0x10) -> Capabilities:
        """The capabilities a unit declares.

        Args:
            cap, ecap, version: the registers.
            host_address_width: bits of a host address, from the DMAR header.

        Raises MisuseError where they contradict themselves, or offer no depth of page table this model knows.
        """
        low, high = CAP(cap), ECAP(ecap)
        levels = tuple(level for level in _WIDTHS if low.SAGAW >> level - 2 & 1)
        if not levels:
            raise MisuseError(f"CAP.SAGAW = {low.SAGAW:#x} offers none of 3, 4 and 5 levels")
        return cls(
            **dict(_flags(cap, ecap)),
            version=version,
            address_width=low.MGAW + 1,
            host_address_width=host_address_width,
            levels=levels,
            domain_id_bits=4 + 2 * low.ND,
            page_2m=bool(low.SSLPS & 1),
            page_1g=bool(low.SSLPS & 2),
            max_address_mask=low.MAMV,
            max_index_mask=high.MHMV if high.IR else cls.max_index_mask,
            pasid_bits=high.PSS + 1 if high.PASID else cls.pasid_bits,
            fault_records=low.NFR + 1,
            fault_record_offset=16 * low.FRO,
            iotlb_offset=16 * high.IRO,
        )


def _flags(cap: int, ecap: int) -> Iterator[tuple[str, bool]]:
    for name, part in _CAP_FLAGS.items():
        yield name, bool(part.get(cap))
    for name, part in _ECAP_FLAGS.items():
        yield name, bool(part.get(ecap))
