"""An NVMe controller that the guest's own driver runs: its queues are where the model says.

The driver puts commands into queues in memory that it has mapped for the controller. QEMU's trace events name each
command that the controller fetched and each completion that it posted; the model's tables must lead to both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from qemu.vtd.guest import pci
from qemu.vtd.guest.check import Inspection
from qemu.vtd.guest.guest import Guest
from qemu.vtd.guest.trace import Trace, numbers

DEVICE = "nvme,serial=vtd,drive=nvme,addr=4"
BACKEND = ("-blockdev", "null-co,node-name=nvme,size=1048576,read-zeroes=on")
"""Its disk: zeroes, and nothing is kept."""
SOURCE = SourceId(0, 4, 0)
ADDRESS = "0000:00:04.0"
_ENABLED, _ADMIN, _IO = "pci_nvme_mmio_start_success", "pci_nvme_admin_cmd", "pci_nvme_io_cmd"
_COMPLETED = "pci_nvme_enqueue_req_completion"
_NEW_SUBMISSION, _NEW_COMPLETION = "pci_nvme_create_sq", "pci_nvme_create_cq"
EVENTS = (_ENABLED, _ADMIN, _IO, _COMPLETED, _NEW_SUBMISSION, _NEW_COMPLETION)

# Registers and structures: NVM Express base specification 2.0, sections 3.1.3, 3.3.3.1, 3.3.3.2 and 5.
_REGISTERS, _AQA, _ASQ, _ACQ = 0x40, 0x24, 0x28, 0x30
_COMMAND = struct.Struct("<BxH20xQ8xI20x")
_COMPLETION = struct.Struct("<8xHHHH")
_CREATE_SUBMISSION, _CREATE_COMPLETION, _IDENTIFY = 0x01, 0x05, 0x06
_PAGE = 0x1000
# Four blocks of a page each, read by the processor whose queue is the first.
READ_SOMETHING = "taskset 1 dd if=/dev/nvme0n1 of=/dev/null bs=4096 count=4 iflag=direct"


class Command(NamedTuple):
    """A submission queue entry, in part."""

    opcode: int
    identifier: int
    pointer: int
    word10: int


class Completion(NamedTuple):
    """A completion queue entry, in part: bit 0 of `status` is the phase tag."""

    head: int
    queue: int
    identifier: int
    status: int


@dataclass(frozen=True)
class Queue:
    """A ring of entries in memory, where the controller sees it."""

    number: int
    address: int
    entries: int


@dataclass(frozen=True)
class Activity:
    """What the controller did since it was enabled, as QEMU tells: the witness.

    Attributes:
        admin: its administration queues: submission and completion.
        commands: opcode and identifier of each command that it fetched, by submission queue.
        completions: identifier and status of each completion that it posted, by completion queue.
        created: address and number of entries of each I/O queue, submission then completion, by number.
    """

    admin: tuple[Queue, Queue]
    commands: dict[int, list[tuple[int, int]]]
    completions: dict[int, list[tuple[int, int]]]
    created: tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]


async def is_driven(guest: Guest) -> bool:
    """Whether the guest's kernel has a driver for the controller."""
    return bool(await guest.run(f"ls -d /sys/bus/pci/devices/{ADDRESS}/driver 2>/dev/null || true"))


async def check_nvme(found: Inspection, trace: Trace) -> None:
    """The queues of the controller hold what it fetched and posted, where the model says that they are."""
    await found.guest.run(READ_SOMETHING)
    seen = await activity(found, trace)
    async with found.guest.unit() as unit:
        judge(found, unit, seen)


async def activity(found: Inspection, trace: Trace) -> Activity:
    """What the controller has done. It must be idle."""
    base = pci.base_address(await pci.configuration(found.guest, ADDRESS), 0)
    registers = await found.guest.physical(base, _REGISTERS)
    sizes, submission, completion = struct.unpack_from("<IQQ", registers, _AQA)
    start = trace.last(_ENABLED)
    commands: dict[int, list[tuple[int, int]]] = {}
    for identifier, queue, opcode in (numbers(line)[:3] for line in trace.lines(_ADMIN, start)):
        commands.setdefault(queue, []).append((opcode, identifier))
    for identifier, _, queue, opcode in (numbers(line)[:4] for line in trace.lines(_IO, start)):
        commands.setdefault(queue, []).append((opcode, identifier))
    completions: dict[int, list[tuple[int, int]]] = {}
    for identifier, queue, *_, status in map(numbers, trace.lines(_COMPLETED, start)):
        completions.setdefault(queue, []).append((identifier, status))
    submissions = {line[1]: (line[0], line[3] + 1) for line in map(numbers, trace.lines(_NEW_SUBMISSION, start))}
    made = {line[1]: (line[0], line[3] + 1) for line in map(numbers, trace.lines(_NEW_COMPLETION, start))}
    admin = Queue(0, submission, (sizes & 0xFFF) + 1), Queue(0, completion, (sizes >> 16 & 0xFFF) + 1)
    return Activity(admin, commands, completions, (submissions, made))


def judge(found: Inspection, unit: RemappingUnit, seen: Activity) -> None:
    """Compare what the controller did with what the model finds in its queues."""
    submission, completion = seen.admin
    first = read_commands(unit, submission)[:1]
    found.compare("NVMe: first command", _IDENTIFY, first[0].opcode if first else None)
    _judge_commands(found, unit, submission, seen)
    _judge_completions(found, unit, completion, seen)
    issued = [command for command in read_commands(unit, submission) if command.opcode or command.pointer]
    for kind, opcode, created in zip("SC", (_CREATE_SUBMISSION, _CREATE_COMPLETION), seen.created, strict=True):
        queues = [Queue(c.word10 & 0xFFFF, c.pointer, (c.word10 >> 16) + 1) for c in issued if c.opcode == opcode]
        ordered = {queue.number: (queue.address, queue.entries) for queue in queues}
        found.compare(f"NVMe: I/O queues created ({kind}Q)", _listed(created), _listed(ordered))
        for queue in queues:
            if kind == "S":
                _judge_commands(found, unit, queue, seen)
            else:
                _judge_completions(found, unit, queue, seen)


def _listed(queues: dict[int, tuple[int, int]]) -> str:
    return ", ".join(f"{number} at {at:#x} of {entries}" for number, (at, entries) in sorted(queues.items()))


def _judge_commands(found: Inspection, unit: RemappingUnit, queue: Queue, seen: Activity) -> None:
    fetched = seen.commands.get(queue.number, [])
    inside = read_commands(unit, queue)
    wanted = _in_ring(fetched, queue)
    what = f"NVMe: commands in submission queue {queue.number}"
    there = {slot: (inside[slot].opcode, inside[slot].identifier) for slot in wanted} if inside else {}
    found.compare(what, wanted, there)
    host = unit.translate(DmaRequest(SOURCE, queue.address, Access.READ)).host_address
    where = "nowhere" if host is None else f"{host:#x}"
    found.story.append(f"{what}: {len(fetched)}, at {queue.address:#x} -> {where}")


def _judge_completions(found: Inspection, unit: RemappingUnit, queue: Queue, seen: Activity) -> None:
    posted = seen.completions.get(queue.number, [])
    # The phase tag is 1 in the first round, 0 in the second, and so on (3.3.3.2.2).
    tagged = [(name, status << 1 | 1 ^ n // queue.entries & 1) for n, (name, status) in enumerate(posted)]
    wanted = _in_ring(tagged, queue)
    inside = read_completions(unit, queue)
    there = {slot: (inside[slot].identifier, inside[slot].status) for slot in wanted} if inside else {}
    found.compare(f"NVMe: completions in completion queue {queue.number}", wanted, there)


def _in_ring(written: Sequence[tuple[int, int]], queue: Queue) -> dict[int, tuple[int, int]]:
    """What was written last to each entry of a ring."""
    return {n % queue.entries: each for n, each in enumerate(written)}


def read_commands(unit: RemappingUnit, queue: Queue) -> list[Command]:
    """The entries of a submission queue, which the controller reads; none when the model does not let it."""
    data = _fetch(unit, queue.address, queue.entries * _COMMAND.size, Access.READ)
    return [Command(*words) for words in _COMMAND.iter_unpack(data)]


def read_completions(unit: RemappingUnit, queue: Queue) -> list[Completion]:
    """The entries of a completion queue, which the controller writes; none when the model does not let it."""
    data = _fetch(unit, queue.address, queue.entries * _COMPLETION.size, Access.WRITE)
    return [Completion(*words) for words in _COMPLETION.iter_unpack(data)]


def _fetch(unit: RemappingUnit, address: int, size: int, access: Access) -> bytes:
    """What is in memory where the controller may access it; empty unless it may access all of it."""
    found = b""
    for at, length in _pieces(address, size):
        if (host := unit.translate(DmaRequest(SOURCE, at, access)).host_address) is None:
            return b""
        try:
            found += unit.memory.read(host, length)
        except MemoryAccessError:
            return b""
    return found


def _pieces(address: int, size: int) -> Iterator[tuple[int, int]]:
    end = address + size
    while address < end:
        length = min(end, (address | _PAGE - 1) + 1) - address
        yield address, length
        address += length
