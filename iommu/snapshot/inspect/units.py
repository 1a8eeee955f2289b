"""The registers of a unit in words: what it can do, and what is on."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.engine.capabilities import Capabilities
from iommu.registers import GSTS, IRTA, PMEN, RTADDR, VER, TableMode
from iommu.snapshot.unit import UnitSnapshot


@dataclass(frozen=True)
class UnitState:
    """One unit.

    Attributes:
        register_base: physical address of its registers.
        version: as VER has it, "1.0".
        capabilities: what it can do, in a few words each.
        on, off: what is switched on, and what the unit has but is off.
        mode: the table mode in words.
        root_table: RTADDR.
        interrupt_table, interrupt_entries, extended: IRTA; 0 without interrupt remapping.
        protected: the protected memory regions are enabled.
    """

    register_base: int
    version: str
    capabilities: tuple[str, ...]
    on: tuple[str, ...]
    off: tuple[str, ...]
    mode: str
    root_table: int
    interrupt_table: int
    interrupt_entries: int
    extended: bool
    protected: bool


_MODES = {TableMode.LEGACY: "legacy mode", TableMode.SCALABLE: "scalable mode", TableMode.ABORT_DMA: "abort-DMA mode"}


def unit_state(snapshot: UnitSnapshot, capabilities: Capabilities) -> UnitState:
    """The registers of a snapshot in words."""
    version = VER(snapshot.register(VER.offset, 4))
    root = RTADDR(snapshot.register(RTADDR.offset, 8))
    irta = IRTA(snapshot.register(IRTA.offset, 8) if capabilities.interrupt_remapping else 0)
    switches = _switches(GSTS(snapshot.register(GSTS.offset, 4)), capabilities)
    modes: dict[int, str] = {mode.value: words for mode, words in _MODES.items()}
    return UnitState(
        register_base=snapshot.register_base,
        version=f"{version.MAX}.{version.MIN}",
        capabilities=tuple(capabilities_in_words(capabilities)),
        on=tuple(name for name, is_on in switches.items() if is_on),
        off=tuple(name for name, is_on in switches.items() if not is_on),
        mode=modes.get(root.TTM, f"mode {root.TTM}, which is reserved"),
        root_table=root.RTA,
        interrupt_table=irta.IRTA,
        interrupt_entries=2 << irta.S if capabilities.interrupt_remapping else 0,
        extended=bool(irta.EIME),
        protected="protected_memory" in capabilities.offered and bool(snapshot.register(PMEN.offset, 4) & 1),
    )


def _switches(status: GSTS, capabilities: Capabilities) -> dict[str, bool]:
    switches = {"translation": bool(status.TES)}
    if capabilities.interrupt_remapping:
        switches["interrupt remapping"] = bool(status.IRES)
    if capabilities.queued_invalidation:
        switches["invalidation queue"] = bool(status.QIES)
    if status.CFIS:
        switches["compatibility-format interrupts"] = True
    return switches


def capabilities_in_words(has: Capabilities) -> list[str]:
    """What a unit can do, in a few words each: widths first, then the features."""
    levels = "/".join(map(str, has.levels)) or "no"
    pages = ["4 KiB", *(["2 MiB"] if has.page_2m else []), *(["1 GiB"] if has.page_1g else [])]
    words = [
        f"{has.address_width}-bit addresses to {has.host_address_width}-bit host addresses",
        f"second stage of {levels} levels with pages of {', '.join(pages)}",
        f"{has.domain_id_bits}-bit domain-ids",
    ]
    features = {
        "pass_through": "pass-through",
        "scalable_mode": "scalable mode",
        "first_stage": "first stage",
        "second_stage": "second stage in scalable mode",
        "nested": "nested translation",
        "pasid": f"{has.pasid_bits}-bit PASIDs",
        "device_tlb": "device-TLBs",
        "page_requests": "page requests",
        "coherent": "coherent walks",
        "snoop_control": "snoop control",
        "caching_mode": "caching mode",
        "write_buffer_flush": "write-buffer flushing",
        "queued_invalidation": "queued invalidation",
        "interrupt_remapping": "interrupt remapping",
        "extended_interrupts": "32-bit destinations",
        "posted_interrupts": "posted interrupts",
    }
    return words + [text for name, text in features.items() if name in has.offered]
