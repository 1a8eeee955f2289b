"""Everything that a device can reach, from the tables as they stand in memory.

Nothing is decided here that the walks decide. The tables are enumerated with the formats and `check_entry` of their
stages, and what requests to a page can do is asked of the unit's own translation: of a copy of its parts that caches
nothing, records no fault and sets no bit. Pages whose entries differ only in their address are asked for once, unless
their address matters: those that overlap the interrupt address range or a protected memory region, before or after
translation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.caches.tables import Root
from iommu.engine.mapped_pages import ALL, Meaning, Piece, Walk
from iommu.engine.quiet import quiet_copy
from iommu.engine.reasons import Blocked
from iommu.engine.request import INTERRUPT_RANGE, Access, DmaRequest, Outcome, SourceId
from iommu.engine.translation.translation import Translation
from iommu.errors import MisuseError
from iommu.registers import TableMode
from iommu.structures import TranslationType

_INTERRUPTS = range(INTERRUPT_RANGE << 20, INTERRUPT_RANGE + 1 << 20)


class Mapping(NamedTuple):
    """A range of addresses that a device can reach.

    Attributes:
        addresses: as the device uses them. Use `size`, not `len`: all 64-bit addresses are more than `len` can tell.
        host: the host address of the first byte; the others follow.
        readable, writable: what untranslated requests may do that are not privileged; without PASID, RID_PRIV may
            make them so.
        executable: a read with PASID that requests execute permission gets it.
        attributes: snooping and memory types.
    """

    addresses: range
    host: int
    readable: bool
    writable: bool
    executable: bool
    attributes: Attributes

    @property
    def size(self) -> int:
        """In bytes."""
        return self.addresses.stop - self.addresses.start

    def goes_on_in(self, other: Mapping) -> bool:
        """Whether the other one continues it, in input and host, with the same permissions and attributes."""
        ours, theirs = self.addresses, other.addresses
        return ours.stop == theirs.start and other.host == self.host + self.size and other[2:] == self[2:]

    def host_of(self, address: int) -> int:
        """The host address of one of the addresses."""
        return self.host + address - self.addresses.start


class Reach(NamedTuple):
    """What requests to an address can do: the last fields of a Mapping."""

    readable: bool
    writable: bool
    executable: bool
    attributes: Attributes


def mappings(
    translation: Translation, source_id: SourceId, pasid: int | None, addresses: range | None, *, stock: bool
) -> Iterator[Mapping]:
    """See RemappingUnit.mappings. `stock`: no part is overridden, so that pages may be asked for by their Meaning."""
    wanted = range(ALL) if addresses is None else addresses
    if wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= ALL:
        raise MisuseError(f"{wanted} is not a range of 64-bit addresses in a row")
    requester = Requester(quiet_copy(translation), source_id, pasid, stock=stock)
    return coalesced(requester.reachable(wanted.start, wanted.stop))


def coalesced(found: Iterator[Mapping]) -> Iterator[Mapping]:
    """The same with neighbours that continue each other joined."""
    last: Mapping | None = None
    for each in found:
        if last is None:
            last = each
        elif last.goes_on_in(each):
            last = last._replace(addresses=range(last.addresses.start, each.addresses.stop))
        else:
            yield last
            last = each
    if last is not None:
        yield last


class Requester:
    """One source-id and PASID, and the copy of the unit's translation that answers for it.

    Attributes:
        special: the ranges whose addresses matter themselves, before and after translation.
        borders: where these begin and end.
    """

    def __init__(
        self,
        quiet: Translation,
        source_id: SourceId,
        pasid: int | None,
        *,
        stock: bool,
        privileged: bool = False,
    ) -> None:
        self.quiet, self.stock = quiet, stock
        self._requests = [
            DmaRequest(source_id, 0, access, 1, pasid, privileged) for access in (Access.READ, Access.WRITE)
        ]
        if pasid is not None:
            self._requests.append(DmaRequest(source_id, 0, Access.READ, 1, pasid, privileged, execute=True))
        protected = [range(first, last + 1) for first, last in quiet.protected.ranges]
        self.special = [_INTERRUPTS, *protected]
        self.borders = sorted({border for each in self.special for border in (each.start, each.stop)})
        self._known: dict[Meaning, Reach | None] = {}

    # Requests.

    def reachable(self, first: int, last: int) -> Iterator[Mapping]:
        """The mappings between two addresses, page by page."""
        for piece in self._pieces(first, last):
            if not piece.meaning or self._is_special(piece):
                for part in self._cut(piece):
                    yield from self._mapping(part, self.ask(part.start))
            else:
                yield from self._mapping(piece, self._judge(piece))

    def _mapping(self, piece: Piece, reach: Reach | None) -> Iterator[Mapping]:
        if reach is not None:
            yield Mapping(range(piece.start, piece.stop), piece.host, *reach)

    def _judge(self, piece: Piece) -> Reach | None:
        if not self.stock:
            return self.ask(piece.start)
        if piece.meaning not in self._known:
            self._known[piece.meaning] = self.ask(piece.start)
        return self._known[piece.meaning]

    def ask(self, address: int) -> Reach | None:
        """What requests to an address can do; None if they are all blocked, or interrupts."""
        outcomes = [self._outcome(request, address) for request in self._requests]
        passed = [outcome for outcome in outcomes if outcome.host_address is not None]
        if not passed:
            return None
        readable, writable = (outcome.host_address is not None for outcome in outcomes[:2])
        executable = len(outcomes) > 2 and outcomes[2].host_address is not None and outcomes[2].executable
        return Reach(readable, writable, executable, passed[0].attributes)

    def _outcome(self, request: DmaRequest, address: int) -> Outcome:
        request.address = address
        return self.quiet.translate(request)

    # Pieces of equal fate.

    def _is_special(self, piece: Piece) -> bool:
        """Whether the address of the piece matters, besides the Meaning of its entries."""
        start, stop, host, _ = piece
        end = host + stop - start
        for each in self.special:
            if (host < each.stop and each.start < end) or (start < each.stop and each.start < stop):
                return True
        return False

    def _cut(self, piece: Piece) -> Iterator[Piece]:
        """The piece cut where its addresses or its host addresses enter or leave a special range."""
        cuts = {piece.start, piece.stop}
        for border in self.borders:
            for at in (border, border - piece.host + piece.start):
                if piece.start < at < piece.stop:
                    cuts.add(at)
        points = sorted(cuts)
        for first, last in pairwise(points):
            yield piece.within(first, last)

    def _pieces(self, first: int, last: int) -> Iterator[Piece]:
        """The pages between two addresses; where no tables apply, the same addresses as host addresses."""
        tables = self.tables()
        if tables is None:
            limit = 1 << self.quiet.capabilities.host_address_width
            for start, stop in ((0, limit), (limit, ALL)):
                if max(start, first) < min(stop, last):
                    yield Piece(start, stop, start, ()).within(first, last)
            return
        walk = Walk(self.quiet)
        yield from (piece.within(first, last) for piece in walk.pages(tables, first, last))

    def tables(self) -> Root | None:
        """The tables that translate the requests; None if none do, or if all requests are blocked."""
        quiet, request = self.quiet, self._requests[0]
        try:
            if not quiet.enabled:
                return None
            if quiet.mode == TableMode.LEGACY:
                context = quiet.legacy.context_of(request)
                return None if context.translation_type is TranslationType.PASS_THROUGH else context.tables
            if quiet.mode == TableMode.SCALABLE and quiet.capabilities.scalable_mode:
                scalable = quiet.scalable
                device = scalable.context_of(request.source_id)
                pasid = scalable.effective_pasid(device, request)
                found = scalable.pasid_context_of(device, request.source_id, pasid)
                return found.first or found.second
        except Blocked:
            pass
        return None
