"""What the fuzzer keeps is read again: inputs that once did harm, one of each form of refusal, the first of a run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.fuzz import commands, mutations, readers
from tests.fuzz.findings import FINDINGS, NONSENSE
from tests.fuzz.run import batch, kept, one
from tests.fuzz.way import Way

READERS = {way.name: way for way in readers.WAYS}
_FIRST = 20
_FIRST_OF_COMMANDS = 4
_TRIES = 3
"""A second of the processor is little on a machine that is busy: the quickest try counts."""


@pytest.mark.parametrize("name", FINDINGS)
def test_what_once_did_harm(name: str, tmp_path: Path) -> None:
    way, make = FINDINGS[name]
    data = make()
    for _ in range(_TRIES):
        _, wrong = one(READERS[way], data, tmp_path / "input")
        if not wrong:
            break
    assert not wrong


@pytest.mark.parametrize("way", [way for way in readers.WAYS if way.change is not mutations.folder], ids=str)
def test_nonsense(way: Way, tmp_path: Path) -> None:
    for name, data in NONSENSE.items():
        _, wrong = one(way, data, tmp_path / "input")
        assert not wrong, name


@pytest.mark.parametrize("way", readers.WAYS, ids=READERS)
def test_kept_inputs(way: Way, tmp_path: Path) -> None:
    with zipfile.ZipFile(kept(way)) as archive:
        assert archive.namelist()
        for name in archive.namelist():
            _, wrong = one(way, archive.read(name), tmp_path / "input")
            assert not wrong, name


@pytest.mark.parametrize("way", [*readers.WAYS, *commands.WAYS], ids=lambda way: way.name)
def test_the_first_of_a_run(way: Way) -> None:
    result = batch(way, 1, 0, _FIRST_OF_COMMANDS if way in commands.WAYS else _FIRST)
    assert not result.findings
