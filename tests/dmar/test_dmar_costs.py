"""What somebody else has made large costs no more than its size: no table, image or machine takes n * n steps."""

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from iommu.dmar import Dmar
from iommu.dmar.difference import difference
from iommu.dmar.images import Image
from iommu.dmar.lint import lint
from iommu.dmar.pci import PciAddress, PciFunction, PciTree
from iommu.dmar.picture import blocks
from iommu.dmar.topology import place
from iommu.dmar.verdicts import verdicts
from iommu.errors import FormatError, MisuseError
from tests.dmar import hand
from tests.dmar.test_dmar_inputs import elf
from tests.growth import MOST, growth

PAGE = 0x1000


def units(count: int, first: int = PAGE, segments: int = 1) -> bytes:
    """Units that have a device each, in so many segments."""
    return hand.table(
        *[
            hand.drhd(first + PAGE * n, hand.scope(1, n >> 8 & 255, (n & 31, n >> 5 & 7)), segment=n % segments)
            for n in range(count)
        ]
    )


def affinities(count: int) -> bytes:
    """Units, and a proximity domain for each."""
    bases = range(PAGE, PAGE * (count + 1), PAGE)
    return hand.table(*map(hand.drhd, bases), *[hand.structure(3, struct.pack("<IQI", 0, base, 0)) for base in bases])


def regions(count: int) -> bytes:
    """A unit, and regions in no order."""
    bases = [PAGE * n for n in range(count)]
    random.Random(1).shuffle(bases)
    device = hand.scope(1, 0, (1, 0))
    return hand.table(hand.drhd(PAGE), *[hand.rmrr(base, base + PAGE - 1, device) for base in bases])


@pytest.mark.parametrize("make", [units, lambda n: units(n, segments=1 << 16), affinities, regions])
@pytest.mark.parametrize("judge", [lambda data: lint(Dmar.parse(data, strict=False)), verdicts])
def test_judging_a_long_table(make: Callable[[int], bytes], judge: Callable[[bytes], object]) -> None:
    assert growth(make, judge, 3000) < MOST


def same_devices(count: int, first: int) -> bytes:
    return hand.table(*[hand.drhd(first + PAGE * n, hand.scope(1, 0, (2, 0))) for n in range(count)])


@pytest.mark.parametrize("make", [units, same_devices])
@pytest.mark.parametrize("moved", [0, 1 << 32])
def test_comparing_long_tables(make: Callable[[int, int], bytes], moved: int) -> None:
    def both(count: int) -> tuple[Dmar, Dmar]:
        return Dmar.parse(make(count, PAGE)), Dmar.parse(make(count, PAGE + moved))

    assert growth(both, lambda tables: difference(*tables), 300) < MOST


def machine(count: int) -> tuple[Dmar, PciTree]:
    """Functions that a unit, a region and a group have for themselves; every second is a virtual function."""
    functions, structures = [], []
    for number in range(count):
        bus, device, function = number >> 8, number >> 3 & 31, number & 7
        address = PciAddress(0, bus, device, function)
        physical = address._replace(function=0) if number % 2 else None
        functions.append(PciFunction(address, isolated=True, physical=physical))
        named = hand.scope(1, bus, (device, function))
        structures.append(hand.drhd(PAGE * (number + 1), named))
        structures.append(hand.rmrr(PAGE * number, PAGE * number + PAGE - 1, named))
    return Dmar.parse(hand.table(*structures)), PciTree(functions)


@pytest.mark.parametrize("look", [place, lambda *both: list(blocks(*both))])
def test_placing_the_functions_of_a_large_machine(look: Callable[[Dmar, PciTree], object]) -> None:
    assert growth(machine, lambda both: look(*both), 500) < MOST


def test_groups_that_share_everything_are_refused_at_once() -> None:
    """Each of 65,536 functions of a group would list all others."""
    functions = [PciFunction(PciAddress(n >> 16, n >> 8 & 255, n >> 3 & 31, n & 7), group=1) for n in range(1 << 16)]
    with pytest.raises(MisuseError, match="more than 4194304"):
        place(Dmar(), PciTree(functions))


# Images.


def image(roots: int, size: int) -> bytes:
    """Memory with RSDPs that lead to XSDTs of `size` bytes, 8 bytes apart, where every entry leads to a DMAR."""
    memory = bytearray(1 << 22)
    memory[0:8] = b"DMAR" + struct.pack("<I", 36)
    for number in range(roots):
        at = (1 << 20) + 64 * number
        rsdp = bytearray(b"RSD PTR \0VTDLAB" + struct.pack("<BIIQ", 2, 0, 36, (2 << 20) + 8 * number) + bytes(4))
        rsdp[8] = -sum(rsdp[:20]) & 0xFF
        memory[at : at + len(rsdp)] = rsdp
        memory[(2 << 20) + 8 * number : (2 << 20) + 8 * number + 8] = b"XSDT" + struct.pack("<I", size)
    return bytes(memory)


class Counting(Image):
    """An image that counts how much of it is read as tables."""

    def table(self, address: int) -> bytes:
        found = super().table(address)
        self.read_bytes = getattr(self, "read_bytes", 0) + len(found)
        return found


def test_a_root_table_is_read_once_however_many_rsdps_lead_to_it() -> None:
    memory = bytearray(image(1, 1 << 20))
    memory[1 << 16 : (1 << 16) + 200 * 36] = memory[1 << 20 : (1 << 20) + 36] * 200
    counting = Counting(bytes(memory))
    assert [address for address, _ in counting.dmars()] == [0]
    assert counting.read_bytes == (1 << 20) + 36


def test_root_tables_that_overlap_are_refused_before_they_are_all_read() -> None:
    counting = Counting(image(1000, 1 << 20))
    with pytest.raises(FormatError, match="more than 4 MiB of tables"):
        list(counting.dmars())
    assert counting.read_bytes <= 6 << 20


def test_an_elf_core_of_many_segments() -> None:
    def read_all(made: tuple[bytes, range]) -> None:
        data, addresses = made
        found = Image(data)
        assert all(found.read(address, 8) == b"x" * 8 for address in addresses)

    def core(count: int) -> tuple[bytes, range]:
        addresses = range(PAGE, PAGE * (count + 1), PAGE)
        return elf(True, [(address, b"x" * 8) for address in addresses]), addresses

    assert growth(core, read_all, 1000) < MOST


@pytest.mark.parametrize("seed", range(20))
def test_of_segments_that_overlap_the_first_in_the_file_counts(seed: int) -> None:
    chance = random.Random(seed)
    parts = [(chance.randrange(40), bytes([n]) * chance.randrange(12)) for n in range(1, 9)]
    found = Image(elf(bool(seed % 2), parts))
    for address in range(60):
        first: Any = next((part for part in parts if part[0] <= address < part[0] + len(part[1])), (0, b""))
        assert found.read(address, 5) == first[1][address - first[0] :][:5]


def test_the_dmar_of_an_image_is_still_found_among_many_segments() -> None:
    parts = [(PAGE * n, b"x" * 8) for n in range(1000, 2000)]
    memory = image(1, 1 << 20)
    assert [table for _, table in Image(elf(True, [*parts, (0, memory)])).dmars()] == [memory[:36]]
