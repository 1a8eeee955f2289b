"""Mutated tables raise only DmarError, lose no byte, read alike with both decoders, and are never slow."""

import json
import random
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu.dmar import Dmar, DmarError
from iommu.dmar.reader import construct_decoders
from iommu.dmar.verdicts import verdicts
from iommu.errors import MisuseError
from tests.dmar import hand
from tests.dmar.hand import TABLES, mutate, needs_corpus
from tests.dmar.test_dmar_format import DAMAGED, EVERYTHING

CONSTRUCT = construct_decoders()
SEEDS = [EVERYTHING, *(case[0] for case in DAMAGED.values()), *(path.read_bytes() for path in TABLES[::12])]


def check(data: bytes) -> None:
    """Everything that must hold for any bytes at all."""
    try:
        strict: Dmar | DmarError = Dmar.parse(data)
    except DmarError as error:
        strict = error
    try:
        table = Dmar.parse(data, strict=False)
    except DmarError as error:
        assert isinstance(strict, DmarError)
        assert str(error) == str(strict)
        return
    assert table.build() == data
    assert Dmar.from_dict(json.loads(json.dumps(table.to_dict()))).build() == data
    assert table.nbytes == len(data)
    if isinstance(strict, DmarError):
        assert str(table.problems[0]) == str(strict)
        assert 0 <= strict.offset <= len(data)
    else:
        assert strict == table and not table.problems
    assert len(table.structures) <= len(data) // 4
    table.lint()
    verdicts(data)


LIMIT = 0.01  # seconds that reading any input of a table's size may take

mutations = st.builds(
    lambda seed, numbers: mutate(seed, random.Random(numbers)), st.sampled_from(SEEDS), st.integers(0, 2**32)
)


@given(st.one_of(st.binary(max_size=200).map(lambda data: EVERYTHING[:48] + data), st.binary(max_size=60), mutations))
@settings(deadline=None, max_examples=300)
def test_any_bytes_at_all(data: bytes) -> None:
    check(data)


@given(mutations)
@settings(deadline=None, max_examples=150)
def test_construct_reads_what_the_generated_decoder_reads(data: bytes) -> None:
    try:
        table = Dmar.parse(data, strict=False)
    except DmarError as error:
        with pytest.raises(DmarError) as caught:
            Dmar.parse(data, strict=False, decoders=CONSTRUCT)
        assert str(caught.value) == str(error)
        return
    slow = Dmar.parse(data, strict=False, decoders=CONSTRUCT)
    assert slow == table
    assert [str(problem) for problem in slow.problems] == [str(problem) for problem in table.problems]


@needs_corpus
@pytest.mark.parametrize("path", TABLES[::4], ids=[path.stem for path in TABLES[::4]])
def test_both_decoders_read_real_tables_alike(path: Path) -> None:
    data = path.read_bytes()
    assert Dmar.parse(data, decoders=CONSTRUCT) == Dmar.parse(data)


def test_construct_builds_what_the_encoder_builds() -> None:
    table = Dmar.parse(EVERYTHING)
    for offset, structure in table.placed():
        construct = structure.layout.construct()
        fixed = EVERYTHING[offset : offset + structure.fixed_size]
        assert construct.build(construct.parse(fixed)) == fixed == structure.build()[: structure.fixed_size]


def test_the_largest_table_of_the_smallest_parts_is_read_in_bounded_time() -> None:
    many = hand.table(*[hand.structure(9, b"")] * 16000)
    start = time.perf_counter()
    table = Dmar.parse(many)
    assert len(table.structures) == 16000
    assert time.perf_counter() - start < 1


def seconds(data: bytes) -> float:
    """Time to read the data. Slow reads are repeated: slow input stays slow, a garbage collection does not recur."""
    best = 1.0
    for _ in range(4):
        start = time.thread_time()
        with suppress(DmarError):
            Dmar.parse(data, strict=False)
        best = min(best, time.thread_time() - start)
        if best < LIMIT:
            break
    return best


def run(count: int, seed: int) -> float:
    """`count` mutations of every seed in turn; the longest parse in seconds."""
    numbers, slowest = random.Random(seed), 0.0
    for turn in range(count):
        data = mutate(SEEDS[turn % len(SEEDS)], numbers)
        slowest = max(slowest, seconds(data))
        check(data)
    return slowest


def test_two_thousand_mutations() -> None:
    assert run(2_000, seed=1) < LIMIT


@pytest.mark.slow
def test_a_hundred_thousand_mutations() -> None:
    assert run(100_000, seed=20261122) < LIMIT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.randoms(use_true_random=False), json_values)
@settings(deadline=None, max_examples=300)
def test_json_with_anything_anywhere_is_built_or_refused(numbers: random.Random, value: object) -> None:
    """Some key of a good description gets any value at all: MisuseError, or a table that can be built."""
    plain = Dmar.parse(EVERYTHING).to_dict()
    spot: Any = plain
    while True:
        key = numbers.choice(list(spot)) if isinstance(spot, dict) else numbers.randrange(len(spot))
        if not spot[key] or not isinstance(spot[key], dict | list) or numbers.random() < 0.2:
            spot[key] = value
            break
        spot = spot[key]
    with suppress(MisuseError):
        data = Dmar.from_dict(plain).build()
        assert isinstance(data, bytes)


def test_memory_stays_in_proportion_to_the_input() -> None:
    numbers = random.Random(3)
    for data in [hand.table(hand.drhd(1, *[hand.scope(1, 0)] * 10000)), *(mutate(s, numbers) for s in SEEDS * 5)]:
        tracemalloc.start()
        with suppress(DmarError):
            Dmar.parse(data, strict=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000 + 60 * len(data)
