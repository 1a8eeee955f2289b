import pytest
from toy_driver import Driver

from iommu import Access, Capabilities, FaultReason, Interrupt, InterruptRequest, SourceId
from iommu.testing import assert_clean, blocked_by, delivers, reaches

NIC, DISK = SourceId(0, 4, 0), SourceId(3, 0, 1)
UNITS = {
    "small": Capabilities(address_width=39, host_address_width=39, page_selective=False, fault_records=8),
    "virtual": Capabilities(caching_mode=True, fault_records=8),
    "Skylake-SP": Capabilities.preset("skylake-sp"),
}
pytestmark = pytest.mark.parametrize("vtd_capabilities", UNITS.values(), ids=UNITS)


@pytest.fixture
def driver(vtd_registers, vtd_memory):
    driver = Driver(vtd_registers, vtd_memory, free=0x10_0000)
    driver.start()
    return driver


def test_map(driver, vtd_unit, vtd_device):
    nic = vtd_device(NIC)
    assert nic.dma(0x5010, Access.WRITE) == blocked_by(FaultReason.LRT_2)
    driver.map(NIC, 0x5000, 0x9000)
    assert nic.dma(0x5010, Access.READ) == reaches(0x9010)
    assert nic.dma(0x6000, Access.READ) == blocked_by(FaultReason.LGN_3)
    driver.map(NIC, 0x6000, 0xA000, writable=False)
    assert nic.dma(0x6000, Access.READ) == reaches(0xA000)
    assert nic.dma(0x6000, Access.WRITE) == blocked_by(FaultReason.LGN_2)
    assert_clean(vtd_unit, faults=[FaultReason.LRT_2, FaultReason.LGN_3, FaultReason.LGN_2])


def test_unmap(driver, vtd_unit, vtd_device):
    driver.map(DISK, 0x7000, 0xA000)
    driver.map(NIC, 0x5000, 0x9000)
    driver.map(NIC, 0x6000, 0xB000)
    assert vtd_device(NIC).dma(0x6000, Access.WRITE) == reaches(0xB000)
    driver.unmap(NIC, 0x6000)
    assert vtd_device(NIC).dma(0x6000, Access.WRITE) == blocked_by(FaultReason.LGN_2)
    assert vtd_device(NIC).dma(0x5000, Access.WRITE) == reaches(0x9000)
    assert_clean(vtd_unit, faults=[FaultReason.LGN_2])


def test_interrupt(driver, vtd_unit):
    address, data = driver.set_interrupt(5, NIC, vector=0x41, destination=2)
    assert vtd_unit.remap_interrupt(InterruptRequest(NIC, address, data)) == delivers(Interrupt(0x41, 2))
    assert vtd_unit.remap_interrupt(InterruptRequest(DISK, address, data)) == blocked_by(FaultReason.IR_26)
    assert_clean(vtd_unit, faults=[FaultReason.IR_26])
