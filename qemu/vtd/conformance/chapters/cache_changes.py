"""Spec 6.1, 6.2, 6.5, 6.6: a table entry changes while translation is on: what may be seen before the invalidation,
and what must be seen after it.

Where the old entry is expected to be used, the new one is allowed: a unit may evict what it has cached (6.2.1).
"""

from __future__ import annotations

from collections.abc import Callable

from iommu.structures import ContextEntry, RootEntry, TranslationType
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, P2, Bench
from qemu.vtd.conformance.queue import DOMAIN, SELECTIVE
from qemu.vtd.conformance.scenario import EVICTED, Allowed, scenario
from qemu.vtd.conformance.setups import SELF_INVALIDATING, WIDE, Setup

ADDRESS = P0 + 0x10
"""0x800010: mapped to P1 by the tables here, so that pass-through and translation lead to different pages."""
IDENTITY, TRANSLATED = "A write 0x800010 -> 0x800010", "A write 0x800010 -> 0x801010"
BLOCKED = "A write 0x800010 -> blocked"

Step = Callable[[Bench, int], None]
"""Done to a bench; the argument is the table that maps P0 to P1."""


def translated(bench: Bench, table: int) -> None:
    """A's context entry: translation, domain 1."""
    bench.context("A", table)


def passed_through(bench: Bench, table: int) -> None:
    """A's context entry: pass-through, domain 2."""
    bench.context("A", type_=TranslationType.PASS_THROUGH, domain=2)


def absent(bench: Bench, table: int) -> None:
    """A's context entry: not present."""
    bench.write_context("A", 0)


def nothing(bench: Bench, table: int) -> None:
    """No invalidation."""


def everything(bench: Bench, table: int) -> None:
    """Both caches, globally."""
    bench.driver.invalidate_everything()


def domain(number: int) -> Step:
    """The context entries and translations of a domain."""

    def invalidate(bench: Bench, table: int) -> None:
        bench.driver.invalidate_contexts(DOMAIN, domain_id=number)
        bench.driver.invalidate_translations(DOMAIN, domain_id=number)

    return invalidate


def device(number: int) -> Step:
    """A's context entry of a domain, and the domain's translations."""

    def invalidate(bench: Bench, table: int) -> None:
        bench.driver.invalidate_contexts(SELECTIVE, domain_id=number, source_id=0x20)
        bench.driver.invalidate_translations(DOMAIN, domain_id=number)

    return invalidate


def by_queue(number: int, granularity: int) -> Step:
    """A's context entry and the translations of a domain, by queue."""

    def invalidate(bench: Bench, table: int) -> None:
        queue.start(bench)
        contexts = queue.context(granularity, DID=number, SID=0x20 if granularity == SELECTIVE else 0)
        bench.driver.submit(contexts, queue.iotlb(DOMAIN, DID=number), queue.wait(SW=1))

    return invalidate


def root_pointer(bench: Bench, table: int) -> None:
    """SRTP alone."""
    bench.driver.set_root_table(bench.root)


def _context_changes(
    name: str,
    section: str,
    title: str,
    steps: tuple[Step, Step, Step],
    *expect: str,
    stale: str = "",
    setup: Setup = WIDE,
) -> None:
    """A's context entry before, the one after it, and the invalidation; A writes before and after.

    Args:
        stale: for a change without invalidation, what is also right after it.
    """
    before, after, invalidate = steps

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, P0, P1)
        before(bench, table)
        bench.turn_on()
        bench.write("A", ADDRESS)
        if before is absent:
            bench.note_faults()
            bench.driver.clear_faults()
        after(bench, table)
        invalidate(bench, table)
        bench.write("A", ADDRESS)

    stimulus.__doc__ = title
    allowed = (Allowed(EVICTED, (*expect[:-2], stale, "FSTS 0")),) if stale else ()
    scenario(f"cache.change.{name}", section, *expect, allowed=allowed, setup=setup)(stimulus)


_ABSENT = (BLOCKED, "fault 0x02 A 0x800000 write", "FSTS PPF")
_context_changes(
    "absent-to-pass-through",
    "6.1",
    "A context entry that was not present becomes pass-through: no invalidation is needed.",
    (absent, passed_through, nothing),
    *_ABSENT,
    IDENTITY,
    "FSTS 0",
)
_context_changes(
    "absent-to-translated",
    "6.1",
    "A context entry that was not present becomes a translated one: no invalidation is needed.",
    (absent, translated, nothing),
    *_ABSENT,
    TRANSLATED,
    "FSTS 0",
)
for _name, _words, _invalidate in (
    ("global", "a global invalidation", everything),
    ("domain", "an invalidation of its domain", domain(1)),
    ("device", "an invalidation of the device", device(1)),
    ("domain-by-queue", "an invalidation of its domain by queue", by_queue(1, DOMAIN)),
    ("device-by-queue", "an invalidation of the device by queue", by_queue(1, SELECTIVE)),
):
    _context_changes(
        f"to-pass-through.{_name}",
        "6.5.1.1",
        f"A translated context entry becomes pass-through: seen after {_words}.",
        (translated, passed_through, _invalidate),
        TRANSLATED,
        IDENTITY,
        "FSTS 0",
    )
for _name, _words, _invalidate in (
    ("global", "a global invalidation", everything),
    ("domain", "an invalidation of its domain", domain(2)),
    ("device", "an invalidation of the device", device(2)),
    ("domain-by-queue", "an invalidation of its domain by queue", by_queue(2, DOMAIN)),
    ("device-by-queue", "an invalidation of the device by queue", by_queue(2, SELECTIVE)),
):
    _context_changes(
        f"from-pass-through.{_name}",
        "6.5.1.1",
        f"A pass-through context entry becomes a translated one: seen after {_words}.",
        (passed_through, translated, _invalidate),
        IDENTITY,
        TRANSLATED,
        "FSTS 0",
    )
    _context_changes(
        f"pass-through-removed.{_name}",
        "6.5.1.1",
        f"A pass-through context entry is cleared: the device is blocked after {_words}.",
        (passed_through, absent, _invalidate),
        IDENTITY,
        *_ABSENT,
    )
_context_changes(
    "to-pass-through.not-invalidated",
    "6.5.1.1",
    "A translated context entry becomes pass-through: the old one may be used without an invalidation.",
    (translated, passed_through, nothing),
    TRANSLATED,
    TRANSLATED,
    "FSTS 0",
    stale=IDENTITY,
)
_context_changes(
    "from-pass-through.not-invalidated",
    "6.5.1.1",
    "A pass-through context entry becomes a translated one: the old one may be used without an invalidation.",
    (passed_through, translated, nothing),
    IDENTITY,
    IDENTITY,
    "FSTS 0",
    stale=TRANSLATED,
)
_context_changes(
    "from-pass-through.root-pointer",
    "6.6",
    "With CAP.ESRTPS, SRTP alone ends pass-through.",
    (passed_through, translated, root_pointer),
    IDENTITY,
    TRANSLATED,
    "FSTS 0",
    setup=SELF_INVALIDATING,
)
_context_changes(
    "to-pass-through.root-pointer",
    "6.6",
    "With CAP.ESRTPS, SRTP alone makes a new pass-through entry seen.",
    (translated, passed_through, root_pointer),
    TRANSLATED,
    IDENTITY,
    "FSTS 0",
    setup=SELF_INVALIDATING,
)
_context_changes(
    "from-pass-through.root-pointer-keeps",
    "6.6",
    "Without CAP.ESRTPS, pass-through may outlive SRTP.",
    (passed_through, translated, root_pointer),
    IDENTITY,
    IDENTITY,
    "FSTS 0",
    stale=TRANSLATED,
)


# The root entry.


def _root_changes(
    name: str, title: str, before: int, after: int, invalidate: bool, *expect: str, stale: tuple[str, ...] = ()
) -> None:
    """Bus 0's root entry before and after: 0 for not present, 1 and 2 for context tables that lead to P1 and P2."""

    def stimulus(bench: Bench) -> None:
        entries = [0]
        for page in (P1, P2):
            table, contexts = bench.new_table(), bench.new_table()
            bench.map(table, P0, page)
            entry = ContextEntry.make(P=1, AW=2, DID=1, SSPTPTR=table)
            bench.memory.write(contexts + 16 * 0x20, entry.to_bytes(16, "little"))
            entries.append(RootEntry.make(P=1, CTP=contexts))
        bench.write_root(0, entries[before])
        bench.turn_on()
        bench.write("A", ADDRESS)
        if not before:
            bench.note_faults()
            bench.driver.clear_faults()
        bench.write_root(0, entries[after])
        if invalidate:
            bench.driver.invalidate_everything()
        bench.write("A", ADDRESS)

    stimulus.__doc__ = title
    allowed = (Allowed(EVICTED, stale),) if stale else ()
    scenario(f"cache.root.{name}", "6.5.1.1", *expect, allowed=allowed)(stimulus)


_NO_ROOT = (BLOCKED, "fault 0x01 A 0x800000 write", "FSTS PPF")
_OTHER = "A write 0x800010 -> 0x802010"
_root_changes(
    "absent-to-present",
    "A root entry becomes present: no invalidation is needed.",
    0,
    1,
    False,
    *_NO_ROOT,
    TRANSLATED,
    "FSTS 0",
)
_root_changes(
    "replaced",
    "A root entry names another context table: seen after a global invalidation.",
    1,
    2,
    True,
    TRANSLATED,
    _OTHER,
    "FSTS 0",
)
_root_changes(
    "removed",
    "A root entry is cleared: the device is blocked after a global invalidation.",
    1,
    0,
    True,
    TRANSLATED,
    *_NO_ROOT,
)
_root_changes(
    "replaced-not-invalidated",
    "A root entry names another context table: the old one may be used without an invalidation.",
    1,
    2,
    False,
    TRANSLATED,
    TRANSLATED,
    "FSTS 0",
    stale=(TRANSLATED, _OTHER, "FSTS 0"),
)


@scenario("cache.context.fpd-set", "6.5.1.1", "A write 0x6010 -> blocked", "FSTS 0")
def fpd_set(bench: Bench) -> None:
    """FPD is set in a context entry that is cached: faults are silenced after an invalidation of the device."""
    bench.start()
    bench.lands("A", 0x5010)
    contexts = RootEntry.CTP.get(bench.memory.read_u64(bench.root))
    bench.change(contexts + 16 * 0x20, set_=ContextEntry.FPD.mask)
    device(1)(bench, 0)
    bench.write("A", 0x6010)
