"""Counts over many tables, against counts made from iasl's facts."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from iommu.cli.dmar_survey import page
from iommu.dmar.survey import Row, counts, files_of, survey
from tests.dmar.hand import CORPUS, TABLES, drhd, needs_corpus, table


def rows_of(paths: list[Path], processes: int) -> list[Row]:
    return [row for batch in survey(files_of(paths), processes) for row in batch]


@needs_corpus
@pytest.mark.parametrize("processes", [1, 2])
def test_counts_are_those_of_the_facts(processes: int) -> None:
    counted = counts(rows_of([CORPUS / "tables"], processes))
    facts = [json.loads((CORPUS / "facts" / f"{path.stem}.json").read_text()) for path in TABLES]
    kinds = Counter(kind for fact in facts for kind in {structure["kind"] for structure in fact["structures"]})
    assert counted["structures"] == kinds
    assert counted["widths"] == Counter(f"{fact['header']['host_address_width'] + 1} bits" for fact in facts)
    assert counted["vendors"] == Counter(fact["header"]["oem_id"].strip() or "(none)" for fact in facts)
    assert counted["flags"]["INTR_REMAP"] == sum(fact["header"]["flags"] & 1 for fact in facts)
    assert counted["tables"] == {"read": 168, "files without DMAR": 0, "not read": 0}
    clean = sum(not row.findings for row in rows_of([CORPUS / "tables"], 1))
    assert counted["findings"]["none"] == clean > 0


def test_an_unreadable_file_has_a_row_and_does_not_stop_the_survey(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good").write_bytes(table(drhd(0x1000, flags=1)))
    (tmp_path / "bad").write_bytes(b"nothing of the kind")
    (tmp_path / "deep" / "SSDT").write_bytes(b"SSDT" + (40).to_bytes(4, "little") + bytes(32))
    (tmp_path / "deep" / "dump.txt").write_text("SSDT @ 0x0\n    0000: 53 53 44 54 28 00 00 00\n")
    (tmp_path / "cut").write_bytes(table(drhd(0x1000, flags=1))[:-1])
    rows = {os.path.relpath(row.file, tmp_path): row for row in rows_of([tmp_path], 1)}
    assert rows["bad"].error.startswith("offset 0x0, header.SIGNATURE: not a DMAR")
    assert not rows["deep/good"].error and not rows["cut"].error
    # The header promises one byte more, so does the DRHD, and the bytes left are too few for a DRHD.
    assert rows["cut"].findings["table.damaged"] == 3
    assert counts(list(rows.values()))["tables"] == {"read": 2, "files without DMAR": 2, "not read": 1}


def test_a_page_escapes_texts_from_tables() -> None:
    drawn = page([Row("x", vendor="<b>&", width=39)])
    assert "&lt;b&gt;&amp;" in drawn and "<b>" not in drawn
