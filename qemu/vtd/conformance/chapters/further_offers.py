"""Spec 11.4: what few units offer: extended interrupts, the page-request queue, TM; and a unit that cannot drain."""

from __future__ import annotations

from iommu.registers import CAP, ECAP, FEADDR, FEDATA, FEUADDR, IQH, Granularity, TableMode
from iommu.structures import DescriptorType, PageResponseDescriptor, SecondStageEntry, WaitDescriptor
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import messages
from qemu.vtd.conformance.chapters.register_bits import kept_bits
from qemu.vtd.conformance.chapters.reserved import try_in_page
from qemu.vtd.conformance.chapters.scalable_unit import refused_wide
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import EXTENDED, NO_DRAIN, PAGE_REQUESTS, STALE_TM, Setup
from qemu.vtd.platform import DEVICES

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask


def _kept(id_: str, section: str, name: str, offset: int, bits: int, kept: int, setup: Setup) -> None:
    """Which bits of a register are kept, each written alone."""

    def stimulus(bench: Bench) -> None:
        bench.note(f"{name} keeps {kept_bits(bench, offset, bits // 8):#x}")

    stimulus.__doc__ = f"Each bit of {name}, written alone, on a unit that offers what it is for."
    scenario(id_, section, f"{name} keeps {kept:#x}", "FSTS 0", setup=setup)(stimulus)


# Extended interrupts: destinations of 32 bits, and messages with an upper address.

for _name, _section, _offset in (("FEUADDR", "11.4.7.5", 0x44), ("IEUADDR", "11.4.9.8", 0xAC)):
    _kept(f"setup.extended.{_name.lower()}", _section, _name, _offset, 32, 0xFFFF_FFFF, EXTENDED)
_kept("setup.extended.irta", "11.4.10", "IRTA", 0xB8, 64, 0x0000_FFFF_FFFF_F80F, EXTENDED)


@scenario(
    "setup.extended.message",
    "7.3",
    "A write 0x6000 -> blocked",
    "message 0x100fee01000 0x31",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
    setup=EXTENDED,
)
def extended_message(bench: Bench) -> None:
    """With extended interrupts the message of the fault event has its upper address from FEUADDR."""
    bench.start()
    bench.platform.write_register(FEUADDR.offset, 0x100, 4)
    bench.platform.write_register(FEADDR.offset, messages.ADDRESS, 4)
    bench.platform.write_register(FEDATA.offset, messages.DATA, 4)
    messages.mask_event(bench, masked=False)
    messages.fault(bench)


# The registers of the page-request queue (11.4.11). No device that QEMU emulates makes page requests.

for _name, _section, _offset, _bits, _mask in (
    ("PQH", "11.4.11.1", 0xC0, 64, 0x7_FFE0),
    ("PQT", "11.4.11.2", 0xC8, 64, 0x7_FFE0),
    ("PQA", "11.4.11.3", 0xD0, 64, 0x0000_FFFF_FFFF_F007),
    ("PRS", "11.4.11.4", 0xDC, 32, 0),
    ("PECTL", "11.4.11.5", 0xE0, 32, 1 << 31),
    ("PEDATA", "11.4.11.6", 0xE4, 32, 0xFFFF),
    ("PEADDR", "11.4.11.7", 0xE8, 32, 0xFFFF_FFFC),
    ("PEUADDR", "11.4.11.8", 0xEC, 32, 0xFFFF_FFFF),
):
    _kept(f"setup.page-requests.{_name.lower()}", _section, _name, _offset, _bits, _mask, PAGE_REQUESTS)


@scenario(
    "setup.page-requests.reset",
    "11.4.11",
    *("PQH 0x0", "PQT 0x0", "PQA 0x0", "PRS 0x0", "PECTL 0x80000000", "PEDATA 0x0", "PEADDR 0x0", "PEUADDR 0x0"),
    "FSTS 0",
    setup=PAGE_REQUESTS,
)
def page_request_reset(bench: Bench) -> None:
    """After reset the page-request queue is empty and its event masked."""
    registers = (("PQH", 0xC0, 8), ("PQT", 0xC8, 8), ("PQA", 0xD0, 8), ("PRS", 0xDC, 4))
    events = (("PECTL", 0xE0, 4), ("PEDATA", 0xE4, 4), ("PEADDR", 0xE8, 4), ("PEUADDR", 0xEC, 4))
    for name, offset, size in (*registers, *events):
        bench.note(f"{name} {bench.platform.read_register(offset, size):#x}")


@scenario(
    "setup.page-requests.says",
    "11.4.3",
    "ECAP DT 1 PRS 1 PDS 1 PASID 1 PSS 19",
    "ECAP SRS 0 ERS 0 RPS 0 RPRIVS 0 NEST 0",
    "FSTS 0",
    setup=PAGE_REQUESTS,
)
def page_request_says(bench: Bench) -> None:
    """Page requests come with device-TLBs and PASIDs, and nothing else."""
    ecap = ECAP(bench.platform.read_register(ECAP.offset, 8))
    bench.note(f"ECAP DT {ecap.DT} PRS {ecap.PRS} PDS {ecap.PDS} PASID {ecap.PASID} PSS {ecap.PSS}")
    bench.note(f"ECAP SRS {ecap.SRS} ERS {ecap.ERS} RPS {ecap.RPS} RPRIVS {ecap.RPRIVS} NEST {ecap.NEST}")


def _response(name: str, title: str, descriptor: int, *expect: str) -> None:
    """A page response; nothing has asked for it."""

    def stimulus(bench: Bench) -> None:
        bench.driver.set_root_table(bench.root, TableMode.SCALABLE)
        bench.driver.start_queue(queue.QUEUE, wide=True)
        bench.driver.submit(descriptor)
        bench.note_register(IQH)

    stimulus.__doc__ = title
    scenario(f"setup.page-requests.response-{name}", "7.6.1", *expect, setup=PAGE_REQUESTS)(stimulus)


_RESPONSE = PageResponseDescriptor.make(TYPE=DescriptorType.PAGE_RESPONSE, RID=DEVICES["A"])
_response("plain", "A page response is carried out.", _RESPONSE, "IQH 0x20", "FSTS 0")
_response("pasid", "A page response with PASID.", _RESPONSE | PageResponseDescriptor.PP.mask, "IQH 0x20", "FSTS 0")


@scenario("setup.page-requests.response-reserved", "7.6.1", "accepted: none", "FSTS 0", setup=PAGE_REQUESTS)
def response_reserved(bench: Bench) -> None:
    """Each reserved bit of a page response is refused: 8:5, 63:52, 65:64, 127:76, and its upper half."""
    bench.memory.write_u64(queue.STATUS, 0)
    bench.driver.set_root_table(bench.root, TableMode.SCALABLE)
    bench.driver.start_queue(queue.QUEUE, wide=True)
    bits = (*range(5, 9), *range(52, 64), 64, 65, *range(76, 128), 128, 191, 192, 255)
    response = _RESPONSE | PageResponseDescriptor.PP.mask
    accepted = [bit for bit in bits if not refused_wide(bench, response | 1 << bit)]
    bench.note(f"accepted: {' '.join(map(str, accepted)) or 'none'}")


@scenario("setup.page-requests.halves", "11.2", "PQA 0x123", "PQA 0x12345678000", "FSTS 0", setup=PAGE_REQUESTS)
def page_request_halves(bench: Bench) -> None:
    """PQA is written and read in two halves."""
    bench.platform.write_register(0xD4, 0x123, 4)
    bench.note(f"PQA {bench.platform.read_register(0xD4, 4):#x}")
    bench.platform.write_register(0xD0, 0x4567_8000, 4)
    bench.note(f"PQA {bench.platform.read_register(0xD0, 8):#x}")


@scenario("setup.page-requests.drain", "6.5.2.8", f"status {queue.DATA:#x}", "FSTS 0", setup=PAGE_REQUESTS)
def page_request_drain(bench: Bench) -> None:
    """PD of a wait descriptor is not reserved on a unit that can drain page requests."""
    bench.memory.write_u64(queue.STATUS, 0)
    bench.driver.start_queue(queue.QUEUE, wide=True)
    bench.driver.submit(queue.wait(SW=1) | WaitDescriptor.PD.mask)
    queue.status(bench)


# TM, while it was there.


def _transient(level: int, page: int, host: str) -> None:
    def stimulus(bench: Bench) -> None:
        try_in_page(bench, 1 << 62, page, level)

    stimulus.__doc__ = f"TM, bit 62, of a page entry of level {level} on a unit that still has it."
    lines = f"no bit -> {host}", f"bits {1 << 62:#x} -> {host}", "FSTS 0"
    scenario(f"setup.transient.level-{level}", "9.8", *lines, setup=STALE_TM)(stimulus)


_transient(1, P0, "0x800010")
_transient(2, 0x80_0000, "0x801010")
_transient(3, 0, "0x801010")


# A unit that cannot drain.


@scenario(
    "setup.no-drain.invalidation",
    "6.5.4",
    "DRD 0 DWD 0",
    "A write 0x5010 -> 0x800010",
    "performed SELECTIVE",
    "A write 0x5010 -> 0x801010",
    "FSTS 0",
    setup=NO_DRAIN,
)
def invalidation_without_draining(bench: Bench) -> None:
    """DR and DW of an IOTLB command are ignored by a unit that cannot drain; the page is dropped."""
    cap = CAP(bench.platform.read_register(CAP.offset, 8))
    bench.note(f"DRD {cap.DRD} DWD {cap.DWD}")
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    performed = bench.driver.invalidate_translations(Granularity.SELECTIVE, domain_id=1, address=0x5000)
    bench.note_granularity(performed)
    bench.write("A", 0x5010)


@scenario(
    "setup.no-drain.queue",
    "6.5.2.3",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> 0x801010",
    "FSTS 0",
    setup=NO_DRAIN,
)
def queue_without_draining(bench: Bench) -> None:
    """DR and DW of an IOTLB descriptor are ignored by a unit that cannot drain."""
    entry = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(entry, P1 | R | W)
    queue.start(bench)
    bench.driver.submit(queue.iotlb(queue.DOMAIN, DID=1, DR=1, DW=1), queue.wait(SW=1))
    bench.write("A", 0x5010)
