"""Fault reasons (spec 5.1.4, 7.1.3): code, name of the condition, meaning, and how the fault is handled.

Left out are the codes of what this engine does not have, so that none of its units can report them: host permission
tables (0x60 and 0xA0 to 0xA5: ECAP.HPTS), PASIDs in translated requests (0x49: ECAP.PTRS), and units that insist on
32-bit destinations (0x2A: ECAP.EIMER) or on interrupt remapping (0x2B: ECAP.IRREQ); also 0x88 (SGN.9), which the
specification has no longer.
"""

from __future__ import annotations

from enum import Flag, IntEnum, auto


class Fact(Flag):
    """How a fault is handled."""

    NONE = 0
    QUALIFIED = auto()
    """It is not recorded if FPD is set (7.1.3)."""
    CACHED = auto()
    """In caching mode, the entry that raised it is cached (6.1)."""
    NOT_MAPPED = auto()
    """A translation request gets a success completion without permissions instead (7.1.3)."""


_Q, _C, _N = Fact.QUALIFIED, Fact.CACHED, Fact.NOT_MAPPED


class FaultReason(IntEnum):
    """Why a request was blocked. The value is FRCD.FR; the name is that of the condition.

    Interrupt-remapping faults have no condition names in the specification: they are called IR and the code.

    Attributes:
        condition: the name of the condition in the specification, such as "LCT.4".
        meaning: one line of text.
        section: where the specification lists the condition.
        qualified: the fault is not recorded if FPD (fault processing disable) of the deciding entry is set; the
            request is still blocked.
        cached: in caching mode, the entry that raised it is cached (spec 6.1).
        not_mapped: a translation request gets a success completion without permissions instead of this fault.
    """

    condition: str
    meaning: str
    section: str
    qualified: bool
    cached: bool
    not_mapped: bool

    def __new__(cls, code: int, meaning: str, facts: Fact = Fact.NONE) -> FaultReason:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.qualified, member.cached, member.not_mapped = _Q in facts, _C in facts, _N in facts
        return member

    def __init__(self, *_: object) -> None:
        self.condition = self.name.replace("_", ".")
        self.section = "5.1.4" if self.name.startswith("IR_") else "7.1.3"

    # Legacy mode.
    LRT_2 = 0x01, "root entry not present", _C
    LCT_2 = 0x02, "context entry not present", _Q | _C
    LCT_4 = 0x03, "invalid context entry: translation type, address width or table pointer", _Q | _C
    LGN_1 = 0x04, "address beyond the guest address width", _Q | _N
    LGN_2 = 0x05, "write without write permission", _Q | _N
    LGN_3 = 0x06, "read without read permission", _Q | _N
    LSL_1 = 0x07, "second-stage entry could not be read", _Q
    LRT_1 = 0x08, "root entry could not be read"
    LCT_1 = 0x09, "context entry could not be read"
    LRT_3 = 0x0A, "reserved bit set in a present root entry", _C
    LCT_3 = 0x0B, "reserved bit set in a present context entry", _Q | _C
    LSL_2 = 0x0C, "reserved bit set in a present second-stage entry", _Q | _C
    LCT_5 = 0x0D, "translation or translated request blocked by the translation type", _Q
    LGN_4 = 0x0E, "host address in the interrupt range", _Q

    # Interrupt remapping.
    IR_20 = 0x20, "reserved field set in the interrupt request"
    IR_21 = 0x21, "interrupt index beyond the table"
    IR_22 = 0x22, "interrupt-remapping entry not present", _Q | _C
    IR_23 = 0x23, "interrupt-remapping entry could not be read"
    IR_24 = 0x24, "reserved field set in the interrupt-remapping entry", _Q | _C
    IR_25 = 0x25, "compatibility-format interrupt blocked"
    IR_26 = 0x26, "source-id validation failed", _Q
    IR_27 = 0x27, "posted-interrupt descriptor could not be read", _Q
    IR_28 = 0x28, "reserved field set in the posted-interrupt descriptor", _Q
    IR_29 = 0x29, "request in the interrupt range that is not an interrupt message"

    # Root table address.
    RTA_1 = 0x30, "translation table mode not supported"
    RTA_2 = 0x31, "request with a PASID in legacy mode"
    RTA_3 = 0x32, "page request in legacy mode"
    RTA_4 = 0x33, "any request in abort-DMA mode"
    RTA_5 = 0x34, "execute requested of a unit that knows no execute requests: version 8 or later"

    # Scalable mode: root, context, PASID structures.
    SRT_1 = 0x38, "scalable root entry could not be read"
    SRT_2 = 0x39, "scalable root entry not present", _C
    SRT_3 = 0x3A, "reserved bit set in a present scalable root entry", _C
    SCT_1 = 0x40, "scalable context entry could not be read"
    SCT_2 = 0x41, "scalable context entry not present", _Q | _C
    SCT_3 = 0x42, "reserved bit set in a present scalable context entry", _Q | _C
    SCT_4 = 0x43, "invalid scalable context entry: page requests without device-TLB, or RID_PASID too large", _Q | _C
    SCT_5 = 0x44, "translation or translated request while device-TLBs are not enabled", _Q
    SCT_6 = 0x45, "request with a PASID while PASIDs are not enabled", _Q
    SCT_7 = 0x46, "PASID beyond the PASID directory", _Q
    SCT_8 = 0x47, "page request while page requests are not enabled", _Q
    SCT_9 = 0x48, "request with the PASID of requests without one, RID_PASID", _Q
    SPD_1 = 0x50, "PASID directory entry could not be read"
    SPD_2 = 0x51, "PASID directory entry not present", _Q | _C | _N
    SPD_3 = 0x52, "reserved bit set in a present PASID directory entry", _Q | _C
    SPT_1 = 0x58, "PASID table entry could not be read"
    SPT_2 = 0x59, "PASID table entry not present", _Q | _C | _N
    SPT_3 = 0x5A, "reserved bit set in a present PASID table entry", _Q | _C
    SPT_4 = 0x5B, "invalid PASID table entry: type, address width, paging mode or first-stage pointer", _Q | _C
    SPT_5 = 0x5C, "execute requested while it is not supported or not enabled", _Q | _N
    SPT_6 = 0x5D, "supervisor requested while it is not enabled", _Q | _N

    # Scalable mode: first stage.
    SFS_1 = 0x70, "first-stage entry could not be read", _Q | _N
    SFS_2 = 0x71, "first-stage entry not present", _Q | _N
    SFS_3 = 0x72, "reserved bit set in a present first-stage entry", _Q | _N
    SFS_4 = 0x73, "first-stage table of the top level could not be read", _Q | _N
    SFS_5 = 0x74, "first-stage table or page beyond the guest address width", _Q | _N
    SFS_6 = 0x75, "no second-stage read permission for the top first-stage table", _Q | _N
    SFS_7 = 0x76, "no second-stage read permission for a first-stage table", _Q | _N
    SFS_8 = 0x77, "no second-stage write permission to update a first-stage entry", _Q | _N
    SFS_9 = 0x90, "first-stage entry needs an update, but the walk is not snooped", _Q | _N
    SFS_10 = 0x91, "first-stage entry could not be updated", _Q

    # Scalable mode: second stage.
    SSS_1 = 0x78, "second-stage entry could not be read", _Q
    SSS_2 = 0x79, "second-stage entry not present", _Q | _C | _N
    SSS_3 = 0x7A, "reserved bit set in a present second-stage entry", _Q | _C
    SSS_4 = 0x7B, "second-stage table of the top level could not be read", _Q
    SSS_5 = 0x7C, "second-stage entry needs an update, but the walk is not snooped", _Q
    SSS_6 = 0x7D, "second-stage entry could not be updated", _Q

    # Scalable mode: the translation as a whole.
    SGN_1 = 0x80, "address not canonical", _Q | _N
    SGN_2 = 0x81, "user request to a supervisor page", _Q | _N
    SGN_3 = 0x82, "execute request to a no-execute page", _Q | _N
    SGN_4 = 0x83, "address beyond the host address width", _Q | _N
    SGN_5 = 0x84, "second-stage input beyond the guest address width", _Q | _N
    SGN_6 = 0x85, "write without write permission", _Q | _N
    SGN_7 = 0x86, "read without read permission", _Q | _N
    SGN_8 = 0x87, "host address in the interrupt range", _Q
    SGN_10 = 0x89, "PASID with more bits than the unit supports", _Q

    def __str__(self) -> str:
        return f"{self.value:#04x} {self.condition} {self.meaning}"


class Blocked(Exception):
    """Raised inside the engine for a condition that blocks the request. It never leaves the unit.

    `fpd` is the FPD bit of the entries read so far; the caller adds those it has read.
    """

    def __init__(self, reason: FaultReason, fpd: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fpd = fpd
