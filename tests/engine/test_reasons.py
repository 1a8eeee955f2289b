"""reasons.py: the legacy-mode codes, their names, and which of them FPD can suppress."""

from __future__ import annotations

import pytest

from iommu import FaultReason

NAMES = {
    0x01: "LRT.2", 0x02: "LCT.2", 0x03: "LCT.4", 0x04: "LGN.1", 0x05: "LGN.2", 0x06: "LGN.3", 0x07: "LSL.1",
    0x08: "LRT.1", 0x09: "LCT.1", 0x0A: "LRT.3", 0x0B: "LCT.3", 0x0C: "LSL.2", 0x0D: "LCT.5", 0x0E: "LGN.4",
    0x30: "RTA.1", 0x31: "RTA.2",
}  # fmt: skip
QUALIFIED = {0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x0B, 0x0C, 0x0D, 0x0E}


@pytest.mark.parametrize("code", NAMES)
def test_reason(code: int) -> None:
    reason = FaultReason(code)
    assert (reason.condition, reason.qualified) == (NAMES[code], code in QUALIFIED)
    assert reason.meaning
    assert f"{code:#04x}" in str(reason)
