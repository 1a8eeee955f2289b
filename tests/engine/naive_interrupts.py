"""A second, deliberately naive reading of interrupt remapping: no caches, one function, straight from the sheet."""

from __future__ import annotations

from typing import NamedTuple

from iommu import FlatMemory, InterruptRequest, MemoryAccessError, Policy


class Verdict(NamedTuple):
    """The outcome of a request: a message (address, data), a posting, a notification, a fault and its record."""

    message: tuple[int, int] | None = None
    posted: bool = False
    notification: tuple[int, int] | None = None
    fault: int = 0
    record: tuple[int, int] | None = None


def bits(value: int, msb: int, lsb: int) -> int:
    """Bits msb:lsb."""
    return value >> lsb & (1 << msb - lsb + 1) - 1


def apic_message(destination: int, data: int, low_address: int = 0) -> tuple[int, int]:
    """A message to an APIC id; level assert."""
    high, low = divmod(destination, 256)
    return high * 256 * 2**32 + 0xFEE0_0000 + low * 0x1000 + low_address, data + 0x4000


def remap(
    memory: FlatMemory,
    policy: Policy,
    table: int,
    s: int,
    *,
    eime: bool,
    cfi: bool,
    pi: bool,
    request: InterruptRequest,
) -> Verdict:
    """What an interrupt request becomes while remapping is on. A posting is written to `memory`."""
    source, address, data = request

    def fault(code: int, index: int = 0, fpd: int = 0) -> Verdict:
        if fpd and code in (0x22, 0x24, 0x26, 0x27, 0x28):
            return Verdict(fault=code)
        return Verdict(fault=code, record=(index % 0x10000 * 2**48, 2**63 + code * 2**32 + source))

    # 7.3
    if bits(address, 4, 4) == 0:
        return Verdict(message=(address, data)) if cfi and not eime else fault(0x25)

    # 7.2, steps 1 to 4
    shv = bits(address, 3, 3)
    if bits(data, 31, 16) and shv:
        return fault(0x20)
    index = bits(address, 2, 2) * 0x8000 + bits(address, 19, 5) + (bits(data, 15, 0) if shv else 0)
    if index >= 2 ** (s + 1):
        return fault(0x21, index)
    try:
        entry = int.from_bytes(memory.read(table + 16 * index, 16), "little")
    except MemoryAccessError:
        return fault(0x23, index)
    fpd = bits(entry, 1, 1)
    if bits(entry, 0, 0) == 0:
        return fault(0x22, index, fpd)

    # 7.4, 7.5: the fields
    posted = bits(entry, 15, 15) == 1 and pi
    if posted:
        reserved = bits(entry, 7, 2) or bits(entry, 13, 12) or bits(entry, 37, 24) or bits(entry, 95, 84)
    else:
        reserved = bits(entry, 15, 12) or bits(entry, 31, 24) or bits(entry, 127, 84) or bits(entry, 7, 5) in (3, 6)
        reserved = reserved or (not eime and (bits(entry, 39, 32) or bits(entry, 63, 48)))

    # 7.4: the source
    sid, svt = bits(entry, 79, 64), bits(entry, 83, 82)
    mask = (0xFFFF, 0xFFFB, 0xFFF9, 0xFFF8)[bits(entry, 81, 80)]
    refused = (svt == 1 and source & mask != sid & mask) or (
        svt == 2 and not bits(sid, 15, 8) <= source // 256 <= bits(sid, 7, 0)
    )
    if svt == 3:
        reserved, refused = reserved or not policy.reserved_validation_fails, policy.reserved_validation_fails
    if refused:
        return fault(0x26, index, fpd)
    if reserved:
        return fault(0x24, index, fpd)

    if not posted:
        destination = bits(entry, 63, 32) if eime else bits(entry, 47, 40)
        content = bits(entry, 4, 4) * 0x8000 + bits(entry, 7, 5) * 0x100 + bits(entry, 23, 16)
        return Verdict(apic_message(destination, content, bits(entry, 3, 3) * 8 + bits(entry, 2, 2) * 4))

    # 7.5
    where = bits(entry, 127, 96) * 2**32 + bits(entry, 63, 38) * 64
    try:
        descriptor = int.from_bytes(memory.read(where, 64), "little")
    except MemoryAccessError:
        return fault(0x27, index, fpd)
    if bits(descriptor, 271, 258) or bits(descriptor, 287, 280):
        return fault(0x28, index, fpd)
    if not eime and (bits(descriptor, 295, 288) or bits(descriptor, 319, 304)):
        return fault(0x28, index, fpd)
    descriptor |= 1 << bits(entry, 23, 16)
    notification = None
    if not bits(descriptor, 256, 256) and (bits(entry, 14, 14) or not bits(descriptor, 257, 257)):
        descriptor |= 1 << 256
        destination = bits(descriptor, 319, 288) if eime else bits(descriptor, 303, 296)
        notification = apic_message(destination, bits(descriptor, 279, 272))
    memory.write(where, descriptor.to_bytes(64, "little"))
    return Verdict(posted=True, notification=notification)
