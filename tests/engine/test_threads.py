"""Threads: units of different threads do not affect each other, and those that share a memory lose no exchange."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from threading import Barrier, Lock, Thread
from typing import Any

import pytest

from iommu import Access, FlatMemory, PageRequest
from iommu.engine.attributes import of_first_stage, of_second_stage
from iommu.engine.caches.page import kind_of
from tests.engine.interrupting import request
from tests.engine.queueing import iotlb, wait
from tests.engine.scalable_world import ADDRESS
from tests.engine.test_foreign_exceptions import PAGES, STATUS, Whole
from tests.engine.world import DISK, NIC, WRITE, mapped

THREADS = 4


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads change as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """The results of functions that threads of their own call at the same time."""
    barrier, found = Barrier(len(works)), [None] * len(works)

    def run(number: int) -> None:
        barrier.wait()
        found[number] = works[number]()

    threads = [Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def life(seed: int) -> list[Any]:
    """What a unit of its own does, chosen by a number: requests of every kind, interrupts, both queues, faults."""
    pick = random.Random(seed)
    world = Whole(audit=bool(seed % 2), caching_mode=bool(seed % 3))
    found: list[Any] = []
    for _ in range(150):
        match pick.randrange(6):
            case 0:
                world.software.submit(iotlb(1), wait(sw=1, data=pick.randrange(100), address=STATUS))
            case 1:
                found.append(world.unit.remap_interrupt(request(pick.randrange(3))))
            case 2:
                found.append(world.unit.page_request(PageRequest(NIC, ADDRESS, group=pick.randrange(9))))
            case _:
                pasid = pick.choice((None, 0, 1, 2, 3))
                device, access = pick.choice((NIC, DISK)), pick.choice(list(Access))
                found.append(world.dma(pick.choice(PAGES), access, device, pasid=pasid))
    state = world.everything()
    return [found, state]


def test_units_in_threads_are_independent() -> None:
    """The caches of immutable values that all units share are empty at first: the threads fill them together."""
    alone = [life(seed) for seed in range(THREADS)]
    for _ in range(3):
        for shared in (kind_of, of_first_stage, of_second_stage):
            shared.cache_clear()
        assert at_once([lambda seed=seed: life(seed) for seed in range(THREADS)]) == alone  # type: ignore[misc]


class Interrupted(FlatMemory):
    """Memory in which other threads run between the comparison and the store of an exchange."""

    def write(self, address: int, data: bytes) -> None:
        time.sleep(0)
        super().write(address, data)


def test_exchanges_of_threads_exclude_each_other() -> None:
    memory = Interrupted(0x1000)

    def count() -> None:
        for _ in range(500):
            while True:
                now = memory.read_u64(8)
                if memory.compare_exchange(8, now, now + 1):
                    break

    at_once([count] * THREADS)
    assert memory.read_u64(8) == 500 * THREADS


def test_one_unit_with_a_lock_around_each_call() -> None:
    world = mapped(fault_records=256)
    lock = Lock()

    def use() -> list[int | None]:
        found = []
        for n in range(60):
            with lock:
                found.append(world.dma(0x5000 if n % 2 else 0x6000, WRITE).host_address)
        return found

    assert at_once([use] * THREADS) == [[None, 0x9000] * 30] * THREADS
    assert len(world.records()) == 30 * THREADS


def test_attributes_that_guests_choose_are_kept_within_a_bound() -> None:
    """PAT has 32 bits of a guest's choice."""
    for pat in range(3000):
        of_first_stage(snooped=False, pat=pat, uncacheable=False)
    assert of_first_stage.cache_info().currsize <= 1024
