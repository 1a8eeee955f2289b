"""A second, deliberately naive reading of legacy-mode translation: no classes, no caches, straight from the text."""

from __future__ import annotations

from collections.abc import Callable

from iommu import Access, Capabilities, MemoryAccessError

Verdict = tuple[str, int]
"""("host", address) or ("fault", code)."""


def fault(code: int) -> set[Verdict]:
    """Blocked, and that is all it can be."""
    return {("fault", code)}


def any_set(value: int, bits: list[int]) -> bool:
    """Whether one of the bits is 1."""
    return any(value >> bit & 1 for bit in bits)


def translate(
    read_u64: Callable[[int], int],
    capabilities: Capabilities,
    root: int,
    source_id: int,
    address: int,
    access: Access,
    length: int = 1,
) -> set[Verdict]:
    """What an untranslated request without PASID may become: one verdict, or two where the sheet leaves a doubt."""
    haw = capabilities.host_address_width
    beyond_host = [bit for bit in range(12, 64) if bit >= haw]

    # 1.2: root entry
    try:
        low, high = read_u64(root + 16 * (source_id >> 8)), read_u64(root + 16 * (source_id >> 8) + 8)
    except MemoryAccessError:
        return fault(0x08)
    if low & 1 == 0:
        return fault(0x01)
    if any_set(low, [*range(1, 12), *beyond_host]) or high != 0:
        return fault(0x0A)

    # 1.2, 1.3: context entry
    where = (low >> 12 << 12) + 16 * (source_id & 0xFF)
    try:
        low, high = read_u64(where), read_u64(where + 8)
    except MemoryAccessError:
        return fault(0x09)
    tt, table, aw = low >> 2 & 3, low >> 12 << 12, high & 7
    if low & 1 == 0:
        return fault(0x02)
    if any_set(low, list(range(4, 12))) or any_set(high, [7, *range(24, 64)]):
        return fault(0x0B)
    if any_set(high >> 8 & 0xFFFF, list(range(capabilities.domain_id_bits, 16))):
        return fault(0x0B)
    if tt in (0, 1) and any_set(low, beyond_host):
        return fault(0x0B)
    if tt == 3 or (tt == 1 and not capabilities.device_tlb) or (tt == 2 and not capabilities.pass_through):
        return fault(0x03)
    if aw not in (1, 2, 3) or aw + 2 not in capabilities.levels:
        return fault(0x03)

    # 1.5: limits and pass-through
    if tt == 2:
        return {("host", address)} if address < 1 << haw else fault(0x04)
    if address >= 1 << min(capabilities.address_width, {1: 39, 2: 48, 3: 57}[aw]):
        return fault(0x04)

    return walk(read_u64, capabilities, table, aw + 2, address, access, length)


def walk(
    read_u64: Callable[[int], int],
    capabilities: Capabilities,
    table: int,
    levels: int,
    address: int,
    access: Access,
    length: int,
) -> set[Verdict]:
    """The second-stage walk, 1.6."""
    haw = capabilities.host_address_width
    no_permission = 0x05 if access is Access.WRITE else 0x06
    readable = writable = True
    for level in range(levels, 0, -1):
        try:
            entry = read_u64(table + 8 * (address >> 12 + 9 * (level - 1) & 511))
        except MemoryAccessError:
            return fault(0x03 if level == levels else 0x07)
        if entry & 3 == 0:
            return fault(no_permission)
        readable, writable = readable and entry & 1 == 1, writable and entry & 2 == 2
        leaf = level == 1 or (level in (2, 3) and entry >> 7 & 1 == 1)
        reserved = list(range(haw, 52))
        if level in (4, 5):
            reserved.append(7)
        if level == 3 and not capabilities.page_1g:
            reserved.append(7)
        if level == 2 and not capabilities.page_2m:
            reserved.append(7)
        if leaf:
            reserved += range(12, 12 + 9 * (level - 1))
        if not leaf or not capabilities.snoop_control:
            reserved.append(11)
        if not leaf or not capabilities.device_tlb:
            reserved.append(62)
        if any_set(entry, reserved):
            # D-4: with nothing permitted any more either fault is right.
            return fault(0x0C) if readable or writable else fault(0x0C) | fault(no_permission)
        if not (readable or writable):
            return fault(no_permission)
        if leaf:
            size = 1 << 12 + 9 * (level - 1)
            allowed = writable if access is Access.WRITE else readable
            if access is Access.READ and length == 0 and capabilities.zero_length_read:
                allowed = readable or writable
            if not allowed:
                return fault(no_permission)
            host = (entry & (1 << 52) - 1) // size * size + address % size
            return fault(0x0E) if 0xFEE0_0000 <= host <= 0xFEEF_FFFF else {("host", host)}
        table = entry & 0xF_FFFF_FFFF_F000
    raise AssertionError("a leaf ends the walk")
