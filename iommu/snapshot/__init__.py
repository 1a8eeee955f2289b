"""The state of a unit in files: its registers and the memory that holds its tables.

A snapshot is a directory, or a zip of one, with three or four files:

    unit.json         {"format": "vtdlab-snapshot-1", "register_base": "0xfed90000", "host_address_width": 48}
    registers.bin     the register window from its start, as many bytes of it as were saved
    memory.bin        physical memory from address 0; or
    memory.elf        an ELF core with physical addresses in its segments (QEMU's dump-guest-memory)
    state.bin         optional, of a unit of the model: all that `RemappingUnit.save` returns

Addresses in unit.json are hexadecimal strings. register_base is optional and serves for display only. "memory_base",
also optional, is the address of the first byte of memory.bin if that is not 0.

What the registers do not show is in state.bin and nowhere else: what the unit has latched of them and what it has
cached. Its format has a version of its own, is declared in iommu/engine/state_format.py, and is the same in a file as
in bytes: a header, which names CAP, ECAP and the policy, and sections of records of fixed size.
"""

from iommu.snapshot.save import save
from iommu.snapshot.snapshot import Snapshot, load

__all__ = ["Snapshot", "load", "save"]
