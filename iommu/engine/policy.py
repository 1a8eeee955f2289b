"""What hardware does where the specification leaves a choice, or public sources leave a doubt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from iommu.engine.declaration import Choice, choice, declared
from iommu.errors import MisuseError
from iommu.registers import QueueFault


class OddAccess(IntEnum):
    """What a register access does that is not of 4 or 8 bytes at a multiple of its size: undefined by 11.2.

    One access starts a command at most once.
    """

    MISUSE = 0
    """It raises MisuseError."""
    IGNORED = 1
    """It reads 0, or writes nothing. QEMU does so with 1 and 2 bytes."""
    BYTES = 2
    """It reads or writes exactly these bytes; the enable bits of GCMD in other bytes stay as they are."""
    DWORDS = 3
    """It reads these bytes; it writes the aligned doublewords that they are in, with 0 in the other bytes.

    VirtualBox does so.
    """


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The choices of one unit. Each field is declared below with its effect, and the doubt or the section.

    The defaults are the strictest reading. A doubt has a number, D-n, where public sources do not settle what
    hardware does.

    Raises:
        MisuseError: `cache_capacity` is less than 1.
    """

    # Registers.
    odd_accesses: OddAccess = choice(
        "what an access does that is not of 4 or 8 bytes at a multiple of its size: MISUSE raises MisuseError; "
        "IGNORED reads 0 and writes nothing; BYTES reads or writes exactly these bytes; DWORDS reads these bytes "
        "and writes the aligned doublewords that they are in, with 0 in the other bytes",
        default=OddAccess.MISUSE,
        section="11.2",
        sources="QEMU: IGNORED for 1 and 2 bytes; VirtualBox: DWORDS",
    )

    # Translation.
    permission_per_level: bool = choice(
        "a missing permission is reported at the entry that lacks it, not at the leaf, so that a reserved bit "
        "further down is not seen",
        doubt="D-4",
    )
    levels_before_type: bool = choice(
        "a legacy context entry whose levels the unit does not walk is reported (0x03) before a type that does not "
        "take the request (0x0D)",
        doubt="D-1",
    )
    pass_through_needs_most_levels: bool = choice(
        "in legacy mode, a pass-through context entry must name the largest number of levels that the unit walks, or "
        "is reported as LGN.1 (0x04)",
        doubt="D-2",
    )
    protect_remapped: bool = choice(
        "below version 2, protected memory regions block remapped requests too, as they do from version 2 on",
        default=True,
        section="11.4.8",
    )

    # Caches.
    cache_capacity: int = choice("the number of entries each cache holds, at least 1", default=1 << 20, section="6.2")
    cache_pasids: bool = choice("PASID-table entries are cached", default=True, section="6.2.3")
    cache_upper_levels: bool = choice("paging-structure caches are used", default=True, section="6.2.5")
    cache_interrupts: bool = choice("interrupt-remapping entries are cached", default=True, section="6.4")
    cache_faulting: bool = choice(
        "with caching mode, what is not present or erroneous is cached wherever it may be: contexts, PASID entries, "
        "second-stage translations and interrupt entries, never a first stage's; otherwise only what a unit without "
        "caching mode caches",
        default=True,
        section="6.1",
    )
    translation_off_drops: bool = choice(
        "a unit with scalable mode invalidates everything that is cached for DMA when translation is turned off",
        default=True,
        sources="one public source says so",
    )

    # Faults.
    compress_faults: bool = choice(
        "a fault is dropped, without an overflow, while another of its source-id is pending", section="7.2.1"
    )

    # Interrupts.
    malformed_interrupt_faults: bool = choice(
        "with interrupt remapping on, a request without PASID in the interrupt range that is not a write of four "
        "bytes is reported (0x29); otherwise it is dropped without a fault",
        default=True,
        doubt="D-6",
    )
    reserved_validation_fails: bool = choice(
        "source validation type 3, which is reserved, is a failed validation (0x26), not a reserved field (0x24)",
        doubt="D-10",
    )

    # The invalidation queue.
    idle_wait_accepted: bool = choice(
        "a wait descriptor that asks for nothing (IF = SW = FN = 0) is accepted; otherwise it is refused as reserved",
        default=True,
        doubt="D-12",
    )
    queue_moves_while_on: bool = choice(
        "IQA can be written while the queue is on, which then starts again there; otherwise the write is ignored",
        doubt="D-13",
    )
    queue_address_resets_tail: bool = choice("a write of IQA that is not ignored also sets IQT to 0", doubt="D-13")
    status_write_fault: QueueFault = choice(
        "the error that a wait descriptor's failed status write is reported as",
        default=QueueFault.FETCH,
        doubt="D-14",
    )
    status_write_fault_taken: bool = choice(
        "the head moves past a wait descriptor whose status write failed", doubt="D-14"
    )

    def __post_init__(self) -> None:
        if self.cache_capacity < 1:
            raise MisuseError(f"cache_capacity is at least 1, not {self.cache_capacity}")


CHOICES: dict[str, Choice] = declared(Policy, Choice)
"""Every choice by the name of its field."""
