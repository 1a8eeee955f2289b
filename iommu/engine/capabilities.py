"""What a unit can do, and the CAP and ECAP registers that say so (spec 11.4.2, 11.4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from iommu.engine.declaration import Capability, capability, declared, level_set, number, number_from
from iommu.engine.presets import PRESETS
from iommu.errors import MisuseError
from iommu.fields import Field
from iommu.registers import CAP, ECAP, Register, registers_of

_WIDTHS = {3: 39, 4: 48, 5: 57}
# What CAP.FRO and ECAP.IRO can say.
_OFFSETS = range(0, 0x4000, 16)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """One unit's capabilities. Each field is declared below with its register bit, its prerequisites and its meaning.

    The defaults give a complete legacy-mode unit; `scalable`, `full` and `preset` give others. The constructor is for
    units that are being designed: it refuses combinations that the specification does not allow, and
    `scalable_mode=True` with neither `first_stage` nor `second_stage`, which could translate nothing.
    `from_registers` accepts the registers of an existing unit as they are.

    Raises:
        MisuseError: a combination no unit can have; the message says why.
    """

    version: int = number_from("VER", "architecture version, major << 4 | minor", default=0x10, allowed=range(0x100))
    address_width: int = number(
        CAP.MGAW, "bits of the largest guest address", default=48, values=range(1, 65), allowed=range(31, 58)
    )
    host_address_width: int = number_from(
        "DMAR header",
        "bits of a host address; address bits beyond it are reserved",
        default=48,
        allowed=range(32, 53),
    )
    levels: tuple[int, ...] = level_set(
        CAP.SAGAW,
        "the levels of second-stage tables, out of 3, 4, 5; by default all that `address_width` needs. With (), for "
        "none, every entry that asks for second-stage translation is wrong",
    )
    domain_id_bits: int = number(CAP.ND, "bits of a domain-id", default=16, values=range(4, 17, 2))
    max_address_mask: int = number(
        CAP.MAMV, "largest address mask of a page-selective invalidation", default=18, values=range(64)
    )
    max_index_mask: int = number(
        ECAP.MHMV,
        "largest index mask of an interrupt-entry invalidation",
        default=15,
        values=range(16),
        needs=("interrupt_remapping",),
    )
    pasid_bits: int = number(
        ECAP.PSS, "bits of a PASID", default=20, values=range(1, 33), allowed=range(1, 21), needs=("pasid",)
    )
    fault_records: int = number(CAP.NFR, "fault recording registers", default=1, values=range(1, 257))
    fault_record_offset: int = number(
        CAP.FRO, "where the fault recording registers are, in bytes", default=0x220, values=_OFFSETS
    )
    iotlb_offset: int = number(
        ECAP.IRO, "where IVA is, in bytes; IOTLB follows 8 bytes later", default=0xF0, values=_OFFSETS
    )

    # Translation.
    page_2m: bool = capability(CAP.SSLPS, "second-stage pages of 2 MiB", default=True, bit=0)
    page_1g: bool = capability(CAP.SSLPS, "second-stage pages of 1 GiB", default=True, bit=1, needs=("page_2m",))
    pass_through: bool = capability(ECAP.PT, "pass-through translation", default=True)
    zero_length_read: bool = capability(CAP.ZLR, "zero-length reads of pages that are write-only", default=True)
    coherent: bool = capability(ECAP.C, "the processors' caches are snooped when tables are read")
    snoop_control: bool = capability(ECAP.SC, "tables can force an access to be snooped")
    memory_types: bool = capability(ECAP.MTS, "tables can give memory types, and the MTRR registers exist")
    caching_mode: bool = capability(CAP.CM, "what is not present may be cached", in_full=False)
    write_buffer_flush: bool = capability(
        CAP.RWBF, "software must flush the write buffer", excluded_by="scalable_mode", in_full=False
    )
    protected_low: bool = capability(CAP.PLMR, "the protected low-memory region")
    protected_high: bool = capability(CAP.PHMR, "the protected high-memory region")

    # Invalidation.
    queued_invalidation: bool = capability(ECAP.QI, "the invalidation queue", default=True)
    page_selective: bool = capability(CAP.PSI, "page-selective invalidation of the IOTLB", default=True)
    drain_reads: bool = capability(CAP.DRD, "an IOTLB invalidation can drain reads", default=True)
    drain_writes: bool = capability(CAP.DWD, "an IOTLB invalidation can drain writes", default=True)
    invalidate_on_root_pointer: bool = capability(
        CAP.ESRTPS, "setting the root-table pointer invalidates what is cached for DMA", in_full=False
    )
    invalidate_on_interrupt_pointer: bool = capability(
        CAP.ESIRTPS,
        "setting the interrupt-table pointer invalidates the interrupt entries that are cached",
        needs=("interrupt_remapping",),
        in_full=False,
    )

    # Interrupts.
    interrupt_remapping: bool = capability(
        ECAP.IR, "interrupt remapping", default=True, needs=("queued_invalidation",)
    )
    extended_interrupts: bool = capability(
        ECAP.EIM, "extended interrupt mode: 32-bit destinations", needs=("interrupt_remapping",)
    )
    posted_interrupts: bool = capability(CAP.PI, "posted interrupts", needs=("interrupt_remapping",))

    # Scalable mode.
    scalable_mode: bool = capability(
        ECAP.SMTS,
        "scalable mode",
        needs=("queued_invalidation",),
        needs_one_of=("first_stage", "second_stage"),
    )
    scalable_coherent: bool = capability(
        ECAP.SMPWCS, "a PASID-table entry can ask for snooped walks", needs=("scalable_mode",)
    )
    abort_dma: bool = capability(ECAP.ADMS, "abort-DMA mode", needs=("queued_invalidation",))
    first_stage: bool = capability(ECAP.FSTS, "first-stage translation", needs=("scalable_mode",))
    first_stage_5_level: bool = capability(CAP.FS5LP, "first-stage tables of 5 levels", needs=("first_stage",))
    first_stage_1g: bool = capability(CAP.FS1GP, "first-stage pages of 1 GiB", needs=("first_stage",))
    extended_accessed: bool = capability(ECAP.EAFS, "the extended-accessed bit", needs=("first_stage",))
    second_stage: bool = capability(ECAP.SSTS, "second-stage translation in scalable mode", needs=("scalable_mode",))
    second_stage_dirty: bool = capability(
        ECAP.SSADS, "accessed and dirty bits in second-stage tables", needs=("second_stage",)
    )
    nested: bool = capability(ECAP.NEST, "nested translation", needs=("first_stage", "second_stage"))
    pasid: bool = capability(ECAP.PASID, "requests with PASID", needs=("scalable_mode",))
    rid_pasid: bool = capability(
        ECAP.RPS, "the RID_PASID field, for requests without PASID", needs=("scalable_mode",)
    )
    rid_priv: bool = capability(
        ECAP.RPRIVS, "the RID_PRIV field: requests without PASID can be privileged", needs=("scalable_mode",)
    )
    supervisor_requests: bool = capability(ECAP.SRS, "privileged requests", needs=("pasid",))
    execute_requests: bool = capability(ECAP.ERS, "execute requests", needs=("pasid",))

    # Device-TLBs and page requests.
    device_tlb: bool = capability(ECAP.DT, "device-TLBs", needs=("queued_invalidation",))
    invalidation_throttle: bool = capability(
        ECAP.DIT, "device-TLB invalidations can be throttled", needs=("device_tlb",)
    )
    no_write_requests: bool = capability(
        ECAP.NWFS, "the no-write flag of translation requests", needs=("device_tlb",)
    )
    page_requests: bool = capability(ECAP.PRS, "page requests", needs=("scalable_mode", "device_tlb"))
    page_request_drain: bool = capability(
        ECAP.PDS, "a wait descriptor can drain page requests", needs=("page_requests",)
    )
    stop_markers: bool = capability(ECAP.SMS, "stop markers", needs=("page_requests",))

    cap_without_effect: int = 0
    """Bits of CAP that the unit sets without effect: see `from_registers`. 0 in a unit that is designed."""
    ecap_without_effect: int = 0
    """The same of ECAP."""

    def __post_init__(self) -> None:
        if self.levels is None:
            object.__setattr__(
                self, "levels", tuple(level for level in _WIDTHS if _WIDTHS[level] - 9 < self.address_width)
            )
        for name, one in CAPABILITIES.items():
            value = getattr(self, name)
            if one.allowed is not None and value not in one.allowed:
                raise MisuseError(f"impossible capabilities: {name} is {_range_text(one.allowed)}, not {value:#x}")
            if one.allowed is None and value and (missing := _missing(one, self.__dict__)):
                raise MisuseError(f"impossible capabilities: {name} needs {missing}")
        if not set(self.levels) <= set(_WIDTHS):
            raise MisuseError("impossible capabilities: levels are out of 3, 4, 5")
        for one_register, next_register in pairwise(registers_of(self.cap, self.ecap, self.offered)):
            if next_register.offset < one_register.end:
                raise MisuseError(
                    f"impossible capabilities: {next_register.layout.__name__} at {next_register.offset:#x} overlaps "
                    f"{one_register.layout.__name__} at {one_register.offset:#x}"
                )

    @classmethod
    def scalable(cls, **changes: Any) -> Capabilities:
        """A typical scalable-mode unit: both stages, nested, pass-through, PASIDs, coherent tables.

        `changes` are fields that differ. Capabilities that need one that is turned off are turned off as well.
        """
        usual = (
            *("scalable_mode", "first_stage", "first_stage_1g", "second_stage", "second_stage_dirty", "nested"),
            *("pasid", "rid_pasid", "scalable_coherent", "coherent", "snoop_control", "extended_interrupts"),
        )
        return cls._with(dict.fromkeys(usual, True), changes)

    @classmethod
    def full(cls, **changes: Any) -> Capabilities:
        """A unit with every capability, except those that change how all others behave: CM, RWBF, ESRTPS and ESIRTPS.

        `changes` are fields that differ. Capabilities that need one that is turned off are turned off as well.
        """
        flags = {name: one.in_full for name, one in CAPABILITIES.items() if isinstance(one.default, bool)}
        return cls._with({**flags, "address_width": 57, "host_address_width": 52}, changes)

    @classmethod
    def _with(cls, usual: Mapping[str, Any], changes: Mapping[str, Any]) -> Capabilities:
        known = {name: value for name, value in changes.items() if name in CAPABILITIES}
        return cls(**{**_effective({**_DEFAULTS, **usual, **known}), **changes})

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Capabilities:
        """A unit of a real machine, by its name in `iommu.engine.presets`; `changes` are fields that differ.

        Raises MisuseError for an unknown name; the message lists the known ones.
        """
        if name not in PRESETS:
            raise MisuseError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
        one = PRESETS[name]
        return replace(cls.from_registers(one.cap, one.ecap, one.host_address_width, one.version), **changes)

    @cached_property
    def offered(self) -> frozenset[str]:
        """The flags that are set, by name, as `Field.needs` and `Register.needs` use them.

        "protected_memory" is in it if the unit has either protected region.
        """
        flags = {name for name in CAPABILITIES if getattr(self, name) is True}
        if self.protected_low or self.protected_high:
            flags.add(PROTECTED_MEMORY)
        return frozenset(flags)

    @cached_property
    def cap(self) -> int:
        """The CAP register."""
        return self._register(CAP) | self.cap_without_effect

    @cached_property
    def ecap(self) -> int:
        """The ECAP register."""
        return self._register(ECAP) | self.ecap_without_effect

    def _register(self, layout: type[Register]) -> int:
        raw = 0
        for name, one in CAPABILITIES.items():
            if one.part is not None and is_in(layout, one.part) and not _missing(one, self.__dict__):
                raw |= one.part.put(0, one.encode(getattr(self, name)))
        return raw

    @classmethod
    def from_registers(cls, cap: int, ecap: int, host_address_width: int, version: int = 0x10) -> Capabilities:
        """The capabilities that a unit declares, as they are.

        Real units set bits that have no effect: nested translation without either stage, for example, or a capability
        that a later revision of the specification withdrew. Such flags are off here, as are those of features that
        are not modelled. Their bits are kept, as are reserved ones: `cap` and `ecap` of the result are the registers.

        Args:
            cap, ecap, version: the registers.
            host_address_width: bits of a host address, from the DMAR header.

        Raises MisuseError if a field has a reserved encoding, or if registers overlap.
        """
        values: dict[str, Any] = {"version": version, "host_address_width": host_address_width}
        for name, one in CAPABILITIES.items():
            if one.part is not None:
                values[name] = one.decode(one.part.get(cap if is_in(CAP, one.part) else ecap))
        kept = _effective(values)
        for name, value in kept.items():
            if value is None:
                raise MisuseError(f"{bit_of(CAPABILITIES[name])} is a reserved encoding of {name}")
        unit = cls(**kept)
        return replace(unit, cap_without_effect=cap & ~unit.cap, ecap_without_effect=ecap & ~unit.ecap)


CAPABILITIES: dict[str, Capability] = declared(Capabilities, Capability)
"""Every capability by the name of its field."""

_DEFAULTS = {name: one.default for name, one in CAPABILITIES.items()}

PROTECTED_MEMORY = "protected_memory"
"""The name in `offered` for either of the two protected regions."""

NOT_MODELLED = {
    "advanced_fault_log": CAP.AFL,
    "enhanced_commands": CAP.ECMDS,
    "performance_monitoring": ECAP.PMS,
    "virtual_commands": ECAP.VCS,
}
"""Capabilities that are not modelled. `Register.needs` names them: their registers read as 0."""


def _missing(one: Capability, values: Mapping[str, Any]) -> str:
    """The prerequisites of a capability that `values` lack, as text; empty if none is missing."""
    if one.excluded_by and values[one.excluded_by]:
        return f"{one.excluded_by} to be off"
    if not all(values[other] for other in one.needs):
        return " and ".join(one.needs)
    if one.needs_one_of and not any(values[other] for other in one.needs_one_of):
        return " or ".join(one.needs_one_of)
    return ""


def _effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a unit, where flags that lack a prerequisite are off, and numbers that lack one are left out."""
    kept = dict(values)
    while lost := [name for name, value in kept.items() if value is True and _missing(CAPABILITIES[name], kept)]:
        kept.update(dict.fromkeys(lost, False))
    return {name: value for name, value in kept.items() if value is False or not _missing(CAPABILITIES[name], kept)}


def is_in(layout: type[Register], part: Field[int]) -> bool:
    """Whether a field belongs to this register."""
    return layout.fields.get(part.name) is part


def bit_of(one: Capability) -> str:
    """Where a unit declares a capability, as text: "ECAP.PT", "DMAR header"."""
    if one.part is None:
        return one.source
    return f"{'CAP' if is_in(CAP, one.part) else 'ECAP'}.{one.part.name}"


def _range_text(allowed: range) -> str:
    """The numbers of a range, as text."""
    if allowed.step == 1:
        return f"{allowed[0]} to {allowed[-1]}"
    if len(allowed) < 10:
        return ", ".join(map(str, allowed))
    return f"a multiple of {allowed.step} from {allowed[0]:#x} to {allowed[-1]:#x}"
