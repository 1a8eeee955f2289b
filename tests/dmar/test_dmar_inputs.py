"""A table is read from files of every form; anything else is refused in one line."""

import gzip
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu.dmar.inputs import Source, find_tables, read_table, read_tables
from iommu.errors import InputError, VtdError
from tests.dmar.hand import drhd, rmrr, scope, table

DMAR = table(
    drhd(0xFED90000, scope(3, 0xF0, (31, 0), number=2), flags=1), rmrr(0x7B000000, 0x7F7FFFFF, scope(1, 0, (2, 0)))
)
OTHER = table(drhd(0xFED91000, flags=1))


def acpi(signature: bytes, body: bytes) -> bytes:
    """Another ACPI table."""
    return signature + struct.pack("<IBB", 36 + len(body), 1, 0) + b"VTDLABHANDMADE" + bytes(12) + body


def dumped(data: bytes, ending: str) -> str:
    """Hex as acpidump and iasl print it; `ending` comes before the characters."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"    {at:04X}: {' '.join(f'{byte:02X}' for byte in row):<47}{ending}{shown}")
    return "\n".join(lines) + "\n"


def plain_dump(data: bytes) -> str:
    return "".join(f"{at:08x}: {data[at : at + 16].hex(' ', 2)}\n" for at in range(0, len(data), 16))


FACP = acpi(b"FACP", b"DMAR" * 20)
ACPIDUMP = (
    f"FACP @ 0x0000000078FE0000\n{dumped(FACP, '  ')}\nDMAR @ 0x0000000078FD0000\n{dumped(DMAR, '  ')}\n"
    f"MCFG @ 0x0000000078FC0000\n{dumped(acpi(b'MCFG', bytes(24)), '  ')}\n"
)
# No time of day in a gzip: one of them is in the name of a test, which every worker must know by the same name.
FORMS = {
    "raw": DMAR,
    "gzip": gzip.compress(DMAR, mtime=0),
    "tables in a row": FACP + DMAR + acpi(b"MCFG", bytes(24)),
    "acpidump": ACPIDUMP.encode(),
    "acpidump of the one table": f"DMAR @ 0x0000000000000000\n{dumped(DMAR, '  ')}\n".encode(),
    "acpidump, CRLF": ACPIDUMP.replace("\n", "\r\n").encode(),
    "acpidump, gzip": gzip.compress(ACPIDUMP.encode(), mtime=0),
    "hex alone": dumped(DMAR, "  ").encode(),
    "iasl -d": f'/* Intel */\n[000h] Signature : "DMAR"\n\nRaw Table Data:\n\n{dumped(DMAR, "  // ")}'.encode(),
    "xxd": plain_dump(DMAR).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes(form: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(FORMS[form])
    assert read_table(path) == DMAR


def test_names_say_where_in_the_file_a_table_was() -> None:
    (found,) = find_tables(ACPIDUMP.encode(), "dump.txt")
    assert found == Source("dump.txt: DMAR @ 0x0000000078FD0000", DMAR)
    assert [source.name for source in find_tables(DMAR + OTHER, "row")] == ["row+0x0", f"row+{len(DMAR):#x}"]


def test_a_folder_of_tables(tmp_path: Path) -> None:
    (tmp_path / "FACP").write_bytes(FACP)
    (tmp_path / "DMAR").write_bytes(DMAR)
    (tmp_path / "copy").write_bytes(DMAR)
    (tmp_path / "data").mkdir()
    assert read_table(tmp_path) == DMAR
    (tmp_path / "second").write_bytes(OTHER)
    with pytest.raises(InputError, match="2 different DMARs"):
        read_table(tmp_path)
    assert {source.data for source in read_tables(tmp_path)} == {DMAR, OTHER}


def memory(*, extended: bool, base: int = 0, spoil: bool = False) -> bytes:
    """128 KiB of physical memory that begins at `base`, with an RSDP, a root table, a FACP and the DMAR."""
    image = bytearray(1 << 17)
    image[0x8000 : 0x8000 + len(FACP)] = FACP
    image[0x9000 : 0x9000 + len(DMAR)] = DMAR
    pointers = struct.pack("<QQ" if extended else "<II", base + 0x8000, base + 0x9000)
    root = acpi(b"XSDT" if extended else b"RSDT", pointers)
    image[0xA000 : 0xA000 + len(root)] = root
    rsdt, xsdt = (0, base + 0xA000) if extended else (base + 0xA000, 0)
    rsdp = bytearray(b"RSD PTR \0VTDLAB" + struct.pack("<BIIQ", 2 if extended else 0, rsdt, 36, xsdt) + bytes(4))
    rsdp[8] = (-sum(rsdp[:20]) + spoil) & 0xFF
    image[0xE0010 % len(image) : 0xE0010 % len(image) + len(rsdp)] = rsdp
    return bytes(image)


@pytest.mark.parametrize("extended", [True, False])
def test_an_image_of_physical_memory(extended: bool, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(memory(extended=extended))
    assert read_table(path) == DMAR
    (found,) = read_tables(path)
    assert found.name == f"{path}@0x9000"


def elf(wide: bool, parts: list[tuple[int, bytes]]) -> bytes:
    """A core file with these (physical address, bytes)."""
    head, each = (64, 56) if wide else (52, 32)
    offset = head + each * (len(parts) + 1)
    table = struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0) if wide else struct.pack("<8I", 4, *[0] * 7)
    body = b""
    for address, data in parts:
        begins, size = offset + len(body), len(data)
        table += (
            struct.pack("<IIQQQQQQ", 1, 0, begins, 0, address, size, size, 0)
            if wide
            else struct.pack("<8I", 1, begins, 0, address, size, size, 0, 0)
        )
        body += data
    start = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9) + struct.pack("<HHI", 4, 62 if wide else 3, 1)
    start += struct.pack("<QQQ" if wide else "<III", 0, head, 0)
    start += struct.pack("<IHHHHHH", 0, head, each, len(parts) + 1, 0, 0, 0)
    return start + table + body


@pytest.mark.parametrize("wide", [True, False])
def test_an_elf_core(wide: bool, tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf(wide, [(0, b"low memory"), (0x70000000, memory(extended=wide, base=0x70000000))]))
    assert read_table(path) == DMAR


def test_tables_above_4_gib_are_reached_by_the_xsdt(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf(True, [(0x1_4000_0000, memory(extended=True, base=0x1_4000_0000))]))
    (found,) = read_tables(path)
    assert found == Source(f"{path}@0x140009000", DMAR)


def test_after_a_missing_line_nothing_is_shifted() -> None:
    lines = dumped(DMAR, "  ").splitlines()
    (found,) = find_tables("\n".join(lines[:2] + lines[3:]).encode(), "gap")
    assert found.data == DMAR[:32]


def test_an_rsdp_with_a_wrong_checksum_leads_nowhere() -> None:
    assert list(find_tables(memory(extended=True, spoil=True), "memory")) == []


def test_a_large_image_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(memory(extended=True) + bytes(20 << 20))
    assert read_table(path) == DMAR


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(DMAR, mtime=0)[:-9], "damaged gzip"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
)
def test_damage_is_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_table(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "missing")
    with pytest.raises(InputError, match="no DMAR in any of its 0 files"):
        read_table(tmp_path)


@given(st.one_of(st.binary(max_size=300), st.text("0123456789ABCDEF: \nDMAR@x", max_size=400).map(str.encode)))
def test_nonsense_raises_only_our_errors(data: bytes) -> None:
    for prefix in (b"", b"\x1f\x8b", b"\x7fELF\x02", b"DMAR", DMAR):
        try:
            found = list(find_tables(prefix + data, "x"))
        except VtdError:
            continue
        assert all(source.data[:4] == b"DMAR" for source in found)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="no iasl")
def test_the_real_output_of_iasl(tmp_path: Path) -> None:
    (tmp_path / "table.dat").write_bytes(DMAR)
    subprocess.run(["iasl", "-d", "table.dat"], cwd=tmp_path, check=True, capture_output=True)
    assert read_table(tmp_path / "table.dsl") == DMAR


@pytest.mark.skipif(shutil.which("acpidump") is None, reason="no acpidump")
def test_the_real_output_of_acpidump(tmp_path: Path) -> None:
    (tmp_path / "table.dat").write_bytes(DMAR)
    done = subprocess.run(["acpidump", "-f", "table.dat"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "dump.txt").write_bytes(done.stdout)
    assert read_table(tmp_path / "dump.txt") == DMAR
