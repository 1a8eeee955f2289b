"""DMA requests in words: "00:04.0 write 0x5000", "00:04.0 read 0x5000 pasid 3 privileged"."""

from __future__ import annotations

import re
from typing import Any

from iommu.engine.request import Access, AddressType, DmaRequest, SourceId
from iommu.errors import MisuseError
from iommu.explain.report import FaultReport
from iommu.files.documents import shown

_DEVICE = re.compile(r"^(?:0000:)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$", re.IGNORECASE)
_ACCESS = {"read": Access.READ, "write": Access.WRITE, "atomic": Access.ATOMIC}
_FLAGS: dict[str, tuple[str, Any]] = {
    "privileged": ("privileged", True),
    "execute": ("execute", True),
    "no-write": ("no_write", True),
    "translation-request": ("address_type", AddressType.TRANSLATION_REQUEST),
    "translated": ("address_type", AddressType.TRANSLATED),
}


def parse_request(text: str) -> DmaRequest:
    """Parse a request: device, access, address, then in any order "pasid N", "length N" and flags.

    Numbers are decimal, or hexadecimal with 0x. The default length is 1 byte. Raises MisuseError.
    """
    words = text.split()
    device = _device(words[0]) if len(words) >= 3 else None
    if device is None or words[1].lower() not in _ACCESS:
        raise MisuseError(
            f"{shown(text)} is not a request: give device, read|write|atomic and address, "
            'as in "00:04.0 write 0x5000"'
        )
    options: dict[str, Any] = {}
    rest = iter(words[3:])
    for word in rest:
        if word in ("pasid", "length"):
            options[word] = number_of(next(rest, ""), word)
        elif word in _FLAGS:
            name, value = _FLAGS[word]
            options[name] = value
        else:
            raise MisuseError(
                f"{word!r} is not an option of a request; there are pasid N, length N, {', '.join(_FLAGS)}"
            )
    return DmaRequest(device, number_of(words[2], "address"), _ACCESS[words[1].lower()], **options)


def device_of(text: str, option: str) -> SourceId:
    """A device: "00:04.0"; `option` names it in the error. Raises MisuseError."""
    device = _device(text)
    if device is None:
        raise MisuseError(f"{option} {shown(text)} is not a device: give bus:device.function, as in 00:04.0")
    return device


def _device(text: str) -> SourceId | None:
    found = _DEVICE.match(text)
    if found is None:
        return None
    bus, slot, function = (int(number, 16) for number in found.groups())
    return SourceId(bus, slot, function)


def number_of(text: str, what: str) -> int:
    """A number as in `parse_request`; `what` names it in the error. Raises MisuseError."""
    try:
        return int(text, 0)
    except ValueError:
        raise MisuseError(f"{what} {shown(text)} is not a number") from None


def show_request(request: DmaRequest) -> str:
    """The inverse of `parse_request`."""
    words = [str(request.source_id), request.access.name.lower(), f"{request.address:#x}"]
    if request.length != 1:
        words += ["length", str(request.length)]
    if request.pasid is not None:
        words += ["pasid", f"{request.pasid:#x}"]
    words += [word for word, (name, value) in _FLAGS.items() if getattr(request, name) == value]
    return " ".join(words)


def request_of(report: FaultReport) -> DmaRequest | None:
    """A request to reproduce the reported fault; None for interrupts, or if the report lacks the device or address.

    For a page request it is a write, which is what devices most often send page requests for.
    """
    if report.source_id is None or report.address is None:
        return None
    access = {"read": Access.READ, "atomic": Access.ATOMIC}.get(report.kind or "", Access.WRITE)
    with_pasid = report.pasid is not None
    return DmaRequest(
        report.source_id,
        report.address & ~0xFFF,
        access,
        pasid=report.pasid,
        privileged=report.privileged and with_pasid,
        execute=report.execute and with_pasid and access is Access.READ,
        address_type=report.address_type,
    )
