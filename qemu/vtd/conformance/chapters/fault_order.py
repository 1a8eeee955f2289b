"""Spec 7.1.3: two things are wrong at once, and the first in the order of checks is reported."""

from collections.abc import Callable

from iommu import Policy
from iommu.structures import ContextEntry, RootEntry
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench, R, W
from qemu.vtd.conformance.scenario import Allowed, scenario

ADDRESS, BEYOND = 0x5010, 1 << 39 | 0x5010
"""An address of the page that is mapped, and one beyond three levels."""
RESERVED_TYPE = 3
INTERRUPT_PAGE = 0xFEE0_1000

Stimulus = Callable[[Bench], None]


def _blocked(
    id_: str, code: int, title: str, *, address: int = ADDRESS, allowed: int = 0
) -> Callable[[Stimulus], None]:
    """A write of A after the decorated preparation: blocked for this reason, or for the allowed one."""

    def add(prepare: Stimulus) -> None:
        def stimulus(bench: Bench) -> None:
            prepare(bench)
            bench.turn_on()
            bench.write("A", address)

        stimulus.__doc__ = title
        write = f"A write {address:#x} -> blocked"
        right, other = (
            (write, f"fault {each:#04x} A {address & ~0xFFF:#x} write", "FSTS PPF") for each in (code, allowed)
        )
        because = "the permission may be reported at the level that lacks it (doubt D-4)"
        freedom = (Allowed(because, other, Policy(permission_per_level=True)),) if allowed else ()
        scenario(f"order.{id_}", "7.1.3", *right, allowed=freedom)(stimulus)

    return add


# Root and context entry.


@_blocked(
    "root.reserved-before-context", 0x0A, "A reserved bit of the root entry before a context table without memory."
)
def root_reserved(bench: Bench) -> None:
    bench.write_root(0, RootEntry.make(P=1, CTP=NOWHERE) | 1 << 1)


@_blocked("root.absent-before-context", 0x01, "An absent root entry before a context table without memory.")
def root_absent(bench: Bench) -> None:
    bench.write_root(0, RootEntry.make(P=0, CTP=NOWHERE))


@_blocked(
    "context.reserved-before-type", 0x0B, "A reserved bit of the context entry before a reserved translation type."
)
def context_reserved_type(bench: Bench) -> None:
    bench.context("A", bench.new_table(), also=1 << 4 | ContextEntry.TT.put(0, RESERVED_TYPE))


@_blocked(
    "context.reserved-before-width", 0x0B, "A reserved bit of the context entry before a width that is not offered."
)
def context_reserved_width(bench: Bench) -> None:
    bench.context("A", bench.new_table(), levels=5, also=1 << 4)


@_blocked(
    "context.type-before-address",
    0x03,
    "A reserved translation type before an address beyond the width.",
    address=BEYOND,
)
def context_type(bench: Bench) -> None:
    bench.context("A", bench.new_table(), levels=3, also=ContextEntry.TT.put(0, RESERVED_TYPE))


# The second-stage walk.


def _mapped(bench: Bench, page: int = P0) -> int:
    """Map the page of ADDRESS for A; returns the top table."""
    table = bench.new_table()
    bench.map(table, ADDRESS, page)
    bench.context("A", table)
    return table


@_blocked(
    "walk.reserved-before-table", 0x0C, "A reserved bit of an entry before the table without memory it points to."
)
def walk_reserved(bench: Bench) -> None:
    table = _mapped(bench)
    bench.memory.write_u64(bench.entry(table, ADDRESS, 3), NOWHERE | R | W | 1 << 11)


@_blocked(
    "walk.table-before-permission",
    0x07,
    "A table without memory below an entry that lacks W.",
    allowed=0x05,
)
def walk_table(bench: Bench) -> None:
    table = _mapped(bench)
    bench.memory.write_u64(bench.entry(table, ADDRESS, 3), NOWHERE | R)


@_blocked(
    "walk.permission-before-interrupt-range", 0x05, "A missing permission before a page in the interrupt range."
)
def walk_permission(bench: Bench) -> None:
    bench.change(bench.entry(_mapped(bench, INTERRUPT_PAGE), ADDRESS, 1), clear=W)


@_blocked(
    "walk.reserved-before-interrupt-range",
    0x0C,
    "A reserved bit of a page entry before a page in the interrupt range.",
)
def walk_reserved_page(bench: Bench) -> None:
    bench.change(bench.entry(_mapped(bench, INTERRUPT_PAGE), ADDRESS, 1), set_=1 << 11)
