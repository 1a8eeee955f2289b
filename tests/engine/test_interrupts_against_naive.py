"""interrupts.py against a second, naive reading: whole tables, descriptors and requests made up at random."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    FlatMemory,
    InterruptRequest,
    Policy,
    SourceId,
)
from tests.engine.interrupting import (
    CFI,
    DESCRIPTOR,
    EIME,
    FIXED_41_TO_5,
    IRE,
    ONES,
    POSTED_71,
    URG,
    Interrupting,
    request,
)
from tests.engine.naive_interrupts import remap as naive_remap
from tests.engine.world import (
    NIC,
)

# Everything at once, against a second reading

# Flipped more often than by chance: the fields that have reserved values, DLM, DST, IM and SVT.
_ODD_BITS = st.sampled_from([{5, 6}, {6, 7}, {32}, {47, 48}, {63}, {15}, {15}, {82}, {83}])
_WELL_FORMED = st.builds(
    lambda form, svt, sid, flips: (
        ((FIXED_41_TO_5 if form == 0 else POSTED_71 | (form == 2) * URG) | (svt << 18 | sid) << 64)
        ^ sum(1 << bit for bit in flips)
    ),
    form=st.integers(0, 2),
    svt=st.sampled_from([0, 0, 0, 1, 2, 3]),
    sid=st.sampled_from([0x20, 0x24, 0x0010, 0x1000, NIC]),
    flips=st.just(set()) | st.sets(st.integers(0, 127), max_size=2) | _ODD_BITS,
)
_ENTRIES = st.one_of(_WELL_FORMED, _WELL_FORMED, _WELL_FORMED, st.integers(0, (1 << 128) - 1))
_DESCRIPTORS = st.builds(
    lambda pir, control, flips: (pir | (control | 0xF2 << 16 | 0x900 << 32) << 256) ^ sum(1 << bit for bit in flips),
    pir=st.integers(0, (1 << 256) - 1),
    control=st.integers(0, 3),
    flips=st.sets(st.integers(256, 511), max_size=1) | st.sampled_from([{258}, {271}, {280}, {287}, {288}, {319}]),
)
# Most are well formed and within the table: what happens to them depends on its entries.
_TO_ENTRIES = st.builds(
    request,
    handle=st.sampled_from([0, 0, 1, 1, 2, 2, 3, 3, 4, 0x8000, 0xFFFF]),
    sub=st.sampled_from([None, None, None, 0, 1, 2, 0xFFFF]),
    source=st.sampled_from([NIC, SourceId.of(0x24), SourceId.of(0x0800)]),
    data=st.sampled_from([None, None, None, None, None, 1, 0x1_0000, 0xFFFF_FFFF]),
)
_REQUESTS = st.one_of(
    _TO_ENTRIES,
    _TO_ENTRIES,
    _TO_ENTRIES,
    st.builds(InterruptRequest, st.just(NIC), st.integers(0xFEE0_0000, 0xFEEF_FFFF), st.integers(0, 0xFFFF_FFFF)),
)
_POLICIES = st.builds(Policy, reserved_validation_fails=st.booleans())


@given(
    entries=st.lists(_ENTRIES, min_size=4, max_size=4),
    descriptor=_DESCRIPTORS,
    requests=st.lists(_REQUESTS, min_size=1, max_size=6),
    policy=_POLICIES,
    pi=st.booleans(),
    eime=st.booleans(),
    cfi=st.booleans(),
    s=st.integers(0, 2),
)
@settings(max_examples=400, deadline=None)
def test_against_a_naive_reading(
    entries: list[int],
    descriptor: int,
    requests: list[InterruptRequest],
    policy: Policy,
    pi: bool,
    eime: bool,
    cfi: bool,
    s: int,
) -> None:
    """Nothing in memory changes but by the unit, so the cache cannot show."""
    table = 0x5_FFC0  # not aligned on purpose: only its page counts
    world = Interrupting(
        start=False, size=0x10_0000, fault_records=64, policy=policy, posted_interrupts=pi, extended_interrupts=True
    )
    for index, entry in enumerate(entries):
        world.put((table & ~0xFFF) + 16 * index, entry & ONES, entry >> 64)
    world.memory.write(DESCRIPTOR, descriptor.to_bytes(64, "little"))
    world.set_table(table & ~0xFFF | eime * EIME | s)
    world.command(IRE | cfi * CFI)
    shadow = FlatMemory(bytearray(world.memory.read(0, world.memory.size)))
    for n, wanted in enumerate(requests):
        expected = naive_remap(
            shadow, policy, table & ~0xFFF, s, eime=eime, cfi=cfi, pi=pi, request=wanted
        )  # fmt: skip
        outcome = world.unit.remap_interrupt(wanted)
        events = [tuple(message) for message in world.unit.drain_events()]
        assert outcome.message == expected.message, n
        assert events == ([expected.notification] if expected.notification else [])
        assert int(outcome.fault or 0) == expected.fault
        assert outcome.recorded == (expected.record is not None)
        assert (outcome.posted is not None) == expected.posted
        if expected.record is not None:
            at = world.frcd + 16 * (len(world.records()) - 1)
            assert (world.read(at, 8), world.read(at + 8, 8)) == expected.record
    assert world.memory.read(0, world.memory.size) == shadow.read(0, shadow.size)
