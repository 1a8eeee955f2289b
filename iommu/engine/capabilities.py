"""What a unit can do, and the CAP and ECAP registers that say so (spec 11.4.2, 11.4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.errors import MisuseError
from iommu.registers import CAP, ECAP

_WIDTHS = {3: 39, 4: 48, 5: 57}
# What CAP.FRO and ECAP.IRO can say: 10 bits, in units of 16 bytes.
_OFFSETS = range(0, 0x4000, 16)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """One unit's capabilities; the defaults make a small, complete legacy-mode unit.

    Attributes:
        address_width: bits of the largest guest address (CAP.MGAW + 1).
        host_address_width: bits of a host address, from the DMAR; address bits beyond it are reserved.
        levels: the page-table depths it walks (CAP.SAGAW), out of 3, 4, 5; by default all that `address_width` needs.
        domain_id_bits: 4, 6, ... 16.
        page_2m, page_1g: second-stage large pages.
        max_address_mask: largest AM of a page-selective invalidation (CAP.MAMV); 0 to 63.
        fault_records: fault recording registers, 1 to 256.
        fault_record_offset, iotlb_offset: register offsets in bytes, multiples of 16 (CAP.FRO, ECAP.IRO).
        The others are the flags of CAP and ECAP whose names they spell out.

    Raises:
        MisuseError: a combination no unit can have.
    """

    address_width: int = 48
    host_address_width: int = 48
    levels: tuple[int, ...] = ()
    domain_id_bits: int = 16
    page_2m: bool = True
    page_1g: bool = True
    pass_through: bool = True
    device_tlb: bool = False
    snoop_control: bool = False
    caching_mode: bool = False
    write_buffer_flush: bool = False
    zero_length_read: bool = True
    page_selective: bool = True
    max_address_mask: int = 18
    drain_reads: bool = True
    drain_writes: bool = True
    invalidate_on_root_pointer: bool = False
    fault_records: int = 1
    fault_record_offset: int = 0x220
    iotlb_offset: int = 0xF0

    def __post_init__(self) -> None:
        if not self.levels:
            depths = tuple(level for level in _WIDTHS if _WIDTHS[level] - 9 < self.address_width)
            object.__setattr__(self, "levels", depths)
        for wrong, why in (
            (not 31 <= self.address_width <= 57, "address_width is 31 to 57"),
            (not 32 <= self.host_address_width <= 52, "host_address_width is 32 to 52"),
            (not set(self.levels) <= set(_WIDTHS), "levels are out of 3, 4, 5"),
            (self.domain_id_bits not in range(4, 17, 2), "domain_id_bits is 4, 6, ... 16"),
            (not 0 <= self.max_address_mask < 64, "max_address_mask is 0 to 63"),
            (not 1 <= self.fault_records <= 256, "fault_records is 1 to 256"),
            (self.fault_record_offset not in _OFFSETS, "fault_record_offset is a multiple of 16 below 0x4000"),
            (self.iotlb_offset not in _OFFSETS, "iotlb_offset is a multiple of 16 below 0x4000"),
            (self.page_1g and not self.page_2m, "1 GiB pages come with 2 MiB pages"),
        ):
            if wrong:
                raise MisuseError(f"impossible capabilities: {why}")
        if self._overlapping():
            raise MisuseError("impossible capabilities: the fault records and IVA/IOTLB overlap other registers")

    def _overlapping(self) -> bool:
        first, last = self.fault_record_offset, self.fault_record_offset + 16 * self.fault_records
        return min(self.iotlb_offset, first) < 0x48 or (first < self.iotlb_offset + 16 and self.iotlb_offset < last)

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that fields of tables depend on, by the names `Field.needs` uses."""
        names = ("snoop_control", "device_tlb", "page_2m", "page_1g")
        return frozenset(name for name in names if getattr(self, name))

    @property
    def cap(self) -> int:
        """The CAP register."""
        return CAP.make(
            ESRTPS=self.invalidate_on_root_pointer,
            DRD=self.drain_reads,
            DWD=self.drain_writes,
            MAMV=self.max_address_mask,
            NFR=self.fault_records - 1,
            PSI=self.page_selective,
            SSLPS=self.page_2m | self.page_1g << 1,
            FRO=self.fault_record_offset // 16,
            ZLR=self.zero_length_read,
            MGAW=self.address_width - 1,
            SAGAW=sum(1 << level - 2 for level in self.levels),
            CM=self.caching_mode,
            RWBF=self.write_buffer_flush,
            ND=(self.domain_id_bits - 4) // 2,
        )

    @property
    def ecap(self) -> int:
        """The ECAP register."""
        return ECAP.make(IRO=self.iotlb_offset // 16, SC=self.snoop_control, PT=self.pass_through, DT=self.device_tlb)

    @classmethod
    def from_registers(cls, cap: int, ecap: int, host_address_width: int) -> Capabilities:
        """The capabilities a unit declares, as far as this model has them.

        Args:
            cap, ecap: the registers.
            host_address_width: bits of a host address, from the DMAR header.

        Raises MisuseError where they contradict themselves, or offer no depth of page table this model knows.
        """
        low, high = CAP(cap), ECAP(ecap)
        levels = tuple(level for level in _WIDTHS if low.SAGAW >> level - 2 & 1)
        if not levels:
            raise MisuseError(f"CAP.SAGAW = {low.SAGAW:#x} offers none of 3, 4 and 5 levels")
        return cls(
            address_width=low.MGAW + 1,
            host_address_width=host_address_width,
            levels=levels,
            domain_id_bits=4 + 2 * low.ND,
            page_2m=bool(low.SSLPS & 1),
            page_1g=bool(low.SSLPS & 2),
            pass_through=bool(high.PT),
            device_tlb=bool(high.DT),
            snoop_control=bool(high.SC),
            caching_mode=bool(low.CM),
            write_buffer_flush=bool(low.RWBF),
            zero_length_read=bool(low.ZLR),
            page_selective=bool(low.PSI),
            max_address_mask=low.MAMV,
            drain_reads=bool(low.DRD),
            drain_writes=bool(low.DWD),
            invalidate_on_root_pointer=bool(low.ESRTPS),
            fault_records=low.NFR + 1,
            fault_record_offset=16 * low.FRO,
            iotlb_offset=16 * high.IRO,
        )
