"""The capabilities of QEMU's intel-iommu by version and properties, without running QEMU."""

from __future__ import annotations

from iommu.engine.capabilities import Capabilities
from iommu.errors import MisuseError
from iommu.registers import CAP, ECAP

Version = tuple[int, ...]

RELEASES: tuple[Version, ...] = (
    *((7, 2), (8, 0), (8, 1), (8, 2), (9, 0), (9, 1), (9, 2)),
    *((10, 0), (10, 1), (10, 2), (11, 0), (11, 1)),
)
"""The releases whose registers are known: 7.2, 10.0 and 11.1 as read from QEMU, the others from its history."""

_ALWAYS: Version = (0,)
_NOT_YET: Version = (99,)

_PROPERTIES: dict[str, tuple[Version, Version]] = {
    "aw-bits": (_ALWAYS, _NOT_YET),
    "buggy-eim": (_ALWAYS, _NOT_YET),
    "caching-mode": (_ALWAYS, _NOT_YET),
    "device-iotlb": (_ALWAYS, _NOT_YET),
    "dma-drain": (_ALWAYS, _NOT_YET),
    "dma-translation": (_ALWAYS, _NOT_YET),
    "eim": (_ALWAYS, _NOT_YET),
    "intremap": (_ALWAYS, _NOT_YET),
    "scalable-mode": (_ALWAYS, _NOT_YET),
    "snoop-control": (_ALWAYS, _NOT_YET),
    "pt": (_ALWAYS, (11, 0)),
    "flts": ((10, 0), _NOT_YET),
    "fs1gp": ((10, 0), _NOT_YET),
    "pasid-mode": (_ALWAYS, (11, 1)),
    "pasid-bits": ((11, 1), _NOT_YET),
}
"""The properties that affect CAP and ECAP, without "x-": the first version that has each, and the first without."""

_SPELLINGS = {"fsts": "flts"}
_SWITCHES = {"on": True, "off": False}


def preset(version: str, **properties: str | int | bool) -> Capabilities:
    """The capabilities of intel-iommu in a QEMU of this version.

        preset("7.2", caching_mode=True, aw_bits=48)

    Args:
        version: "10.0" or "11.0.2"; without a third number, the latest of that series.
        properties: of intel-iommu, with underscores or hyphens, with or without "x-". Properties left out have their
            TCG defaults: interrupt remapping on, extended interrupt mode off.

    Raises MisuseError for an unknown version or property, and for a value that this QEMU refuses.
    """
    numbers = _parse(version)
    given = _given(version, numbers, properties)
    width = given.pop("aw-bits", 48 if numbers >= (9, 2) else 39)
    if width not in (39, 48):
        raise MisuseError(f"aw-bits is 39 or 48, not {width}")
    on = {"dma-drain": True, "dma-translation": True, "intremap": True, "fs1gp": True, "pt": True, **given}
    for name in ("flts", "pasid-mode", "pasid-bits"):
        if on.get(name) and not on.get("scalable-mode"):
            raise MisuseError(f"{name} needs scalable-mode")
    return Capabilities.from_registers(_cap(numbers, width, on), _ecap(numbers, on), host_address_width=width)


def _parse(version: str) -> Version:
    parts = version.split(".")
    if not all(part.isdecimal() for part in parts) or tuple(map(int, parts[:2])) not in RELEASES:
        known = ", ".join(".".join(map(str, release)) for release in RELEASES)
        raise MisuseError(f"the registers of QEMU {version} are not known; those of {known} are")
    return tuple(map(int, parts)) if len(parts) > 2 else (*map(int, parts), *_NOT_YET)


def _given(version: str, numbers: Version, properties: dict[str, str | int | bool]) -> dict[str, int]:
    """The given properties with normalised names, their values as numbers."""
    given: dict[str, int] = {}
    for spelled, value in properties.items():
        name = spelled.replace("_", "-").removeprefix("x-")
        name = _SPELLINGS.get(name, name)
        first, gone = _PROPERTIES.get(name, (_NOT_YET, _NOT_YET))
        if not first <= numbers < gone:
            known_names = ", ".join(
                sorted(known for known, (since, until) in _PROPERTIES.items() if since <= numbers < until)
            )
            raise MisuseError(f"intel-iommu of QEMU {version} has no property {spelled!r}; known are {known_names}")
        given[name] = _number(spelled, value)
    return given


def _number(name: str, value: str | int | bool) -> int:
    """A property's value as a number: from "on", "off", a bool, or decimal digits."""
    number = _SWITCHES.get(value, int(value) if value.isdecimal() else -1) if isinstance(value, str) else value
    if not 0 <= number < 64:
        raise MisuseError(f"{name} cannot be {value!r}")
    return int(number)


def _cap(numbers: Version, width: int, on: dict[str, int]) -> int:
    """The CAP register."""
    levels = (0b10 if width == 39 else 0b110) if on["dma-translation"] else 0
    return CAP.make(
        ND=6,
        CM=on.get("caching-mode", 0),
        # Before 11.0.3, 11.0 set the bit of ECAP.PT in CAP instead.
        PHMR=_has_misplaced_pt(numbers),
        SAGAW=levels,
        MGAW=width - 1,
        FRO=0x22,
        SSLPS=0b11,
        PSI=1,
        MAMV=18,
        DWD=on["dma-drain"],
        DRD=on["dma-drain"],
        FS1GP=bool(on.get("flts") and on["fs1gp"]),
        ESRTPS=numbers >= (10, 2),
    )


def _ecap(numbers: Version, on: dict[str, int]) -> int:
    """The ECAP register."""
    scalable, first_stage = bool(on.get("scalable-mode")), bool(on.get("flts"))
    remapping = on["intremap"]
    return ECAP.make(
        QI=1,
        IRO=0xF,
        DT=on.get("device-iotlb", 0),
        IR=remapping,
        MHMV=15 if remapping else 0,
        EIM=bool(remapping and (on.get("eim") or on.get("buggy-eim"))),
        PT=bool(on["pt"] and not _has_misplaced_pt(numbers)),
        SC=on.get("snoop-control", 0),
        SMTS=scalable,
        FSTS=first_stage,
        SSTS=scalable and not first_stage,
        SRS=scalable and not first_stage,
        PASID=bool(on.get("pasid-mode") or on.get("pasid-bits")),
        PSS=_pasid_size(numbers, on),
    )


def _has_misplaced_pt(numbers: Version) -> bool:
    return (11, 0) <= numbers < (11, 0, 3)


def _pasid_size(numbers: Version, on: dict[str, int]) -> int:
    """ECAP.PSS: 0 before 10.1, then 8 bits; from 11.1 on, from the `pasid-bits` property."""
    if bits := on.get("pasid-bits", 0):
        return bits - 1
    return 7 if on.get("pasid-mode") and numbers >= (10, 1) else 0
