"""A small VT-d driver: legacy mode, pages of 4 KiB, a domain for each device, invalidations through the queue.

It knows the unit only through two objects: registers (read32, read64, write32, write64, by offset) and memory
(read_u32, read_u64, write_u32, write_u64, by address). Under test, both belong to the model.
"""

CAP, GCMD, GSTS, RTADDR, IQT, IQA, IRTA = 0x08, 0x18, 0x1C, 0x20, 0x88, 0x90, 0xB8
TE, SRTP, WBF, QIE, IRE, SIRTP = (1 << bit for bit in (31, 30, 27, 26, 25, 24))
ONE_SHOT = SRTP | WBF | SIRTP
READ, WRITE, PRESENT, ADDRESS = 1, 2, 1, 0xF_FFFF_FFFF_F000
CONTEXT, IOTLB, INTERRUPT, WAIT = 1, 2, 4, 5
EVERYTHING, DOMAIN, SELECTIVE, ONE_INDEX = 1 << 4, 2 << 4, 3 << 4, 1 << 4


class Driver:
    """Drives one unit. `free` is the first of the pages that the driver may use for tables."""

    def __init__(self, registers, memory, free):
        self.registers, self.memory, self.free = registers, memory, free
        cap = registers.read64(CAP)
        self.levels = next(levels for levels in (5, 4, 3) if cap >> 8 & 1 << levels - 2)
        self.caching_mode, self.page_selective = cap >> 7 & 1, cap >> 39 & 1
        self.drain = (cap >> 54 & 1) << 6 | (cap >> 55 & 1) << 7
        self.root, self.queue, self.status, self.interrupts = (self.page() for _ in range(4))
        self.tail, self.domains = 0, {}

    def start(self):
        """Turn on the queue, DMA remapping and interrupt remapping."""
        self.registers.write64(IQT, 0)
        self.registers.write64(IQA, self.queue)
        self.command(QIE)
        self.registers.write64(RTADDR, self.root)
        self.command(SRTP)
        self.invalidate((CONTEXT | EVERYTHING, 0), (IOTLB | EVERYTHING | self.drain, 0))
        self.command(TE)
        self.registers.write64(IRTA, self.interrupts | 7)
        self.command(SIRTP)
        self.invalidate((INTERRUPT, 0))
        self.command(IRE)

    def map(self, source_id, address, host, *, writable=True):
        """Map a page for a device."""
        domain, table = self.domain_of(source_id)
        entry = self.entry(table, address)
        self.memory.write_u64(entry, host | READ | (WRITE if writable else 0))
        if self.caching_mode:
            self.invalidate_page(domain, address)

    def unmap(self, source_id, address):
        """Unmap a page: when this returns, the device cannot reach it any more."""
        domain, table = self.domain_of(source_id)
        self.memory.write_u64(self.entry(table, address), 0)
        self.invalidate_page(domain, address)

    def set_interrupt(self, index, source_id, vector, destination):
        """Let a device send an interrupt. Returns the address and data of its MSI."""
        entry = self.interrupts + 16 * index
        self.memory.write_u64(entry + 8, 1 << 18 | source_id)
        self.memory.write_u64(entry, destination << 40 | vector << 16 | PRESENT)
        self.invalidate((INTERRUPT | ONE_INDEX | index << 32, 0))
        return 0xFEE0_0000 | index << 5 | 1 << 4, 0

    def domain_of(self, source_id):
        """The domain and the top table of a device, which is given both when it is used first."""
        if source_id not in self.domains:
            domain, table = self.domains[source_id] = len(self.domains) + 1, self.page()
            root = self.root + 16 * (source_id >> 8)
            if not self.memory.read_u64(root) & PRESENT:
                self.memory.write_u64(root, self.page() | PRESENT)
            entry = (self.memory.read_u64(root) & ADDRESS) + 16 * (source_id & 0xFF)
            self.memory.write_u64(entry + 8, domain << 8 | self.levels - 2)
            self.memory.write_u64(entry, table | PRESENT)
            if self.caching_mode:  # what was not present is cached in domain 0
                self.invalidate((CONTEXT | SELECTIVE | source_id << 32, 0), (IOTLB | DOMAIN | self.drain, 0))
        return self.domains[source_id]

    def entry(self, table, address):
        """Where the entry of a page is; tables on the way are made."""
        for level in range(self.levels, 1, -1):
            entry = table + 8 * (address >> 3 + 9 * level & 0x1FF)
            if not self.memory.read_u64(entry) & (READ | WRITE):
                self.memory.write_u64(entry, self.page() | READ | WRITE)
            table = self.memory.read_u64(entry) & ADDRESS
        return table + 8 * (address >> 12 & 0x1FF)

    def page(self):
        """A page of zeroes."""
        self.free += 0x1000
        return self.free - 0x1000

    def command(self, bit):
        """Give one global command and wait until the unit has carried it out."""
        self.registers.write32(GCMD, self.registers.read32(GSTS) & ~ONE_SHOT | bit)
        self.wait(lambda: self.registers.read32(GSTS) & bit)

    def invalidate_page(self, domain, address):
        """Invalidate one page of a domain, or all of it on a unit without page-selective invalidation."""
        if self.page_selective:
            self.invalidate((IOTLB | SELECTIVE | self.drain | domain << 16, address))
        else:
            self.invalidate((IOTLB | DOMAIN | self.drain | domain << 16, 0))

    def invalidate(self, *descriptors):
        """Submit descriptors and wait until the unit has carried them out."""
        self.memory.write_u32(self.status, 0)
        for low, high in (*descriptors, (1 << 32 | 1 << 5 | WAIT, self.status)):
            self.memory.write_u64(self.queue + self.tail, low)
            self.memory.write_u64(self.queue + self.tail + 8, high)
            self.tail = (self.tail + 16) % 0x1000
        self.registers.write64(IQT, self.tail)
        self.wait(lambda: self.memory.read_u32(self.status))

    def wait(self, done):
        """Poll until something is done."""
        for _ in range(1000):
            if done():
                return
        raise TimeoutError("the unit does not answer")
