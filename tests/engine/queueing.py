"""The software side of the invalidation queue: descriptors as numbers, the tail, and the error reported."""

from __future__ import annotations

from typing import Any

from tests.engine.scalable_world import SCALABLE, ScalableWorld
from tests.engine.world import FECTL, FSTS, GCMD, GSTS, World

IQH, IQT, IQA, ICS = 0x80, 0x88, 0x90, 0x9C
IECTL, IEDATA, IEADDR, IEUADDR, IQERCD = 0xA0, 0xA4, 0xA8, 0xAC, 0xB0
QIE = 1 << 26
IQE, ICE, ITE = 1 << 4, 1 << 5, 1 << 6

Descriptor = tuple[int, int]


def context(g: int, *, did: int = 0, sid: int = 0, fm: int = 0) -> Descriptor:
    """Type 1."""
    return 1 | g << 4 | did << 16 | sid << 32 | fm << 48, 0


def iotlb(g: int, *, did: int = 0, address: int = 0, am: int = 0, ih: int = 0, drain: int = 0) -> Descriptor:
    """Type 2; `drain` is DR DW."""
    return 2 | g << 4 | drain << 6 | did << 16, address | ih << 6 | am


def device_tlb(sid: int, *, address: int = 0, s: int = 0, mip: int = 0, pfsid: int = 0) -> Descriptor:
    """Type 3."""
    return 3 | (pfsid & 15) << 12 | mip << 16 | sid << 32 | (pfsid >> 4) << 52, address | s


def interrupt(g: int, *, index: int = 0, im: int = 0) -> Descriptor:
    """Type 4."""
    return 4 | g << 4 | im << 27 | index << 32, 0


def wait(*, interrupt: int = 0, sw: int = 0, fn: int = 0, pd: int = 0, data: int = 0, address: int = 0) -> Descriptor:
    """Type 5."""
    return 5 | interrupt << 4 | sw << 5 | fn << 6 | pd << 7 | data << 32, address


def pasid_iotlb(g: int, *, did: int = 0, pasid: int = 0, address: int = 0, am: int = 0, ih: int = 0) -> Descriptor:
    """Type 6."""
    return 6 | g << 4 | did << 16 | pasid << 32, address | ih << 6 | am


def pasid_cache(g: int, *, did: int = 0, pasid: int = 0) -> Descriptor:
    """Type 7."""
    return 7 | g << 4 | did << 16 | pasid << 32, 0


def pasid_device_tlb(
    sid: int, *, pasid: int = 0, address: int = 0, s: int = 0, g: int = 0, mip: int = 0, pfsid: int = 0
) -> Descriptor:
    """Type 8."""
    low = 8 | mip << 4 | (pfsid & 15) << 12 | sid << 16 | pasid << 32 | (pfsid >> 4) << 52
    return low, address | s << 11 | g


def response(sid: int, *, code: int = 0, pasid: int | None = None, group: int = 0, last: int = 1) -> Descriptor:
    """Type 9."""
    return 9 | (pasid is not None) << 4 | code << 12 | sid << 16 | (pasid or 0) << 32, last << 2 | group << 3


class Software:
    """The owner of a world's queue: descriptors of `width` bytes, 2**qs pages; `tail` is the next free slot."""

    def __init__(self, world: World, *, wide: int = 0, qs: int = 0, on: bool = True) -> None:
        self.world, self.width, self.size = world, 32 if wide else 16, 0x1000 << qs
        self.base = world.page()
        for _ in range((1 << qs) - 1):
            world.page()
        self.tail = 0
        world.write(FECTL, 0)
        world.write(IQT, 0, 8)
        world.write(IQA, self.base | wide << 11 | qs, 8)
        if on:
            self.switch(1)

    def switch(self, on: int) -> None:
        """GCMD.QIE."""
        kept = self.world.read(GSTS) & 0x96FF_FFFF & ~QIE
        self.world.write(GCMD, kept | (QIE if on else 0))
        assert bool(self.world.read(GSTS) & QIE) == bool(on)

    def put(self, *quadwords: int) -> int:
        """Write a descriptor at the tail and move it, without telling the unit. Returns the descriptor's offset."""
        at, padding = self.tail, (self.width // 8 - len(quadwords)) * (0,)
        self.world.put(self.base + at, *quadwords, *padding)
        self.tail = (at + self.width) % self.size
        return at

    def ring(self) -> None:
        """Tell the unit the tail."""
        self.world.write(IQT, self.tail, 8)

    def submit(self, *descriptors: tuple[int, ...]) -> None:
        """Write descriptors and tell the unit."""
        for descriptor in descriptors:
            self.put(*descriptor)
        self.ring()

    def done(self, *descriptors: tuple[int, ...]) -> None:
        """Submit descriptors that the unit must accept."""
        self.submit(*descriptors)
        assert self.world.read(FSTS) & (IQE | ICE | ITE) == 0, hex(self.world.read(IQERCD, 8))
        assert self.head == self.tail

    def refused(self, *descriptors: tuple[int, ...]) -> int:
        """Submit descriptors; the unit must refuse the last. Returns IQEI."""
        last = self.tail + self.width * (len(descriptors) - 1)
        self.submit(*descriptors)
        assert self.head == last % self.size
        return self.error

    @property
    def head(self) -> int:
        """IQH."""
        return self.world.read(IQH, 8)

    @property
    def error(self) -> int:
        """IQEI, while IQE is set."""
        assert self.world.read(FSTS) & IQE, "IQE is not set"
        return self.world.read(IQERCD, 8) & 15

    def clear(self, status: int = IQE) -> None:
        """Write 1 to bits of FSTS."""
        self.world.write(FSTS, status)


def legacy(**options: Any) -> Software:
    """A queue of 128-bit descriptors on a legacy-mode unit."""
    queue = {name: options.pop(name) for name in ("wide", "qs", "on") if name in options}
    return Software(World(**options).start(), **queue)


def scalable(world: ScalableWorld | None = None, **changes: Any) -> Software:
    """A queue of 256-bit descriptors on a unit that offers everything and is in scalable mode."""
    world = world or ScalableWorld(**changes)
    if not world.read(GSTS) >> 31:
        world.latch(world.root | SCALABLE)
        world.write(GCMD, 1 << 31)
    return Software(world, wide=1)
