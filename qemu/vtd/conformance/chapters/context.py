"""Spec 3.4, 9.1, 9.3: from a source-id to its context entry in legacy mode."""

from iommu import AddressType
from iommu.structures import ContextEntry, RootEntry, TranslationType
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, P2, Bench
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import FEW_DOMAINS, NARROW, NO_PASS_THROUGH


def mapped(bench: Bench, page: int = P0, *, levels: int = 4) -> int:
    """Build tables that map 0x5000 to a page; returns the top table."""
    table = bench.new_table()
    bench.map(table, 0x5000, page, levels=levels)
    return table


BLOCKED = "A write 0x5010 -> blocked"


# The root entry.


@scenario("legacy.root.unreadable", "7.1.3 LRT.1", BLOCKED, "fault 0x08 A 0x5000 write", "FSTS PPF")
def root_unreadable(bench: Bench) -> None:
    """A root table where there is no memory."""
    bench.root = NOWHERE
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy.root.not-present", "7.1.3 LRT.2", BLOCKED, "fault 0x01 A 0x5000 write", "FSTS PPF")
def root_not_present(bench: Bench) -> None:
    """An empty root table."""
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy.root.not-present-rest-ignored", "9.1", BLOCKED, "fault 0x01 A 0x5000 write", "FSTS PPF")
def root_not_present_rest_ignored(bench: Bench) -> None:
    """With P=0 in a root entry, the other 127 bits are ignored."""
    bench.write_root(0, (1 << 128) - 1 & ~RootEntry.P.mask)
    bench.turn_on()
    bench.write("A", 0x5010)


def _root_reserved(name: str, bit: int, title: str) -> None:
    def stimulus(bench: Bench) -> None:
        bench.context("A", mapped(bench))
        bench.write_root(0, int.from_bytes(bench.memory.read(bench.root, 16), "little") | 1 << bit)
        bench.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    scenario(f"legacy.root.reserved-{name}", "7.1.3 LRT.3", BLOCKED, "fault 0x0a A 0x5000 write", "FSTS PPF")(
        stimulus
    )


_root_reserved("low", 1, "Reserved bit 1 of a present root entry.")
_root_reserved("last-low", 11, "Reserved bit 11 of a present root entry.")
_root_reserved("width", 48, "A context-table pointer beyond the host address width.")
_root_reserved("high", 64, "Bit 64, the lowest of a root entry's reserved upper half.")
_root_reserved("top", 127, "Bit 127, the highest of a root entry's reserved upper half.")


# The context entry.


@scenario("legacy.context.unreadable", "7.1.3 LCT.1", BLOCKED, "fault 0x09 A 0x5000 write", "FSTS PPF")
def context_unreadable(bench: Bench) -> None:
    """A context table where there is no memory."""
    bench.write_root(0, RootEntry.make(P=1, CTP=NOWHERE))
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy.context.not-present", "7.1.3 LCT.2", BLOCKED, "fault 0x02 A 0x5000 write", "FSTS PPF")
def context_not_present(bench: Bench) -> None:
    """An empty context entry."""
    bench.write_context("A", 0)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy.context.not-present-rest-ignored", "9.3", BLOCKED, "fault 0x02 A 0x5000 write", "FSTS PPF")
def context_not_present_rest_ignored(bench: Bench) -> None:
    """With P=0 in a context entry, all other bits except FPD are ignored."""
    bench.write_context("A", (1 << 128) - 1 & ~ContextEntry.P.mask & ~ContextEntry.FPD.mask)
    bench.turn_on()
    bench.write("A", 0x5010)


def _context_reserved(name: str, bit: int, title: str) -> None:
    def stimulus(bench: Bench) -> None:
        bench.context("A", mapped(bench), also=1 << bit)
        bench.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    id_ = f"legacy.context.reserved-{name}"
    scenario(id_, "7.1.3 LCT.3", BLOCKED, "fault 0x0b A 0x5000 write", "FSTS PPF")(stimulus)


_context_reserved("bits", 4, "Reserved bit 4 of a present context entry.")
_context_reserved("last-low", 11, "Reserved bit 11 of a present context entry.")
_context_reserved("width", 48, "A second-stage pointer beyond the host address width.")
_context_reserved("between", 71, "Reserved bit 71, between the ignored bits and the domain-id.")
_context_reserved("high", 88, "Bit 88, the lowest reserved bit above the domain-id.")
_context_reserved("top", 127, "Bit 127, the highest of a context entry.")


@scenario("legacy.context.ignored-bits", "9.3", "A write 0x5010 -> 0x800010", "FSTS 0")
def context_ignored_bits(bench: Bench) -> None:
    """Bits 70:67 of a context entry are available to software and ignored."""
    bench.context("A", mapped(bench), also=ContextEntry.AVAIL.mask)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario(
    "legacy.context.domain-beyond-nd",
    "7.1.3 LCT.3",
    BLOCKED,
    "fault 0x0b A 0x5000 write",
    "FSTS PPF",
    setup=FEW_DOMAINS,
)
def context_domain_beyond_nd(bench: Bench) -> None:
    """A domain-id of 9 bits on a unit whose domain-ids have 8."""
    bench.context("A", mapped(bench), domain=0x101)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("legacy.context.domain-16-bits", "9.3", "A write 0x5010 -> 0x800010", "FSTS 0")
def context_domain_16_bits(bench: Bench) -> None:
    """The largest domain-id of a unit whose domain-ids have 16 bits."""
    bench.context("A", mapped(bench), domain=0xFFFF)
    bench.turn_on()
    bench.write("A", 0x5010)


def _context_invalid(name: str, title: str, **fields: int) -> None:
    def stimulus(bench: Bench) -> None:
        entry = ContextEntry.make(**{"P": 1, "AW": 2, "DID": 1, "SSPTPTR": mapped(bench), **fields})
        bench.write_context("A", entry)
        bench.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    id_ = f"legacy.context.{name}"
    scenario(id_, "7.1.3 LCT.4", BLOCKED, "fault 0x03 A 0x5000 write", "FSTS PPF")(stimulus)


_context_invalid("type-reserved", "The reserved translation type.", TT=3)
_context_invalid("type-without-device-tlb", "Translation type 01 on a unit without device-TLB support.", TT=1)
_context_invalid("width-30", "The obsolete 30-bit, 2-level address width.", AW=0)
_context_invalid("width-57", "A 5-level address width on a 48-bit unit.", AW=3)
_context_invalid("width-64", "The reserved 6-level, 64-bit address width.", AW=4)
_context_invalid("width-reserved", "A reserved address width.", AW=7)


@scenario(
    "legacy.context.type-without-pass-through",
    "7.1.3 LCT.4",
    "A write 0x800010 -> blocked",
    "fault 0x03 A 0x800000 write",
    "FSTS PPF",
    setup=NO_PASS_THROUGH,
)
def context_pass_through_not_offered(bench: Bench) -> None:
    """Type 10 on a unit without pass-through."""
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("A", P0 + 0x10)


@scenario(
    "legacy.context.width-48-on-39", "7.1.3 LCT.4", BLOCKED, "fault 0x03 A 0x5000 write", "FSTS PPF", setup=NARROW
)
def context_four_levels_on_narrow(bench: Bench) -> None:
    """4 levels on a 39-bit unit, which supports only 3."""
    bench.context("A", mapped(bench), levels=4)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario(
    "legacy.context.table-beyond-39",
    "7.1.3 LCT.3",
    BLOCKED,
    "fault 0x0b A 0x5000 write",
    "FSTS PPF",
    setup=NARROW,
)
def context_pointer_beyond_narrow(bench: Bench) -> None:
    """A second-stage pointer with bit 39 set, on a host of 39 bits."""
    bench.context("A", mapped(bench, levels=3), levels=3, also=1 << 39)
    bench.turn_on()
    bench.write("A", 0x5010)


# Devices and domains.


@scenario(
    "legacy.devices.two-domains",
    "3.3",
    "A write 0x5010 -> 0x800010",
    "B write 0x5010 -> 0x801010",
    "A write 0x5010 -> 0x800010",
    "FSTS 0",
)
def two_devices_two_domains(bench: Bench) -> None:
    """Two devices in two domains have the same address mapped to different pages."""
    bench.context("A", mapped(bench, P0), domain=1)
    bench.context("B", mapped(bench, P1), domain=2)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.write("B", 0x5010)
    bench.write("A", 0x5010)


@scenario(
    "legacy.devices.functions-apart",
    "3.4.2",
    "B write 0x5010 -> 0x801010",
    "C write 0x5010 -> 0x802010",
    "FSTS 0",
)
def functions_have_their_own_context(bench: Bench) -> None:
    """Two functions of one device have separate context entries."""
    bench.context("B", mapped(bench, P1), domain=2)
    bench.context("C", mapped(bench, P2), domain=3)
    bench.turn_on()
    bench.write("B", 0x5010)
    bench.write("C", 0x5010)


@scenario(
    "legacy.devices.one-of-two-mapped",
    "3.4.2",
    "B write 0x5010 -> 0x801010",
    "C write 0x5010 -> blocked",
    "fault 0x02 C 0x5000 write",
    "FSTS PPF",
)
def neighbour_is_not_mapped(bench: Bench) -> None:
    """One function is mapped, the other is not; the fault names the right one."""
    bench.context("B", mapped(bench, P1))
    bench.turn_on()
    bench.write("B", 0x5010)
    bench.write("C", 0x5010)


# Pass-through.


@scenario("legacy.pass-through", "3.9", "A write 0x800010 -> 0x800010", "FSTS 0")
def pass_through(bench: Bench) -> None:
    """With translation type 10, the address is the host address."""
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("A", P0 + 0x10)


@scenario("legacy.pass-through.table-ignored", "9.3", "A write 0x800010 -> 0x800010", "FSTS 0")
def pass_through_ignores_the_table(bench: Bench) -> None:
    """Translation type 10 ignores the table pointer, even bits beyond the host address width."""
    bench.context("A", type_=TranslationType.PASS_THROUGH, also=ContextEntry.SSPTPTR.mask)
    bench.turn_on()
    bench.write("A", P0 + 0x10)


@scenario(
    "legacy.pass-through.width-unsupported",
    "7.1.3 LCT.4",
    "A write 0x800010 -> blocked",
    "fault 0x03 A 0x800000 write",
    "FSTS PPF",
)
def pass_through_with_bad_width(bench: Bench) -> None:
    """Translation type 10 still requires a supported address width."""
    bench.context("A", type_=TranslationType.PASS_THROUGH, levels=5)
    bench.turn_on()
    bench.write("A", P0 + 0x10)


@scenario(
    "legacy.pass-through.beyond-host-width",
    "7.1.3 LGN.1",
    "A write 0x1000000800010 -> blocked",
    "fault 0x04 A 0x800000 write",
    "FSTS PPF",
)
def pass_through_beyond_host_width(bench: Bench) -> None:
    """Translation type 10 with an address beyond the host width; FI holds the bits below the guest width."""
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.write("A", 1 << 48 | P0 + 0x10)


# Requests that only a device with a device-TLB can send.


@scenario(
    "legacy.requests.translation-request-blocked",
    "7.1.3 LCT.5",
    "A read 0x5010 -> blocked",
    "fault 0x0d A 0x5000 read",
    "FSTS PPF",
)
def translation_request_blocked(bench: Bench) -> None:
    """Translation type 00 blocks translation requests. Without device-TLB support, no address type is recorded."""
    bench.context("A", mapped(bench))
    bench.turn_on()
    bench.send_request("A", 0x5010, AddressType.TRANSLATION_REQUEST)


@scenario(
    "legacy.requests.translated-blocked",
    "7.1.3 LCT.5",
    "A read 0x800010 -> blocked",
    "fault 0x0d A 0x800000 read",
    "FSTS PPF",
)
def translated_request_blocked(bench: Bench) -> None:
    """Translation type 10 blocks translated requests."""
    bench.context("A", type_=TranslationType.PASS_THROUGH)
    bench.turn_on()
    bench.send_request("A", P0 + 0x10, AddressType.TRANSLATED)
