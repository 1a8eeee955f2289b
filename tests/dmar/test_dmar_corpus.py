"""Every table of a real machine: we read what iasl reads, and build the same bytes again."""

import json
from pathlib import Path

import pytest

from iommu.dmar import Dmar
from tests.dmar.hand import CORPUS, TABLES, facts_of, needs_corpus

pytestmark = needs_corpus
each_table = pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])


def test_the_corpus_is_complete() -> None:
    machines = json.loads((CORPUS / "machines.json").read_text())
    assert {path.stem for path in TABLES} == set(machines)
    assert len(TABLES) == 168


@each_table
def test_content_agrees_with_iasl(path: Path) -> None:
    assert Dmar.parse(path.read_bytes()).to_dict() == facts_of(path)


@each_table
def test_building_gives_back_every_byte(path: Path) -> None:
    data = path.read_bytes()
    table = Dmar.parse(data)
    assert table.build() == data
    assert table.nbytes == len(data)


@each_table
def test_iasls_facts_build_the_table(path: Path) -> None:
    assert Dmar.from_dict(facts_of(path)).build() == path.read_bytes()


@each_table
def test_lengths_and_checksum_are_filled_in(path: Path) -> None:
    facts = facts_of(path)
    for key in ("length", "checksum"):
        del facts["header"][key]
    for structure in facts["structures"]:
        if structure["kind"] != "ANDD":  # its length says how much padding follows the name
            del structure["length"]
        for scope in structure.get("scopes", []):
            del scope["length"]
    assert Dmar.from_dict(facts).build() == path.read_bytes()
