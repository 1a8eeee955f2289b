"""A unit as it stood: its registers and the memory its tables are in, in files.

A snapshot is a directory, or a zip of one, with three files:

    unit.json         {"format": "vtdlab-snapshot-1", "register_base": "0xfed90000", "host_address_width": 48}
    registers.bin     the register window from the base on, as many bytes of it as were taken
    memory.bin        physical memory from address 0 on; or
    memory.elf        an ELF core whose segments' physical addresses say what they are (QEMU's dump-guest-memory)

Addresses in unit.json are hexadecimal texts; register_base is only told to people. "memory_base", also optional,
is where memory.bin begins when that is not 0. What a unit has cached is not in a snapshot.
"""

from iommu.snapshot.save import save
from iommu.snapshot.snapshot import Snapshot, load

__all__ = ["Snapshot", "load", "save"]
