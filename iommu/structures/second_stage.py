"""Second-stage paging entries (spec 9.8): one layout for entries that point to a table, one for each size of page."""

from iommu.fields import Layout, address, field, flag, ignored


class SecondStageEntry(Layout, bits=64, section="9.8"):
    """The fields that all second-stage entries have."""

    IGN63 = ignored(63, 63)
    IGN61 = ignored(61, 52)
    IGN10 = ignored(10, 10)
    D = flag(9, "dirty; ignored where accessed and dirty are off")
    A = flag(8, "accessed; ignored where accessed and dirty are off")
    IPAT = flag(6, "the first stage's memory type is ignored; ignored in an entry that points to a table")
    EMT = field(5, 3, "memory type; ignored in an entry that points to a table")
    X = flag(2, "execute; ignored where execute is off")
    W = flag(1, "writable")
    R = flag(0, "readable")


class SecondStageTable(SecondStageEntry):
    """An entry that points to the next table: bit 7 (PS) is 0."""

    ADDR = address(51, 12, "next table")


class SecondStagePage(SecondStageEntry):
    """The fields that all entries that map a page have."""

    TM = flag(62, "transient mapping (withdrawn)", needs="device_tlb")
    SNP = flag(11, "snoop", needs="snoop_control")


class SecondStage4KPage(SecondStagePage):
    """A 4 KiB page, level 1."""

    ADDR = address(51, 12, "page")
    IGN7 = ignored(7, 7)


class SecondStage2MPage(SecondStagePage):
    """A 2 MiB page, level 2. PS is reserved without CAP.SSLPS bit 0."""

    ADDR = address(51, 21, "page")
    PS = flag(7, "page size: 1", needs="page_2m")


class SecondStage1GPage(SecondStagePage):
    """A 1 GiB page, level 3. PS is reserved without CAP.SSLPS bit 1."""

    ADDR = address(51, 30, "page")
    PS = flag(7, "page size: 1", needs="page_1g")


SECOND_STAGE_PAGES: dict[int, type[Layout]] = {
    1: SecondStage4KPage,
    2: SecondStage2MPage,
    3: SecondStage1GPage,
}
"""The entries that map a page, by level."""
