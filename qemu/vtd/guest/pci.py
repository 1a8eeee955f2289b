"""A guest's PCI devices: their configuration space as the guest shows it, and the messages that they send."""

from __future__ import annotations

from iommu.engine.faults.events import Message
from qemu.vtd.guest.guest import Guest

MSI, MSI_X = 0x05, 0x11
_CAPABILITIES = 0x34
_ENTRY = 16
"""Bytes of an MSI-X table entry: address, data, vector control."""


async def configuration(guest: Guest, address: str) -> bytes:
    """The first 256 bytes of the configuration space of a device such as 0000:00:03.0."""
    text = await guest.run(f"head -c 256 /sys/bus/pci/devices/{address}/config | hexdump -v -e '1/1 \"%02x\"'")
    return bytes.fromhex(text.strip())


def capability(config: bytes, wanted: int) -> int | None:
    """Where a capability is; None when the device has none of that id."""
    at = config[_CAPABILITIES]
    while at and config[at] != wanted:
        at = config[at + 1]
    return at or None


def base_address(config: bytes, number: int) -> int:
    """The address of a BAR; a memory BAR of 64 bits takes the next one too."""
    at = 0x10 + 4 * number
    wide = config[at] & 6 == 4
    return int.from_bytes(config[at : at + (8 if wide else 4)], "little") & ~0xF


async def messages(guest: Guest, address: str) -> dict[int, Message]:
    """The message of each of the device's interrupts, by IRQ; MSI-X entries that are masked are left out."""
    irqs = sorted(int(word) for word in (await guest.run(f"ls /sys/bus/pci/devices/{address}/msi_irqs")).split())
    config = await configuration(guest, address)
    table = capability(config, MSI_X)
    if table is not None and config[table + 3] & 0x80:
        place = int.from_bytes(config[table + 4 : table + 8], "little")
        entries = await guest.physical(base_address(config, place & 7) + (place & ~7), _ENTRY * len(irqs))
        words = [entries[at : at + _ENTRY] for at in range(0, len(entries), _ENTRY)]
        return {
            irq: _message(word[:8], word[8:12]) for irq, word in zip(irqs, words, strict=True) if not word[12] & 1
        }
    if (at := capability(config, MSI)) is None:
        return {}
    return {irqs[0]: _message(config[at + 4 : at + 12], config[at + 12 : at + 14])}


def _message(address: bytes, data: bytes) -> Message:
    return Message(int.from_bytes(address, "little"), int.from_bytes(data, "little"))
