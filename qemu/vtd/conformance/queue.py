"""What scenarios need of the invalidation queue: where it is, its descriptors, the completion event, the log.

`bench.driver` submits one descriptor after the other. With `put` and `tail`, the scenario chooses the slots itself.
"""

from __future__ import annotations

from iommu.registers import FSTS, IEADDR, IECTL, IEDATA, IQH, IQT, Granularity
from iommu.structures import ContextDescriptor, DescriptorType, IotlbDescriptor, WaitDescriptor
from qemu.vtd.conformance.bench import Bench

GLOBAL, DOMAIN, SELECTIVE = Granularity.GLOBAL, Granularity.DOMAIN, Granularity.SELECTIVE
QUEUE, STATUS = 0x20_0000, 0x2F_0000
"""The queue, aligned for the largest there is, 128 pages; and where wait descriptors write."""
WIDTH = 16
"""Bytes of a descriptor, where a scenario does not choose 32."""
DATA = 0x5A17_C0DE
"""What wait descriptors write."""
ADDRESS, VECTOR = 0xFEE0_2000, 0x42
MESSAGE = f"message {ADDRESS:#x} {VECTOR:#x}"
"""The message of the completion event, as it is logged."""


def context(g: int, **fields: int) -> int:
    """A context-cache invalidation descriptor."""
    return ContextDescriptor.make(TYPE=DescriptorType.CONTEXT, G=g, **fields)


def iotlb(g: int, **fields: int) -> int:
    """An IOTLB invalidation descriptor."""
    return IotlbDescriptor.make(TYPE=DescriptorType.IOTLB, G=g, **fields)


def wait(**fields: int) -> int:
    """A wait descriptor; unless the fields say otherwise, with DATA and STATUS for the status write."""
    return WaitDescriptor.make(TYPE=DescriptorType.WAIT, **{"STDATA": DATA, "STADDR": STATUS} | fields)


def numbered(data: int, at: int = STATUS) -> int:
    """A wait descriptor that writes these data."""
    return wait(SW=1, STDATA=data, STADDR=at)


def start(bench: Bench, size: int = 0) -> None:
    """Turn a queue of 2**size pages on, with nothing in it."""
    bench.memory.write(QUEUE, bytes(0x1000))
    bench.memory.write_u64(STATUS, 0)
    bench.driver.start_queue(QUEUE, size=size)


def put(bench: Bench, slot: int, *descriptors: int) -> None:
    """Write descriptors to the queue from a slot on."""
    for n, descriptor in enumerate(descriptors, slot):
        bench.memory.write(QUEUE + WIDTH * n, descriptor.to_bytes(WIDTH, "little"))


def tail(bench: Bench, slot: int) -> None:
    """Write the tail."""
    bench.platform.write_register(IQT.offset, WIDTH * slot, 8)


def program_completion(bench: Bench, *, masked: bool) -> None:
    """Program the message of the completion event."""
    bench.platform.write_register(IEADDR.offset, ADDRESS, 4)
    bench.platform.write_register(IEDATA.offset, VECTOR, 4)
    bench.platform.write_register(IECTL.offset, IECTL.make(IM=masked), 4)


def clear_error(bench: Bench) -> None:
    """Clear IQE."""
    bench.platform.write_register(FSTS.offset, FSTS.IQE.mask, 4)


def status(bench: Bench) -> None:
    """Log what a wait descriptor has written."""
    bench.note(f"status {bench.memory.read_u32(STATUS):#x}")


def note(bench: Bench) -> None:
    """Log what a wait descriptor has written, and the head."""
    status(bench)
    bench.note_register(IQH)
