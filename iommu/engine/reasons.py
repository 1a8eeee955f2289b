"""Fault reasons (spec 7.1.3): code, the specification's condition name, meaning, and whether FPD can silence it."""

from __future__ import annotations

from enum import IntEnum


class FaultReason(IntEnum):
    """Why a request was blocked. The number is FRCD.FR; the name is the condition's.

    `condition` is the specification's name with dots, `meaning` one line for people. A `qualified` fault is not
    recorded when the deciding entry's FPD (fault processing disable) is set; the request is blocked all the same.
    """

    condition: str
    meaning: str
    qualified: bool

    def __new__(cls, code: int, meaning: str, qualified: bool) -> FaultReason:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning, member.qualified = meaning, qualified
        return member

    def __init__(self, *_: object) -> None:
        self.condition = self.name.replace("_", ".")

    LRT_2 = 0x01, "root entry not present", False
    LCT_2 = 0x02, "context entry not present", True
    LCT_4 = 0x03, "invalid context entry: translation type, address width or table pointer", True
    LGN_1 = 0x04, "address beyond the guest address width", True
    LGN_2 = 0x05, "write without write permission", True
    LGN_3 = 0x06, "read without read permission", True
    LSL_1 = 0x07, "second-stage entry could not be read", True
    LRT_1 = 0x08, "root entry could not be read", False
    LCT_1 = 0x09, "context entry could not be read", False
    LRT_3 = 0x0A, "reserved bit set in a present root entry", False
    LCT_3 = 0x0B, "reserved bit set in a present context entry", True
    LSL_2 = 0x0C, "reserved bit set in a present second-stage entry", True
    LCT_5 = 0x0D, "translation or translated request blocked by the translation type", True
    LGN_4 = 0x0E, "host address in the interrupt range", True
    RTA_1 = 0x30, "translation table mode not supported", False
    RTA_2 = 0x31, "request with a PASID in legacy mode", False

    def __str__(self) -> str:
        return f"{self.value:#04x} {self.condition} {self.meaning}"


class Blocked(Exception):
    """Inside the engine: the walk met a condition that blocks the request. Never leaves `translate`.

    `fpd` is the FPD bit of the entry in hand, for conditions met before a context entry is complete.
    """

    def __init__(self, reason: FaultReason, fpd: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fpd = fpd
