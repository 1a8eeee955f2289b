"""First-stage paging entries (spec 9.7): x86 long-mode tables of 4 or 5 levels."""

from iommu.fields import Layout, address, flag, ignored


class FirstStageEntry(Layout, bits=64, section="9.7"):
    """The fields that all first-stage entries have."""

    XD = flag(63, "execute disabled")
    IGN62 = ignored(62, 52)
    IGN11 = ignored(11, 11)
    EA = flag(10, "extended accessed")
    IGN9 = ignored(9, 9)
    G = flag(8, "global; ignored in an entry that points to a table")
    D = flag(6, "dirty; ignored in an entry that points to a table")
    A = flag(5, "accessed")
    PCD = flag(4, "memory type")
    PWT = flag(3, "memory type")
    US = flag(2, "user")
    RW = flag(1, "writable")
    P = flag(0, "present")


class FirstStageTable(FirstStageEntry):
    """An entry that points to the next table: bit 7 (PS) is 0."""

    ADDR = address(51, 12, "next table")


class FirstStage4KPage(FirstStageEntry):
    """A 4 KiB page, level 1."""

    ADDR = address(51, 12, "page")
    PAT = flag(7, "memory type")


class FirstStage2MPage(FirstStageEntry):
    """A 2 MiB page, level 2."""

    ADDR = address(51, 21, "page")
    PAT = flag(12, "memory type")
    PS = flag(7, "page size: 1")


class FirstStage1GPage(FirstStageEntry):
    """A 1 GiB page, level 3. PS is reserved without CAP.FS1GP."""

    ADDR = address(51, 30, "page")
    PAT = flag(12, "memory type")
    PS = flag(7, "page size: 1", needs="first_stage_1g")


FIRST_STAGE_PAGES: dict[int, type[Layout]] = {1: FirstStage4KPage, 2: FirstStage2MPage, 3: FirstStage1GPage}
"""The entries that map a page, by level."""
