"""How fast whole arrays of requests are translated, beside a plain walker in C and the scalar engine, in one run.

    python -m bench.batch [--json]        in the root of the repository; python bench/batch.py works too

The measurements take turns, and each figure is the median of its rounds. They count the processor's time, and the
ratios are medians of the ratios within a round, so that other work on the machine affects them little. Everything
runs on one core, in legacy mode. `uniform` are a million requests, at random over a million pages of 4 KiB; `hot`
over 64 of these. `mixed` are requests at random over pages of 4 KiB, 2 MiB and 1 GiB, of which one in twenty is
blocked: it is not mapped, or may not be written. `in thousands` is `uniform` in batches of a thousand. The walker in
C, bench/walker.c, is compiled with -O2; it translates one request at a time. The scalar engine has nothing cached.
`bytes in flight` are those that a call allocates at its worst, results included, for each request.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from bench.engine import CONTEXTS, NIC, ROOT, TABLES, put, ratio, start
from iommu import Access, Capabilities, DmaRequest, FlatMemory, RemappingUnit
from iommu.batch import NO_ADDRESS, BatchTranslator
from iommu.engine.quiet import uncached_copy
from iommu.structures import ContextEntry, PageAllocator, RootEntry, SecondStageMapper

ROUNDS, REQUESTS, SCALAR, HOT_PAGES, IN_THOUSANDS = 5, 1 << 20, 10_000, 64, 100_000
K4, M2, G1 = 1 << 12, 1 << 21, 1 << 30
PAGES = 1 << 20
HOST = 1 << 40
TOP = 32 << 20
TARGETS = {
    "uniform, batch : uniform, C": 1.0,
    "mixed, batch : mixed, C": 0.7,
    "hot, batch : hot, C": 0.4,
    "uniform, batch : uniform, scalar": 40.0,
}
"""What the ratios should be at least."""

Rounds = Callable[[], float]


class Requests(NamedTuple):
    """A million requests of one device."""

    source_ids: npt.NDArray[np.uint16]
    addresses: npt.NDArray[np.uint64]
    writes: npt.NDArray[np.bool_]


class World(NamedTuple):
    """A unit with its memory, and requests."""

    unit: RemappingUnit
    memory: FlatMemory
    requests: Requests


def world(mapped: Callable[[SecondStageMapper], None], addresses: npt.NDArray[Any]) -> World:
    """A unit in legacy mode with one device, which sends the requests; half of them are writes."""
    memory = FlatMemory(TOP)
    mapper = SecondStageMapper(memory, PageAllocator(TABLES, TOP))
    mapped(mapper)
    put(memory, ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16)
    put(memory, CONTEXTS + 16 * NIC.devfn, ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=mapper.root), 16)
    unit = start(RemappingUnit(memory, Capabilities(page_2m=True, page_1g=True)), ROOT)
    writes = np.random.default_rng(2).integers(0, 2, len(addresses)).astype(np.bool_)
    sources = np.full(len(addresses), int(NIC), np.uint16)
    return World(unit, memory, Requests(sources, addresses.astype(np.uint64), writes))


def uniform(count: int, pages: int) -> World:
    """Requests over the first of a million pages of 4 KiB."""
    pick = np.random.default_rng(1)
    addresses = pick.integers(0, pages, count) * K4 + pick.integers(0, K4, count)
    return world(lambda mapper: mapper.map(G1, HOST, PAGES * K4, page_size=K4), G1 + addresses)


def mixed(count: int) -> World:
    """Requests over a million pages of 4 KiB, 16 GiB in pages of 2 MiB, and 64 of 1 GiB. One in twenty is blocked."""
    pick = np.random.default_rng(3)
    first = np.array([G1, 32 * G1, 64 * G1, 200 * G1])
    last = np.array([5 * G1, 48 * G1, 128 * G1, 250 * G1])
    kind = pick.choice(4, count, p=[0.32, 0.32, 0.32, 0.04])

    def mapped(mapper: SecondStageMapper) -> None:
        mapper.map(G1, HOST, PAGES * K4, page_size=K4)
        mapper.map(32 * G1, HOST + 32 * G1, 15 * G1, page_size=M2)
        # One page in 16 of these cannot be written: that is one request in a hundred.
        mapper.map(47 * G1, HOST + 47 * G1, G1, page_size=M2, write=False)
        mapper.map(64 * G1, HOST + 64 * G1, 64 * G1, page_size=G1)

    return world(mapped, pick.integers(first[kind], last[kind]))


def by_batch(made: World, size: int = 0) -> Rounds:
    """Requests per second by the batch engine: all at once, or `size` at a time."""
    translator, requests = BatchTranslator(made.unit), made.requests
    count = IN_THOUSANDS if size else len(requests.addresses)
    size = size or count
    parts = [[column[at : at + size] for column in requests] for at in range(0, count, size)]

    def one_round() -> float:
        begin = time.process_time()
        for part in parts:
            translator.translate(*part)
        return count / (time.process_time() - begin)

    return one_round


def by_c(made: World, walker: ctypes.CDLL) -> Rounds:
    """Requests per second by the walker in C, which has to say the same as the batch engine."""
    requests, count = made.requests, len(made.requests.addresses)
    hosts, reasons = np.empty(count, np.uint64), np.empty(count, np.uint8)
    words = np.frombuffer(made.memory.view, np.uint64)

    def one_round() -> float:
        begin = time.process_time()
        walker.translate(
            _of(words), ctypes.c_uint64(len(words)), ctypes.c_uint64(ROOT), ctypes.c_size_t(count),
            *(_of(column) for column in (*requests, hosts, reasons)),
        )  # fmt: skip
        return count / (time.process_time() - begin)

    one_round()
    expected = BatchTranslator(made.unit).translate(*requests)
    assert (hosts == expected[0]).all() and (reasons == expected[1]).all(), "C and the batch engine differ"
    return one_round


def _of(column: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(column.ctypes.data)


def by_scalar(made: World, count: int) -> Rounds:
    """Requests per second by the scalar engine without caches."""
    translation = uncached_copy(made.unit.translation)
    given = [
        DmaRequest(NIC, address, Access.WRITE if write else Access.READ)
        for address, write in zip(
            made.requests.addresses[:count].tolist(), made.requests.writes.tolist(), strict=False
        )
    ]

    def one_round() -> float:
        begin = time.process_time()
        for each in given:
            translation.translate(each)
        return len(given) / (time.process_time() - begin)

    return one_round


def mapping() -> float:
    """Seconds to map 1 GiB in pages of 4 KiB."""
    memory = FlatMemory(TOP)
    mapper = SecondStageMapper(memory, PageAllocator(TABLES, TOP))
    begin = time.process_time()
    mapper.map(0, HOST, G1, page_size=K4)
    return time.process_time() - begin


def in_flight(made: World) -> float:
    """Bytes that a call allocates at its worst, for each request."""
    translator = BatchTranslator(made.unit)
    translator.translate(*made.requests)
    tracemalloc.start()
    translator.translate(*made.requests)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / len(made.requests.addresses)


def compiled(folder: str) -> ctypes.CDLL:
    """The walker, compiled with -O2."""
    source, library = Path(__file__).with_name("walker.c"), Path(folder) / "walker.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def measurements(walker: ctypes.CDLL, requests: int = REQUESTS, scalar: int = SCALAR) -> dict[str, Rounds]:
    """All measurements by name; those with "seconds" in their name are times, the others are rates."""
    everywhere, hot, sizes = uniform(requests, PAGES), uniform(requests, HOT_PAGES), mixed(requests)
    blocked = BatchTranslator(sizes.unit).translate(*sizes.requests)[0] == NO_ADDRESS
    assert 0.03 < blocked.mean() < 0.07, "one in twenty is blocked"
    return {
        "uniform, batch": by_batch(everywhere),
        "uniform, C": by_c(everywhere, walker),
        "uniform, scalar": by_scalar(everywhere, scalar),
        "mixed, batch": by_batch(sizes),
        "mixed, C": by_c(sizes, walker),
        "hot, batch": by_batch(hot),
        "hot, C": by_c(hot, walker),
        "in thousands, batch": by_batch(everywhere, 1000),
        "seconds to map 1 GiB": mapping,
    }


def measure(run: dict[str, Rounds], rounds: int) -> dict[str, list[float]]:
    """The figures of each measurement. They take turns, every other round in reverse order."""
    found: dict[str, list[float]] = {name: [] for name in run}
    for number in range(rounds):
        for name in run if number % 2 else reversed(run):
            gc.collect()
            found[name].append(run[name]())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast whole arrays of requests are translated.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each measurement ({ROUNDS})")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(measurements(compiled(folder)), max(options.rounds, 1))
    ratios = {pair: ratio(found, *pair.split(" : ")) for pair in TARGETS}
    medians = {name: statistics.median(values) for name, values in found.items()}
    flying = in_flight(uniform(REQUESTS, PAGES))
    if options.json:
        print(json.dumps({"medians": medians, "ratios": ratios, "bytes in flight": flying}, indent=1))
        return
    for name, value in medians.items():
        shown = f"{value * 1000:8.2f} ms" if "seconds" in name else f"{value / 1e6:8.2f} million requests per second"
        print(f"{name:<24}{shown}")
    print(f"{'bytes in flight':<24}{flying:8.1f} a request")
    print("ratios:")
    for name, value in ratios.items():
        print(f"  {name:<36}{value:7.2f}   at least {TARGETS[name]:g}")


if __name__ == "__main__":
    main()
