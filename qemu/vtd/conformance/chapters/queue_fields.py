"""Spec 6.5.2: each type of descriptor, bit by bit: what is refused, and what is accepted.

The tables are written from the descriptions of the descriptors, not taken from `iommu.structures`. They are for a
queue of 128-bit descriptors on a unit without device-TLBs, page requests or scalable mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from iommu import Policy
from iommu.registers import FSTS, IQH, IQT
from iommu.structures import DescriptorType, WaitDescriptor
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.queue import DOMAIN, GLOBAL, SELECTIVE
from qemu.vtd.conformance.scenario import Allowed, scenario


class Row(NamedTuple):
    """A type of descriptor.

    Attributes:
        section: where it is described.
        valid: one that is accepted.
        reserved: its reserved bits by name, each the highest and the lowest of a run.
        free: the bits that may hold anything, given what `valid` holds.
    """

    section: str
    valid: int
    reserved: dict[str, tuple[int, int]]
    free: tuple[tuple[int, int], ...]


INTERRUPT = 1 << 4 | DescriptorType.INTERRUPT
DESCRIPTORS = {
    "context": Row(
        "6.5.2.1",
        queue.context(SELECTIVE),
        {"below-type": (8, 6), "above-type": (15, 12), "high": (63, 50), "upper-half": (127, 64)},
        ((49, 16),),
    ),
    "iotlb": Row(
        "6.5.2.3",
        queue.iotlb(SELECTIVE),
        {"below-type": (8, 8), "above-type": (15, 12), "high": (63, 32), "below-address": (75, 71)},
        ((31, 16), (7, 6), (67, 64), (70, 70), (127, 76)),
    ),
    "interrupt": Row(
        "6.5.2.7",
        INTERRUPT,
        {"below-type": (8, 5), "above-type": (26, 12), "high": (63, 48), "upper-half": (127, 64)},
        ((47, 32), (30, 27)),
    ),
    "wait": Row(
        "6.5.2.8",
        queue.wait(SW=1),
        {"page-drain": (7, 7), "below-type": (8, 8), "above-type": (31, 12), "below-address": (65, 64)},
        ((63, 32), (6, 6)),
    ),
}


def is_refused(bench: Bench, descriptor: int) -> bool:
    """Submit a descriptor; one that is refused is replaced by a wait descriptor, and the queue goes on."""
    state = bench.driver.queue
    assert state is not None
    at = state.base + state.tail
    bench.driver.submit(descriptor)
    refused = bool(bench.driver.status() & FSTS.IQE.mask)
    if refused:
        bench.memory.write(at, queue.wait(SW=1).to_bytes(16, "little"))
        bench.platform.write_register(FSTS.offset, FSTS.IQE.mask, 4)
        bench.platform.write_register(IQT.offset, state.tail, 8)
    if bench.platform.read_register(IQH.offset, 8) != state.tail:
        bench.note(f"the head did not reach {state.tail:#x} after {descriptor:#x}")
    return refused


def sort(bench: Bench, descriptors: dict[int, int]) -> tuple[list[int], list[int]]:
    """The keys of the descriptors that are accepted, and of those that are refused."""
    queue.start(bench)
    accepted: list[int] = []
    refused: list[int] = []
    for key, descriptor in descriptors.items():
        (refused if is_refused(bench, descriptor) else accepted).append(key)
    return accepted, refused


def _bits(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [bit for high, low in runs for bit in range(low, high + 1)]


def _mask(bits: Iterable[int]) -> str:
    return f"{sum(1 << bit for bit in bits):#x}"


def _each(id_: str, section: str, title: str, descriptors: dict[int, int], *, refused: bool) -> None:
    """Descriptors by the bit that is set in each; all are refused, or all are accepted."""

    def stimulus(bench: Bench) -> None:
        for word, bits in zip(("accepted", "refused"), sort(bench, descriptors), strict=True):
            bench.note(f"{word}: {_mask(bits)}")

    every = _mask(descriptors)
    stimulus.__doc__ = title
    lines = ("accepted: 0x0", f"refused: {every}") if refused else (f"accepted: {every}", "refused: 0x0")
    scenario(id_, section, *lines, "FSTS 0")(stimulus)


for _name, _row in DESCRIPTORS.items():
    for _part, (_high, _low) in _row.reserved.items():
        _which = f"bit {_high}" if _high == _low else f"bits {_high}:{_low}, each alone"
        _each(
            f"queue.reserved.{_name}-{_part}",
            _row.section,
            f"Reserved bits of descriptor type {_name}: {_which}.",
            {bit: _row.valid | 1 << bit for bit in _bits([(_high, _low)])},
            refused=True,
        )
    _each(
        f"queue.accepted.{_name}",
        _row.section,
        f"The fields of descriptor type {_name} may hold anything: each bit alone.",
        {bit: _row.valid ^ 1 << bit for bit in _bits(_row.free)},
        refused=False,
    )


# Fields with a limit.


def runs(values: Iterable[int]) -> str:
    """Numbers as runs: "0-18 20"."""
    found: list[list[int]] = []
    for value in sorted(values):
        if found and found[-1][1] == value - 1:
            found[-1][1] = value
        else:
            found.append([value, value])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found) or "none"


def _values(id_: str, section: str, title: str, descriptors: dict[int, int], accepted: Iterable[int]) -> None:
    """Descriptors by the value of a field: which are accepted."""
    good = list(accepted)

    def stimulus(bench: Bench) -> None:
        for word, values in zip(("accepted", "refused"), sort(bench, descriptors), strict=True):
            bench.note(f"{word}: {runs(values)}")

    bad = [value for value in descriptors if value not in good]
    stimulus.__doc__ = title
    lines = f"accepted: {runs(good)}", f"refused: {runs(bad)}"
    scenario(id_, section, *lines, "FSTS 0")(stimulus)


_values(
    "queue.values.context-granularity",
    "6.5.2.1",
    "Granularities 1, 2 and 3 of a context-cache descriptor are accepted; 0 is reserved.",
    {g: queue.context(g) for g in range(4)},
    (1, 2, 3),
)
_values(
    "queue.values.iotlb-granularity",
    "6.5.2.3",
    "Granularities 1, 2 and 3 of an IOTLB descriptor are accepted; 0 is reserved.",
    {g: queue.iotlb(g) for g in range(4)},
    (1, 2, 3),
)
_values(
    "queue.values.address-mask",
    "6.5.2.3",
    "Address masks up to CAP.MAMV, 18, are accepted in an IOTLB descriptor.",
    {am: queue.iotlb(SELECTIVE, DID=1, AM=am) for am in range(64)},
    range(19),
)
_values(
    "queue.values.index-mask",
    "6.5.2.7",
    "Index masks up to ECAP.MHMV, 15, are accepted in an interrupt-entry descriptor.",
    {im: INTERRUPT | im << 27 for im in range(32)},
    range(16),
)


@scenario(
    "queue.accepted.iotlb-unused",
    "6.5.2.3",
    "refused: nothing",
    "FSTS 0",
)
def iotlb_unused(bench: Bench) -> None:
    """A global or domain-selective IOTLB descriptor ignores an address, a mask and the hint."""
    queue.start(bench)
    where = {"ADDR": 0x5000, "AM": 1, "IH": 1}
    descriptors = {"global": queue.iotlb(GLOBAL, **where), "domain": queue.iotlb(DOMAIN, **where)}
    refused = [name for name, descriptor in descriptors.items() if is_refused(bench, descriptor)]
    bench.note(f"refused: {' '.join(refused) or 'nothing'}")


@scenario(
    "queue.accepted.idle-wait",
    "6.5.2.8",
    "refused: no",
    "FSTS 0",
    allowed=(
        Allowed(
            "a wait descriptor that asks for nothing may be refused (doubt D-12)",
            ("refused: yes", "FSTS 0"),
            Policy(idle_wait_accepted=False),
        ),
    ),
)
def idle_wait(bench: Bench) -> None:
    """A wait descriptor with neither IF nor SW nor FN."""
    queue.start(bench)
    refused = is_refused(bench, WaitDescriptor.make(TYPE=DescriptorType.WAIT))
    bench.note(f"refused: {'yes' if refused else 'no'}")


# Types.


def _of_type(number: int) -> int:
    """A descriptor of that type, with a granularity that is valid where the type has one."""
    granularity = (
        {DescriptorType.PASID_IOTLB: 2, DescriptorType.PASID_CACHE: 3}.get(DescriptorType(number), 0)
        if number < 10 and number
        else 0
    )
    return number >> 4 << 9 | granularity << 4 | number & 0xF


_values(
    "queue.types.low",
    "6.5.2",
    "Of the types 0 to 15, those of features that the unit lacks are refused, and unknown ones.",
    {
        **{n: _of_type(n) for n in range(16)},
        1: queue.context(GLOBAL),
        2: queue.iotlb(GLOBAL),
        4: 4,
        5: queue.wait(SW=1),
    },
    (1, 2, 4, 5),
)
_values(
    "queue.types.high",
    "6.5.2",
    "Bits 11:9 belong to the type: none of the types 16 to 127 exists.",
    {n: _of_type(n) | (1 << 4 if n & 15 in (1, 2) else 1 << 5 if n & 15 == 5 else 0) for n in range(16, 128)},
    (),
)
