"""Examples for the comparisons with the naive oracles, from a seed: quicker than hypothesis, and never made smaller.

Each function gives the keyword arguments of one oracle test.
"""

from __future__ import annotations

from random import Random
from typing import Any

from iommu import Access, AddressType, DmaRequest, InterruptRequest, Policy, SourceId
from tests.engine.interrupting import FIXED_41_TO_5, POSTED_71, URG, request
from tests.engine.scalable_world import FIRST, NESTED, PASS, SECOND
from tests.engine.test_against_naive_scalable import flags
from tests.engine.world import NIC

LEVELS = ((3,), (4,), (3, 4), (3, 4, 5), (4, 5))


def legacy(pick: Random) -> dict[str, Any]:
    """For test_walk_against_naive.py."""
    kinds = ((Access.READ, 1), (Access.READ, 0), (Access.WRITE, 1))
    booleans = ("pass_through", "device_tlb", "snoop_control", "zero_length_read")
    return {
        "seed": pick.getrandbits(32),
        "trouble": pick.choice((0.05, 0.1, 0.2)),
        "offered": {
            "address_width": pick.choice((48, 57)),
            "host_address_width": pick.choice((39, 46, 52)),
            "levels": pick.choice(LEVELS),
            "domain_id_bits": pick.choice((8, 16)),
            **{name: pick.random() < 0.5 for name in booleans},
        },
        "sizes": pick.choice(((False, False), (True, False), (True, True))),
        "wanted": [(pick.getrandbits(16), pick.getrandbits(39), pick.choice(kinds)) for _ in range(4)],
    }


def scalable(pick: Random) -> dict[str, Any]:
    """For test_against_naive_scalable.py."""
    return {
        "seed": pick.getrandbits(32),
        "trouble": pick.choice((0.0, 0.02, 0.05)),
        "changes": {
            "address_width": pick.choice((48, 57)),
            "host_address_width": pick.choice((39, 46, 52)),
            "levels": pick.choice(LEVELS),
            "pasid_bits": 20,
            "domain_id_bits": pick.choice((8, 16)),
            "left_out": pick.choice(("", "", "", "first_stage", "second_stage", "nested")),
            **{name: pick.random() < 0.7 for name in flags},
        },
        "types": pick.choice(((FIRST,), (SECOND,), (NESTED,), (FIRST, SECOND, NESTED, PASS))),
        "per_level": False,
        "read_only": frozenset(),
        "wanted": [_dma(pick) for _ in range(4)],
    }


def _dma(pick: Random) -> DmaRequest:
    return DmaRequest(
        SourceId.of(pick.getrandbits(16)),
        pick.getrandbits(pick.choice((36, 38, 47))),
        pick.choice((Access.READ, Access.READ, Access.WRITE)),
        1,
        pasid=pick.choice((None, None, 1, 64)),
        address_type=pick.choice((*[AddressType.UNTRANSLATED] * 5, AddressType.TRANSLATION_REQUEST)),
    )


def interrupts(pick: Random) -> dict[str, Any]:
    """For test_interrupts_against_naive.py."""
    return {
        "entries": [_entry(pick) for _ in range(4)],
        "descriptor": _descriptor(pick),
        "requests": [_interrupt(pick) for _ in range(4)],
        "policy": Policy(reserved_validation_fails=pick.random() < 0.3),
        "pi": pick.random() < 0.7,
        "eime": pick.random() < 0.5,
        "cfi": pick.random() < 0.5,
        "s": pick.choice((1, 2)),
    }


def _entry(pick: Random) -> int:
    low = pick.choice((FIXED_41_TO_5, FIXED_41_TO_5 | pick.randrange(8) << 5, POSTED_71, POSTED_71 | URG))
    return _flipped(pick, low | (pick.choice((0, 0, 1, 2, 3)) << 18 | int(NIC)) << 64, 0, 128)


def _descriptor(pick: Random) -> int:
    control = pick.getrandbits(2) | 0xF2 << 16 | 9 << 40
    return _flipped(pick, pick.getrandbits(256) | control << 256, 256, pick.choice((320, 512)))


def _flipped(pick: Random, entry: int, first: int, end: int) -> int:
    """Mostly with one bit of first:end the other way."""
    return entry ^ (1 << pick.randrange(first, end) if pick.random() < 0.7 else 0)


def _interrupt(pick: Random) -> InterruptRequest:
    return request(pick.randrange(4), pick.choice((None, 0)), NIC, pick.choice((None, None, 0x1_0000)))
