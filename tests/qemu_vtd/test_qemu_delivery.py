"""What the unit passes on has to reach the local APICs, and nothing else may: seen in QEMU's trace."""

import pytest

from iommu import Message, VtdError
from qemu.vtd.qemu_platform import QemuPlatform
from qemu.vtd.topology import PLAIN

REMAPPED = "vtd_ir_remap_msi (addr 0xfee00030, data 0x0) -> (addr 0xfee03004, data 0xc155)"
OWN = "vtd_irq_generate addr 0xfee01000 data 0x31"
DELIVERED = "apic_deliver_irq dest 3 dest_mode 1 delivery_mode 1 vector 85 trigger_mode 1"
OWN_DELIVERED = "apic_deliver_irq dest 1 dest_mode 0 delivery_mode 0 vector 49 trigger_mode 0"


class Traced:
    """Stands for a machine: it has a trace, and nothing else that counts."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self.ram = self

    def reset(self) -> None: ...

    def clear(self) -> None: ...

    def trace_lines(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


def platform(*lines: str) -> QemuPlatform:
    made = QemuPlatform.__new__(QemuPlatform)
    vars(made).update(
        name="QEMU 0.0.0", machine=Traced(list(lines)), _remapped=[], _own=[], _pending=[], _keep_trace=False
    )
    vars(made).update(topology=PLAIN, _slots_used=0)
    return made


def test_messages_that_arrive_are_those_that_were_sent() -> None:
    traced = platform(REMAPPED, DELIVERED, OWN, OWN_DELIVERED)
    assert traced.messages() == [Message(0xFEE0_1000, 0x31)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([REMAPPED], "the local APICs got nothing"),
        ([OWN, REMAPPED, DELIVERED], "sent 0xfee01000 0x31, and the local APICs got nothing"),
        ([REMAPPED, DELIVERED.replace("dest 3", "dest 2")], r"got \(2, 1, 1, 85, 1\)"),
        ([REMAPPED, DELIVERED.replace("dest_mode 1", "dest_mode 0")], r"got \(3, 0, 1, 85, 1\)"),
        ([REMAPPED, DELIVERED.replace("delivery_mode 1", "delivery_mode 0")], r"got \(3, 1, 0, 85, 1\)"),
        ([REMAPPED, DELIVERED.replace("vector 85", "vector 84")], r"got \(3, 1, 1, 84, 1\)"),
        ([REMAPPED, DELIVERED.replace("trigger_mode 1", "trigger_mode 0")], r"got \(3, 1, 1, 85, 0\)"),
        ([DELIVERED], "an interrupt that the unit has not passed on"),
        ([REMAPPED, DELIVERED, DELIVERED], "an interrupt that the unit has not passed on"),
    ],
)
def test_a_message_that_is_lost_or_changed_is_an_error(lines: list[str], said: str) -> None:
    with pytest.raises(VtdError, match=said):
        platform(*lines).messages()


def test_it_is_an_error_of_the_scenario_that_did_not_look_at_its_messages() -> None:
    with pytest.raises(VtdError, match="the local APICs got nothing"):
        platform(OWN).settle()


def test_a_message_that_was_lost_is_no_error_of_the_next_scenario() -> None:
    traced = platform(OWN)
    traced.reset()
    traced.settle()
    assert traced.messages() == []
