"""A second, deliberately naive reading of scalable mode: no caches, one check after another, straight from the text.

It works on a copy and says which quadwords it would have updated. Where the text leaves a doubt it asks `doubt`,
whose answer is no, the text's own position, in the first outcome, and every combination in the further ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from iommu import Access, AddressType, Capabilities, DmaRequest, MemoryAccessError

UNQUALIFIED = {0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39, 0x3A, 0x40, 0x50, 0x58}
# 7.1.3: a translation request with one of these faults succeeds, without permissions.
MERELY_ABSENT = {0x51, 0x59, 0x5C, 0x5D, *range(0x70, 0x78), 0x79, *range(0x80, 0x87), 0x90}
FIRST, SECOND, NESTED, PASS = 1, 2, 3, 4


class Answer(NamedTuple):
    """The outcome of a request; `updates` are quadwords of memory and their new values."""

    host: int | None
    fault: int = 0
    recorded: bool = False
    size: int = 0
    permissions: tuple[bool, bool] = (False, False)
    interrupt: bool = False
    updates: frozenset[tuple[int, int]] = frozenset()
    attributes: tuple[bool, int | None, int | None, bool, bool] = (False, None, None, False, False)
    """Snooped, first-stage memory type, second-stage memory type, IPAT, CD."""


class Stop(Exception):
    """The request is blocked by this fault; 0 stands for none."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def outcomes(
    read_u64: Callable[[int], int],
    can: Capabilities,
    rtaddr: int,
    request: DmaRequest,
    *,
    per_level: bool = False,
    read_only: Callable[[int], bool] = lambda _at: False,
) -> Iterator[Answer]:
    """Everything the request may become, what the text says first."""
    todo: list[dict[str, bool]] = [{}]
    tried = 0
    while todo and tried < 4000:
        reader = Reader(read_u64, can, rtaddr, request, todo.pop(), per_level, read_only)
        yield reader.answer()
        tried += 1
        given = list(reader.given.items())
        for n in range(len(reader.script), len(given)):
            todo.append({**dict(given[:n]), given[n][0]: True})


def any_set(value: int, bits: list[int]) -> bool:
    """Whether one of the bits is 1."""
    return any(value >> bit & 1 for bit in bits)


class Reader:
    """One reading, by one set of answers to the doubts."""

    def __init__(
        self,
        read_u64: Callable[[int], int],
        can: Capabilities,
        rtaddr: int,
        request: DmaRequest,
        script: dict[str, bool],
        per_level: bool,
        read_only: Callable[[int], bool],
    ) -> None:
        self.read_u64, self.can, self.rtaddr, self.request = read_u64, can, rtaddr, request
        self.script, self.per_level, self.read_only = script, per_level, read_only
        self.given: dict[str, bool] = {}
        self.updates: dict[int, int] = {}
        self.fpd = 0
        self.beyond_host = list(range(can.host_address_width, 64))
        self.asks = request.address_type is AddressType.TRANSLATION_REQUEST
        self.supervisor = self.executes = False
        self.entry = 0
        self.held: list[tuple[int, int]] = []

    def doubt(self, name: str) -> bool:
        """Whether, in this reading, the text's position does not hold."""
        return self.given.setdefault(name, self.script.get(name, False))

    def answer(self) -> Answer:
        """The outcome of the request."""
        try:
            answer = self.tables()
        except Stop as stop:
            answer = self.blocked(stop.code)
        return answer._replace(updates=frozenset(self.updates.items()))

    def blocked(self, code: int) -> Answer:
        """2.3 on FPD, and 8.1 on translation requests."""
        if code == 0:
            return Answer(None)
        if self.asks and code in MERELY_ABSENT:
            return Answer(None)
        return Answer(None, code, code in UNQUALIFIED or not self.fpd)

    # Memory

    def value(self, at: int) -> int:
        """A quadword, with the updates made so far."""
        return self.updates[at] if at in self.updates else self.read_u64(at)

    def read(self, at: int, quadwords: int, code: int) -> int:
        """An entry, or the fault when it cannot be read."""
        try:
            return sum(self.value(at + 8 * n) << 64 * n for n in range(quadwords))
        except MemoryAccessError:
            raise Stop(code) from None

    def mark(self, at: int, bits: int, unsnooped: int, failed: int) -> None:
        """2.5 item 8, 2.6: set the bits of an entry that are missing, all at once."""
        if bits & ~self.value(at) == 0:
            return
        snooped = self.can.scalable_coherent and self.entry >> 87 & 1
        if not snooped:
            raise Stop(unsnooped)
        if self.read_only(at):
            raise Stop(failed)
        self.updates[at] = self.value(at) | bits

    # 2.3

    def before_tables(self) -> Answer | None:
        """What is decided before any table is read."""
        request, can = self.request, self.can
        translated = request.address_type is AddressType.TRANSLATED
        # The specification, 4.2.1: unsupported, before anything else.
        if translated and request.pasid is not None:
            raise Stop(0)
        if request.pasid is None and not request.address_type and 0xFEE0_0000 <= request.address <= 0xFEEF_FFFF:
            dword = request.access is Access.WRITE and request.length == 4 and request.address % 4 == 0
            # The specification, 3.15: a zero-length read passes.
            return Answer(request.address if request.length == 0 else None, interrupt=dword)
        ttm = self.rtaddr >> 10 & 3
        if ttm == 3 and can.abort_dma:
            raise Stop(0x33)
        if ttm != 1 or not can.scalable_mode:
            raise Stop(0x30)
        if request.execute and can.version >= 0x80:  # the specification, RTA.5
            raise Stop(0x34)
        return None

    def tables(self) -> Answer:
        """Root, context, PASID directory, PASID table, in this order."""
        if (early := self.before_tables()) is not None:
            return early
        request, can = self.request, self.can
        translated = request.address_type is AddressType.TRANSLATED
        bus, devfn = request.source_id >> 8, request.source_id & 0xFF
        root = self.read((self.rtaddr >> 12 << 12) + 16 * bus + (8 if devfn >= 0x80 else 0), 1, 0x38)
        if root & 1 == 0:
            raise Stop(0x39)
        if any_set(root, [*range(1, 12), *self.beyond_host]):
            raise Stop(0x3A)

        context = self.read((root >> 12 << 12) + 32 * (devfn & 0x7F), 4, 0x40)
        self.fpd = context >> 1 & 1
        if context & 1 == 0:
            raise Stop(0x41)
        dte, paside = context >> 2 & 1, context >> 3 & 1
        rid_pasid, rid_priv = context >> 64 & 0xFFFFF, context >> 84 & 1
        self.reserved_in_context(context)

        limit = 1 << 13 + (context >> 9 & 7)
        if (context >> 4 & 1 and not dte) or rid_pasid >= limit:
            raise Stop(0x43)
        if request.address_type != 0 and not dte:
            raise Stop(0x44)
        self.explicit_pasid(paside, limit, rid_pasid)
        if translated:
            return self.translated()
        if self.asks and request.pasid is None and 0xFEE0_0000 <= request.address <= 0xFEEF_FFFF:
            # The specification, S.1 and S.2: untranslated writes only.
            return Answer(None, permissions=(False, not (request.no_write and can.no_write_requests)))
        pasid = request.pasid
        if pasid is None:
            pasid = rid_pasid
            self.supervisor = bool(rid_priv)

        directory = self.read(context % (1 << 64) // 4096 * 4096 + 8 * (pasid >> 6), 1, 0x50)
        self.fpd |= directory >> 1 & 1
        if directory & 1 == 0:
            raise Stop(0x51)
        if any_set(directory, [*range(2, 12), *self.beyond_host]):
            raise Stop(0x52)

        self.entry = self.read((directory >> 12 << 12) + 64 * (pasid & 0x3F), 8, 0x58)
        self.fpd |= self.entry >> 1 & 1
        if self.entry & 1 == 0:
            raise Stop(0x59)
        self.reserved_in_pasid_entry()
        self.types()
        return self.walk()

    def reserved_in_context(self, context: int) -> None:
        """2.3, step 7."""
        can = self.can
        dte, pre, rid_priv = context >> 2 & 1, context >> 4 & 1, context >> 84 & 1
        if any_set(context, [*range(5, 9), *self.beyond_host, *range(85, 256)]):
            raise Stop(0x42)
        if (dte and not can.device_tlb) or (pre and not can.page_requests) or (rid_priv and not can.rid_priv):
            raise Stop(0x42)
        if context >> 64 & 0xFFFFF and not can.rid_pasid:
            raise Stop(0x42)

    def explicit_pasid(self, paside: int, limit: int, rid_pasid: int) -> None:
        """2.3, steps 9 to 10b, and 2.4."""
        request, can = self.request, self.can
        if request.pasid is None:
            return
        if not paside:
            raise Stop(0x45)
        if request.pasid >= limit:
            raise Stop(0x46)
        if request.pasid == rid_pasid:
            raise Stop(0x48)
        if request.pasid >= 1 << can.pasid_bits:
            raise Stop(0x89)
        self.supervisor = request.privileged
        self.executes = request.execute

    def translated(self) -> Answer:
        """The specification, 4.2.5, SGN.4.1, SGN.8.3, which settle the sheet's 8.3: not walked."""
        address = self.request.address
        if address >= 1 << self.can.host_address_width:
            raise Stop(0x83)
        if 0xFEE0_0000 <= address <= 0xFEEF_FFFF:
            raise Stop(0x87)
        return Answer(address, permissions=(True, True))

    def reserved_in_pasid_entry(self) -> None:
        """2.2."""
        entry, can = self.entry, self.can
        pgtt = entry >> 6 & 7
        first, second = pgtt in (FIRST, NESTED), pgtt in (SECOND, NESTED)
        surely = [10, 11, *range(80, 87), *range(91, 96), *range(192, 512)]
        perhaps = [5]
        if can.memory_types:
            perhaps.extend(range(99, 128, 4))
        else:
            surely += [89, 90, *range(96, 128)]
        (perhaps if can.execute_requests else surely).append(129)
        (surely if first else perhaps).extend(range(136, 140))
        (surely if first else perhaps).extend(range(128 + can.host_address_width, 192))
        (surely if second or pgtt == PASS else perhaps).extend(range(can.host_address_width, 64))
        if not can.second_stage_dirty:
            (surely if second else perhaps).append(9)
        if not can.scalable_coherent:
            (perhaps if pgtt == PASS else surely).append(87)
        if not can.snoop_control:
            surely.append(88)
        if not can.second_stage:
            surely.extend([*range(2, 5), *range(12, 64)])
        if not can.first_stage:
            surely.extend([*range(128, 133), 135, *range(140, 192)])
        if not can.supervisor_requests:
            perhaps.append(128)
        if not can.extended_accessed:
            perhaps.append(135)
        # As in the context entry of legacy mode, 1.3.
        surely.extend(range(64 + can.domain_id_bits, 80))
        unsupported = not {1: can.first_stage, 2: can.second_stage, 3: can.nested, 4: can.pass_through}.get(pgtt)
        for bit in range(512):
            if entry >> bit & 1 and bit in surely and not (unsupported and self.doubt(f"{bit} in no type")):
                raise Stop(0x5A)
        for bit in sorted(set(perhaps)):
            if entry >> bit & 1 and bit not in surely and self.doubt(f"PASID entry, bit {bit}"):
                raise Stop(0x5A)

    def types(self) -> None:
        """2.3, steps 15 to 17."""
        entry, can = self.entry, self.can
        pgtt, aw, fspm = entry >> 6 & 7, entry >> 2 & 7, entry >> 130 & 3
        offered = {FIRST: can.first_stage, SECOND: can.second_stage, NESTED: can.nested, PASS: can.pass_through}
        if not offered.get(pgtt):
            raise Stop(0x5B)
        if pgtt in (SECOND, NESTED) and (aw not in (1, 2, 3) or aw + 2 not in can.levels):
            raise Stop(0x5B)
        if pgtt in (FIRST, NESTED) and (fspm > 1 or (fspm == 1 and not can.first_stage_5_level)):
            raise Stop(0x5B)
        top = entry >> 140 & (1 << 52) - 1
        if pgtt == NESTED and top << 12 >= 1 << min(can.address_width, 12 + 9 * (aw + 2)):
            raise Stop(0x5B)
        if self.executes and not can.execute_requests:  # the specification, SPT.5
            raise Stop(0x5C)
        if self.executes and entry >> 129 & 1 == 0 and pgtt in (FIRST, NESTED) and not self.doubt("D-17: no ERE"):
            raise Stop(0x5C)
        if self.supervisor and entry >> 128 & 1 == 0 and pgtt in (FIRST, NESTED):
            raise Stop(0x5D)

    def walk(self) -> Answer:
        """2.5 to 2.8."""
        pgtt, address = self.entry >> 6 & 7, self.request.address
        if pgtt == PASS:
            if address >= 1 << self.can.host_address_width:
                raise Stop(0x83)
            if 0xFEE0_0000 <= address <= 0xFEEF_FFFF:
                raise Stop(0 if self.asks else 0x87)  # the specification, SGN.8.2
            return Answer(address, permissions=(True, True), attributes=self.attributes(None, None))
        if pgtt == SECOND:
            reads = self.request.access is not Access.WRITE
            writes = self.request.access is not Access.READ
            return self.second(address, reads, writes, self.asks)
        return self.first()

    # 2.5 and 2.7

    def first(self) -> Answer:
        """The first stage, and for the nested type all of the second."""
        address, levels = self.request.address, 4 + (self.entry >> 130 & 3)
        nested = self.entry >> 6 & 7 == NESTED
        if address >> 9 * levels + 11 not in (0, (1 << 53 - 9 * levels) - 1):
            raise Stop(0x80)
        table = self.entry >> 140 << 12 & (1 << 64) - 1
        user = writable = executable = True
        late = []
        for level in range(levels, 0, -1):
            at = table + 8 * (address >> 3 + 9 * level & 511)
            gpa = at
            if nested:
                at = self.first_table(gpa, level == levels)
            entry = self.read(at, 1, 0x73 if level == levels else 0x70)
            if entry & 1 == 0:
                raise Stop(0x71)
            leaf = level == 1 or (level in (2, 3) and entry >> 7 & 1 == 1)
            user, writable = user and entry >> 2 & 1 == 1, writable and entry >> 1 & 1 == 1
            executable = executable and entry >> 63 == 0
            if self.per_level:
                self.permitted(user, writable, True)
            if any_set(entry, self.reserved_in_first(level, leaf)):
                raise Stop(0x72)
            if self.per_level:
                self.permitted(user, writable, executable)
            if leaf:
                break
            if not self.updated(at):
                if self.doubt("2.5, item 8: A of upper entries only at the end"):
                    late.append((at, gpa))
                else:
                    self.mark_first(at, gpa, 0)
            table = entry & 0xF_FFFF_FFFF_F000
        self.permitted(user, writable, executable)
        size = 1 << 3 + 9 * level
        page = (entry & (1 << 52) - 1) // size * size
        writes = self.granted_write(writable)
        if self.asks and self.can.no_write_requests and self.request.no_write:
            writes = writes and entry >> 6 & 1 == 1
        for where in late:
            self.mark_first(*where, 0)
        if nested:
            found = self.nested_page(page + address % size, size, writes, (at, gpa))
            snooped, _, emt, ipat, cd = found.attributes
            _, memory_type, *_ = self.attributes((entry, level), None)
            return found._replace(attributes=(snooped, memory_type, emt, ipat, cd))
        host = page + address % size
        if host >= 1 << self.can.host_address_width:
            raise Stop(0x83)
        if self.in_interrupt_range(host, size):
            raise Stop(0x87)
        self.mark_first(at, gpa, 1 << 6 if self.dirties(writes) else 0)
        return Answer(host, size=size, permissions=(True, writes), attributes=self.attributes((entry, level), None))

    def in_interrupt_range(self, host: int, size: int) -> bool:
        """The specification, SGN.8.2: for a translation request all of the page counts."""
        first, last = (host // size * size, host // size * size + size - 1) if self.asks else (host, host)
        return first <= 0xFEEF_FFFF and last >= 0xFEE0_0000

    def attributes(
        self, first: tuple[int, int] | None, second: int | None
    ) -> tuple[bool, int | None, int | None, bool, bool]:
        """Snoop and memory types (1.6; 3.8.4 of the public text of revision 2.4; layouts 2.4, 2.6, 2.7)."""
        pgsnp, cd, emte = (self.entry >> bit & 1 == 1 for bit in (88, 89, 90))
        snooped = pgsnp or (second is not None and self.can.snoop_control and second >> 11 & 1 == 1)
        if not self.can.memory_types:
            return snooped, None, None, False, False
        from_pat = from_emt = None
        if first is not None:
            entry, level = first
            index = 4 * (entry >> (7 if level == 1 else 12) & 1) + 2 * (entry >> 4 & 1) + (entry >> 3 & 1)
            from_pat = self.entry >> 96 + 4 * index & 7
        if second is not None and emte:
            from_emt = second >> 3 & 7
        return snooped, from_pat, from_emt, from_emt is not None and (second or 0) >> 6 & 1 == 1, cd

    def reserved_in_first(self, level: int, leaf: bool) -> list[int]:
        """2.5, item 4."""
        reserved = list(range(self.can.host_address_width, 52))
        if level in (4, 5) or (level == 3 and not self.can.first_stage_1g):
            reserved.append(7)
        if leaf and level > 1:
            reserved += range(13, 3 + 9 * level)
        return reserved

    def updated(self, at: int) -> bool:
        """Whether the entry needs no update."""
        wanted = 1 << 5 | (1 << 10 if self.entry >> 135 & 1 else 0)
        return self.value(at) & wanted == wanted

    def permitted(self, user: bool, writable: bool, executable: bool) -> None:
        """2.5, item 5."""
        if self.executes and not executable and not self.asks and not (user or self.supervisor):
            raise Stop(0x82 if self.doubt("0x82 before 0x81") else 0x81)
        if not self.supervisor and not user:
            raise Stop(0x81)
        if not self.asks and self.request.access is not Access.READ and not self.granted_write(writable):
            raise Stop(0x85)
        if self.executes and not executable and (not self.asks or self.doubt("execute permission asked for")):
            raise Stop(0x82)

    def granted_write(self, writable: bool) -> bool:
        """The first stage's write permission."""
        return writable or (self.supervisor and self.entry >> 132 & 1 == 0)

    def dirties(self, writable: bool) -> bool:
        """Whether D is set: by a write, and by a translation request that may lead to one (8.1)."""
        if not self.asks:
            return self.request.access is not Access.READ
        return writable and not (self.can.no_write_requests and self.request.no_write)

    def mark_first(self, at: int, gpa: int, more: int) -> None:
        """2.5 item 8; nested, it is a write to the table."""
        bits = 1 << 5 | more | (1 << 10 if self.entry >> 135 & 1 else 0)
        if self.entry >> 6 & 7 == NESTED and bits & ~self.value(at):
            snooped = self.can.scalable_coherent and self.entry >> 87 & 1
            if snooped or not self.doubt("2.7: 0x90 before 0x77"):
                self.second(gpa, True, True, False, ("write", 0x77))
        self.mark(at, bits, 0x90, 0x91)

    def first_table(self, gpa: int, top: bool) -> int:
        """2.7: where an entry of a first-stage table is."""
        answer = self.second(gpa, True, False, False, ("read", 0x75 if top else 0x76))
        assert answer.host is not None
        return answer.host

    def nested_page(self, gpa: int, size: int, writes: bool, leaf: tuple[int, int]) -> Answer:
        """2.7: the final address. Whether the first stage's leaf is marked before is open."""
        before = not self.asks and self.doubt("2.7: first-stage leaf marked before the page's second stage")
        more = 1 << 6 if self.dirties(writes) else 0
        if before or (self.asks and self.doubt("8.1: D by the first stage's permission alone")):
            self.mark_first(*leaf, more)
            before = True
        wants_write = self.request.access is not Access.READ
        reads = self.request.access is not Access.WRITE
        found = self.second(gpa, reads, wants_write, self.asks, writable=writes, largest=size)
        allowed = found.permissions[1] and writes
        if not before:
            self.mark_first(*leaf, 1 << 6 if self.dirties(allowed) else 0)
        for held in self.held:
            self.mark_second(*held)
        return found._replace(size=min(size, found.size), permissions=(found.permissions[0], allowed))

    # 2.6

    def second(
        self,
        address: int,
        reads: bool,
        writes: bool,
        asks: bool,
        purpose: tuple[str, int] = ("", 0),
        *,
        writable: bool = True,
        largest: int = 1 << 64,
    ) -> Answer:
        """The second-stage walk.

        `purpose`: for which access to a first-stage table, and the fault when forbidden. `largest`: the size of the
        first stage's page.
        """
        # The specification, 3.8.1: with SSADE, reading a first-stage table needs both permissions.
        needs_write = writes or (purpose[0] == "read" and self.entry >> 9 & 1 == 1)
        table, levels = self.entry % (1 << 64) >> 12 << 12, 2 + (self.entry >> 2 & 7)
        if address >= 1 << min(self.can.address_width, 12 + 9 * levels):
            raise Stop(0x74 if purpose[0] or self.entry >> 6 & 7 == NESTED else 0x84)
        may_read = may_write = True
        for level in range(levels, 0, -1):
            at = table + 8 * (address >> 3 + 9 * level & 511)
            entry = self.read(at, 1, 0x7B if level == levels else 0x78)
            if entry & 3 == 0:
                raise Stop(0x79)
            may_read, may_write = may_read and entry & 1 == 1, may_write and entry & 2 == 2
            leaf = level == 1 or (level in (2, 3) and entry >> 7 & 1 == 1)
            nothing = not (may_read or may_write)
            if self.per_level and not asks:
                self.second_permits(may_read, may_write, reads, needs_write, purpose)
            if any_set(entry, self.reserved_in_second(level, leaf)):
                if nothing and self.doubt("D-4: nothing permitted any more"):
                    raise Stop(0x79)
                raise Stop(0x7A)
            if nothing:
                if self.per_level and self.request.length == 0 and self.doubt("D-4: zero-length read"):
                    raise Stop(0x86)
                if not leaf and self.doubt("2.6: marked though nothing is permitted"):
                    self.mark_second(at, 0)
                raise Stop(0x79)
            if leaf:
                break
            self.mark_second(at, 0)
            table = entry & 0xF_FFFF_FFFF_F000
        if not asks:
            self.second_permits(may_read, may_write, reads, needs_write, purpose)
        size = 1 << 3 + 9 * level
        host = (entry & (1 << 52) - 1) // size * size + address % size
        if purpose[0]:
            inside = 0xFEE0_0000 <= host <= 0xFEEF_FFFF and not self.doubt("a table in the interrupt range")
        else:
            inside = self.in_interrupt_range(host, min(size, largest))
        if inside:
            raise Stop(0x87)
        dirty = writes if not asks else may_write and writable and self.dirties(True)
        if asks and self.can.no_write_requests and self.request.no_write and self.entry >> 9 & 1:
            may_write = may_write and entry >> 9 & 1 == 1
        if not purpose[0] and self.entry >> 6 & 7 == NESTED and self.doubt("2.7: the page's leaf is marked last"):
            self.held = [(at, 1 << 9 if dirty else 0)]
        else:
            self.mark_second(at, 1 << 9 if dirty else 0)
        return Answer(host, size=size, permissions=(may_read, may_write), attributes=self.attributes(None, entry))

    def mark_second(self, at: int, more: int) -> None:
        """2.6, the table of A and D."""
        if self.entry >> 9 & 1:
            self.mark(at, 1 << 8 | more, 0x7C, 0x7D)

    def second_permits(
        self, may_read: bool, may_write: bool, reads: bool, writes: bool, purpose: tuple[str, int]
    ) -> None:
        """1.6 on permissions, with the codes of 2.6 and 2.7."""
        if not purpose[0] and self.request.length == 0 and self.can.zero_length_read:
            reads = False
        if writes and not may_write:
            raise Stop(purpose[1] or 0x85)
        if reads and not may_read:
            raise Stop(purpose[1] or 0x86)

    def reserved_in_second(self, level: int, leaf: bool) -> list[int]:
        """1.6, item 3."""
        reserved = list(range(self.can.host_address_width, 52))
        if level in (4, 5) or (level == 3 and not self.can.page_1g) or (level == 2 and not self.can.page_2m):
            reserved.append(7)
        if leaf:
            reserved += range(12, 3 + 9 * level)
        if not leaf or not self.can.snoop_control:
            reserved.append(11)
        if not leaf or not self.can.device_tlb:
            reserved.append(62)
        return reserved
