"""explain: logs as kernels print them, fault records, single reasons; advice for every reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import FaultReason, MisuseError, SourceId
from iommu.explain import ADVICE, explain, from_record
from tests import command
from tests.growth import MOST, growth

# Lines that follow the format strings of Linux and Xen, with device f0:1f.3 (Linux: drivers/iommu/intel/dmar.c and
# its predecessors; Xen: drivers/passthrough/vtd/iommu.c).
OLD = (
    "[    3.1] DMAR:[DMA Write] Request device [f0:1f.3] fault addr 7ff000 \n"
    "[    3.1] DMAR:[fault reason 05] PTE Write access is not set\n"
)
OLD_INTERRUPT = (
    "INTR-REMAP: Request device [[f0:1f.3] fault index 1a\n"
    "INTR-REMAP:[fault reason 38] Blocked an interrupt request due to source-id verification failure\n"
)
ONE_LINE = "DMAR: [DMA Read] Request device [f0:1f.3] fault addr 7ff000 [fault reason 06] PTE Read access is not set"
PASID_NONE = "DMAR: [DMA Read] Request device [f0:1f.3] PASID ffffffff fault addr 7ff000 [fault reason 02] Present"
PASID_OLD = "DMAR: [DMA Read] Request device [f0:1f.3] PASID 1a fault addr 7ff000 [fault reason 113] SM: Present bit"
PREFIXED = "DMAR: [DMA Write NO_PASID] Request device [0xf0:0x1f.3] fault addr 0x7ff000 [fault reason 0x0c] non-zero"
NOW = (
    "DMAR: [DMA Write NO_PASID] Request device [f0:1f.3] fault addr 0x7ff000 [fault reason 0x79] SM: Read/Write perm"
)
NOW_PASID = (
    "DMAR: [DMA Read PASID 0x1a] Request device [f0:1f.3] fault addr 0x7ff000 [fault reason 0x71] SM: Present bit"
)
INTERRUPT = "DMAR: [INTR-REMAP] Request device [f0:1f.3] fault index 0x1a [fault reason 0x26] Blocked an interrupt"
INTERRUPT_DECIMAL = (
    "DMAR: [INTR-REMAP] Request device [f0:1f.3] fault index 1a [fault reason 38] Blocked an interrupt"
)
XEN = (
    "(XEN) [VT-D]DMAR:[DMA Write] Request device [0000:f0:1f.3] fault addr 7ff000\n"
    "(XEN) [VT-D]DMAR: reason 0c - non-zero reserved fields in PTE\n"
)
XEN_INTERRUPT = (
    "(XEN) [VT-D]INTR-REMAP: Request device [0000:f0:1f.3] fault index 1a\n"
    "(XEN) [VT-D]INTR-REMAP: reason 25 - Blocked a compatibility format interrupt request\n"
)
DEVICE = SourceId(0xF0, 0x1F, 3)


@pytest.mark.parametrize(
    ("text", "code", "kind", "pasid"),
    [
        (OLD, 0x05, "write", None),
        (ONE_LINE, 0x06, "read", None),
        (PASID_NONE, 0x02, "read", None),
        (PASID_OLD, 0x71, "read", 0x1A),
        (PREFIXED, 0x0C, "write", None),
        (NOW, 0x79, "write", None),
        (NOW_PASID, 0x71, "read", 0x1A),
        (XEN, 0x0C, "write", None),
    ],
)
def test_dma_lines_of_every_version(text: str, code: int, kind: str, pasid: int | None) -> None:
    (found,) = explain(text)
    report = found.report
    assert (report.code, report.kind, report.pasid) == (code, kind, pasid)
    assert (report.source_id, report.address, report.index) == (DEVICE, 0x7FF000, None)
    assert found.reason is not None and found.reason.value == code


@pytest.mark.parametrize(
    ("text", "code"),
    [(OLD_INTERRUPT, 0x26), (INTERRUPT, 0x26), (INTERRUPT_DECIMAL, 0x26), (XEN_INTERRUPT, 0x25)],
)
def test_interrupt_lines_of_every_version(text: str, code: int) -> None:
    (found,) = explain(text)
    report = found.report
    assert (report.code, report.kind, report.source_id) == (code, "interrupt", DEVICE)
    assert (report.index, report.address) == (0x1A, None)


def test_interrupt_faults_that_linux_prints_as_dma() -> None:
    """Its table of interrupt reasons ends at 0x26; later ones are printed as DMA, with the index in bits 63:48."""
    (found,) = explain(NOW.replace("0x79", "0x27").replace("0x7ff000", "0x1a000000000000"))
    assert (found.report.kind, found.report.index, found.report.address) == ("interrupt", 0x1A, None)


def test_faults_of_a_log_are_grouped_in_its_order() -> None:
    second = ONE_LINE.replace("7ff000", "7fe000")
    log = "\n".join(["e1000: link is up", ONE_LINE, NOW, "DMAR: Drhd base: 0xfed90000", second, ONE_LINE])
    first, other = explain(log)
    assert (first.report.code, first.count, first.first, first.last) == (0x06, 3, 0x7FE000, 0x7FF000)
    assert (other.report.code, other.count) == (0x79, 1)


def test_line_without_its_reason_is_skipped() -> None:
    assert explain(OLD.splitlines()[0] + "\nsomething else\n") == []
    assert explain(OLD.splitlines()[1]) == []
    assert explain(NOW.replace("0x79", "999")) == []
    (found,) = explain(OLD.splitlines()[0] + "\n" + NOW)
    assert found.report.code == 0x79


# Fault records (spec 11.4.7.6), bit by bit.

HIGH = 1 << 63 | DEVICE


@pytest.mark.parametrize(
    ("bits", "kind"),
    [(0, "write"), (1 << 62, "read"), (1 << 28, "page request"), (1 << 62 | 1 << 28, "atomic")],
)
def test_record(bits: int, kind: str) -> None:
    report = from_record((HIGH | bits | 0x05 << 32) << 64 | 0x7FF000)
    assert (report.code, report.kind, report.source_id, report.address) == (0x05, kind, DEVICE, 0x7FF000)
    assert (report.pasid, report.address_type) == (None, 0)


def test_record_with_a_pasid() -> None:
    report = from_record((HIGH | 1 << 62 | 2 << 60 | 0x12345 << 40 | 0x71 << 32 | 7 << 29) << 64 | 0x7FF000)
    assert (report.pasid, report.execute, report.privileged, report.address_type) == (0x12345, True, True, 2)


def test_record_of_an_interrupt() -> None:
    report = from_record((HIGH | 0x26 << 32) << 64 | 0x1A << 48)
    assert (report.index, report.address, report.kind) == (0x1A, None, "interrupt")


def test_notations_of_a_record() -> None:
    low, high = 0x7FF000, HIGH | 0x05 << 32
    whole = f"{high << 64 | low:#034x}"
    for text in (
        whole,
        whole[2:],
        f"{low:#018x} {high:#018x}",
        f"{high:#018x} {low:#018x}",
        f"{low:016x},{high:016x}",
        f"00000000fed90220: {low:#018x} {high:#018x}\n00000000fed90230: {0:#018x} {0:#018x}",
    ):
        (found,) = explain(text)
        assert (found.report.code, found.report.address, found.report.source_id) == (0x05, 0x7FF000, DEVICE)


@pytest.mark.parametrize("raw", [0, 1 << 126, (1 << 63 | 3 << 60 | 5 << 32) << 64, -1, 1 << 128])
def test_record_without_a_fault(raw: int) -> None:
    with pytest.raises(MisuseError):
        from_record(raw)


# Single reasons.


@pytest.mark.parametrize(
    ("text", "code"),
    [("0x05", 5), ("5", 5), ("05", 5), ("38", 0x26), ("0x26", 0x26), ("LGN.2", 5), ("lgn_2", 5), ("SFS.10", 0x91)],
)
def test_single_reason(text: str, code: int) -> None:
    (found,) = explain(text)
    assert found.reason is FaultReason(code)


@pytest.mark.parametrize("text", ["256", "LGN.9", "XY.1"])
def test_text_that_is_not_a_reason(text: str) -> None:
    with pytest.raises(MisuseError):
        explain(text)


@pytest.mark.parametrize("code", [0x35, 0x88, 0xA0, 0xFF])
def test_code_without_a_public_meaning(code: int) -> None:
    (found,) = explain(hex(code))
    assert (found.report.code, found.reason, found.advice) == (code, None, None)


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == set(FaultReason)
    for advice in ADVICE.values():
        assert advice.means.endswith(".")
        assert advice.look and all(advice.look)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (0, "address 0"),
        (0xFEE00000, "interrupt messages"),
        (0xFFFF888000001000, "kernel's virtual"),
        (0x888000001000, "kernel's virtual"),
        (0xFFFFE000, "below 4 GiB"),
    ],
)
def test_what_the_address_suggests(address: int, said: str) -> None:
    (found,) = explain(ONE_LINE.replace("7ff000", f"{address:x}"))
    assert said in found.guesses[0]
    assert explain(ONE_LINE)[0].guesses == ()


PIECES = [
    *("DMAR:", "[DMA Write]", "[INTR-REMAP]", "Request device", "[00:1f.2]", "[[f0:ff.9]", "PASID ffffffffffff"),
    *("fault addr", "fault index", "0x", "9" * 30, "f" * 40, "[fault reason 999]", ": reason 05 - "),
]


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(PIECES),
        max_size=14,
    ).map(" ".join)
)
def test_any_text_is_explained_or_rejected(text: str) -> None:
    try:
        found = explain(text)
    except MisuseError:
        return
    for each in found:
        assert 0 <= each.report.code <= 0xFF
        assert each.report.address is None or 0 <= each.report.address < 1 << 64


# The command.


def vtd(*arguments: str, stdin: bytes = b"") -> CompletedProcess[bytes]:
    return command.vtd("explain", *arguments, stdin=stdin)


def test_command_reads_arguments_files_and_standard_input(tmp_path: Path) -> None:
    log = tmp_path / "dmesg.txt"
    log.write_text(f"noise\nDMAR: DRHD: handling fault status reg 3\n{NOW}\n")
    for done in (vtd(NOW), vtd(str(log)), vtd("-", stdin=log.read_bytes())):
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"f0:1f.3  DMA write, address 0x7ff000" in done.stdout
        assert b"0x79  SSS.2" in done.stdout
    assert b"faults were lost" in vtd(str(log)).stdout


def test_command_as_json() -> None:
    (found,) = json.loads(vtd("--json", NOW_PASID).stdout)
    assert (found["code"], found["condition"], found["source_id"], found["pasid"]) == (0x71, "SFS.2", "f0:1f.3", 0x1A)
    assert json.loads(vtd("--json", "-", stdin=b"nothing here\n").stdout) == []


def test_a_log_without_faults_is_fine() -> None:
    done = vtd("-", stdin=b"one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, b"no VT-d fault in 2 lines\n")


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["nonsense"], b""),
        (["0x100000000"], b""),
        (["-"], b""),
        (["-"], b"\x7fELF\0\0"),
        (["/nowhere/dmesg"], b""),
        (["."], b""),
        (["x" * 5000], b""),
        (["\x1b[31m"], b""),
        (["0x00000000000000000000000000000001"], b""),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], stdin: bytes) -> None:
    done = vtd(*arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"vtd: ")
    assert b"\x1b" not in done.stderr


LINE = "DMAR: [DMA Write PASID {0:#x}] Request device [00:1f.2] fault addr {0:#x}000 [fault reason 0x05] PTE Write"


@pytest.mark.parametrize(
    "log",
    [
        lambda count: "\n".join(LINE.format(number) for number in range(count)),
        lambda count: LINE.format(1) * count,
        lambda count: "[DMA Write] Request device [" * count,
        lambda count: "[fault reason " * count + "1" * count,
        lambda count: "1" + " " * 50 * count + "x",
    ],
    ids=["lines", "one line", "beginnings", "reasons", "spaces"],
)
def test_a_long_log_costs_no_more_than_its_length(log: Callable[[int], str]) -> None:
    assert growth(log, explain, 1500) < MOST


def test_a_reason_of_thousands_of_digits_is_none() -> None:
    for digits in ("9" * 5000, "0x" + "9" * 5000):
        assert explain(LINE.format(1).replace("0x05", digits)) == []
