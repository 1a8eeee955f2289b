"""Fault reasons (spec 5.1.4, 7.1.3): code, the specification's condition name, meaning, and whether FPD silences it.

Three codes whose meaning no public source gives are left out: 0x33 (RTA.4), 0x88 (SGN.9) and 0x89 (SGN.10).
"""

from __future__ import annotations

from enum import IntEnum


class FaultReason(IntEnum):
    """Why a request was blocked. The number is FRCD.FR; the name is the condition's.

    `condition` is the specification's name with dots, `meaning` one line for people. A `qualified` fault is not
    recorded when the deciding entry's FPD (fault processing disable) is set; the request is blocked all the same.
    The interrupt-remapping faults have no condition names of their own: theirs are IR and the code.
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

    # Legacy mode.
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

    # Interrupt remapping.
    IR_20 = 0x20, "reserved field set in the interrupt request", False
    IR_21 = 0x21, "interrupt index beyond the table", False
    IR_22 = 0x22, "interrupt-remapping entry not present", True
    IR_23 = 0x23, "interrupt-remapping entry could not be read", False
    IR_24 = 0x24, "reserved field set in the interrupt-remapping entry", True
    IR_25 = 0x25, "compatibility-format interrupt blocked", False
    IR_26 = 0x26, "source-id validation failed", True
    IR_27 = 0x27, "posted-interrupt descriptor could not be read", True
    IR_28 = 0x28, "reserved field set in the posted-interrupt descriptor", True
    IR_29 = 0x29, "request in the interrupt range that is no interrupt message", False

    # Root table address.
    RTA_1 = 0x30, "translation table mode not supported", False
    RTA_2 = 0x31, "request with a PASID in legacy mode", False
    RTA_3 = 0x32, "page request in legacy mode", False

    # Scalable mode: root, context, PASID structures.
    SRT_1 = 0x38, "scalable root entry could not be read", False
    SRT_2 = 0x39, "scalable root entry not present", False
    SRT_3 = 0x3A, "reserved bit set in a present scalable root entry", False
    SCT_1 = 0x40, "scalable context entry could not be read", False
    SCT_2 = 0x41, "scalable context entry not present", True
    SCT_3 = 0x42, "reserved bit set in a present scalable context entry", True
    SCT_4 = 0x43, "invalid scalable context entry", True
    SCT_5 = 0x44, "translation or translated request while device-TLBs are not enabled", True
    SCT_6 = 0x45, "request with a PASID while PASIDs are not enabled", True
    SCT_7 = 0x46, "PASID beyond the PASID directory", True
    SCT_8 = 0x47, "page request while page requests are not enabled", True
    SCT_9 = 0x48, "RID_PASID beyond the PASID directory", True
    SPD_1 = 0x50, "PASID directory entry could not be read", False
    SPD_2 = 0x51, "PASID directory entry not present", True
    SPD_3 = 0x52, "reserved bit set in a present PASID directory entry", True
    SPT_1 = 0x58, "PASID table entry could not be read", False
    SPT_2 = 0x59, "PASID table entry not present", True
    SPT_3 = 0x5A, "reserved bit set in a present PASID table entry", True
    SPT_4 = 0x5B, "invalid PASID table entry: type, address width or paging mode", True
    SPT_5 = 0x5C, "execute requested while it is not enabled", True
    SPT_6 = 0x5D, "supervisor requested while it is not enabled", True

    # Scalable mode: first stage.
    SFS_1 = 0x70, "first-stage entry could not be read", True
    SFS_2 = 0x71, "first-stage entry not present", True
    SFS_3 = 0x72, "reserved bit set in a present first-stage entry", True
    SFS_4 = 0x73, "first-stage table of the top level could not be read", True
    SFS_5 = 0x74, "first-stage table beyond the guest address width", True
    SFS_6 = 0x75, "no second-stage read permission for the top first-stage table", True
    SFS_7 = 0x76, "no second-stage read permission for a first-stage table", True
    SFS_8 = 0x77, "no second-stage write permission to update a first-stage entry", True
    SFS_9 = 0x90, "first-stage entry needs an update, but the walk is not snooped", True
    SFS_10 = 0x91, "first-stage entry could not be updated", True

    # Scalable mode: second stage.
    SSS_1 = 0x78, "second-stage entry could not be read", True
    SSS_2 = 0x79, "second-stage entry not present", True
    SSS_3 = 0x7A, "reserved bit set in a present second-stage entry", True
    SSS_4 = 0x7B, "second-stage table of the top level could not be read", True
    SSS_5 = 0x7C, "second-stage entry needs an update, but the walk is not snooped", True
    SSS_6 = 0x7D, "second-stage entry could not be updated", True

    # Scalable mode: the translation as a whole.
    SGN_1 = 0x80, "address not canonical", True
    SGN_2 = 0x81, "user request to a supervisor page", True
    SGN_3 = 0x82, "execute request to a no-execute page", True
    SGN_4 = 0x83, "address beyond the host address width", True
    SGN_5 = 0x84, "second-stage input beyond the guest address width", True
    SGN_6 = 0x85, "write without write permission", True
    SGN_7 = 0x86, "read without read permission", True
    SGN_8 = 0x87, "host address in the interrupt range", True

    def __str__(self) -> str:
        return f"{self.value:#04x} {self.condition} {self.meaning}"


class Blocked(Exception):
    """Inside the engine: the walk met a condition that blocks the request. Never leaves the unit.

    `fpd` is the FPD bit of the entries in hand, for conditions met before the way to a translation is complete.
    """

    def __init__(self, reason: FaultReason, fpd: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fpd = fpd
