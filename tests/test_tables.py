"""tools/tables.py: the tables in the documentation agree with the declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import tables


def test_tables_in_the_documentation_are_current() -> None:
    assert tables.stale_pages(write=False) == [], "run python -m tools.tables"


def test_page_that_differs_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in {home for home, _ in tables.TABLES.values()}:
        text = (tables.DOCS / page).read_text()
        (tmp_path / page).write_text(
            text.replace("| `pass_through` | ECAP.PT (6) | on |", "| `pass_through` | off |")
        )
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    assert tables.main(["--check"]) == 1
    assert tables.stale_pages(write=False) == ["capabilities.md"]
    assert tables.main([]) == 0
    assert tables.main(["--check"]) == 0


def test_page_without_the_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"docs/engine.md has no table 'policy'"):
        tables.with_tables("engine.md", "no mark here")


@pytest.mark.parametrize("row", [
    "| `pass_through` | ECAP.PT (6) | on |  | pass-through translation |",
    "| `nested` | ECAP.NEST (26) | off | `first_stage`, `second_stage` | nested translation |",
    "| `fault_records` | CAP.NFR (47:40) | 1 |  | fault recording registers |",
])  # fmt: skip
def test_row_of_a_capability(row: str) -> None:
    assert row in tables.capabilities().splitlines()


def test_wrong_arguments() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tools.tables", "--wrong"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (2, "usage: python -m tools.tables [--check]\n")
