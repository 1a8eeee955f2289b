"""Memory in many pieces costs no more than its pieces."""

from collections.abc import Iterator

from iommu.snapshot.memory import PAGE, OverlaidMemory, from_elf
from tests.dmar.test_dmar_inputs import elf
from tests.growth import MOST, growth


class Zeroes(OverlaidMemory):
    """Pages with gaps between them, and all of each is in use."""

    def __init__(self, count: int) -> None:
        super().__init__(range(2 * PAGE * number, 2 * PAGE * number + PAGE) for number in range(count))

    def stretch(self, number: int, count: int) -> bytes:
        return bytes(PAGE * count)

    def stored(self) -> Iterator[range]:
        return iter(self.ranges)


def test_what_is_used_of_memory_with_many_gaps() -> None:
    assert growth(Zeroes, lambda memory: list(memory.used()), 10_000) < MOST


def test_an_elf_core_of_many_segments() -> None:
    def core(count: int) -> memoryview:
        return memoryview(elf(True, [(PAGE * number, b"x" * 8) for number in range(count)]))

    def read_all(contents: memoryview) -> None:
        memory = from_elf(contents)
        assert all(memory.read(each.start, 8) == b"x" * 8 for each in memory.ranges)

    assert growth(core, read_all, 500) < MOST
