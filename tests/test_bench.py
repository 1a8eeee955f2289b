"""The benchmarks: every measurement gives a figure. No test depends on how large it is."""

import shutil
from pathlib import Path

import pytest

from bench import batch, conformance, crossval, engine, reach
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.probe import find_qemu


def test_every_measurement_gives_a_figure() -> None:
    takers = engine.measurements(cold_pages=200, hits=200, saved=200)
    assert all(take() > 0 for take in takers.values())


def test_every_measurement_of_the_reverse_question_gives_a_figure() -> None:
    assert all(take() > 0 for take in reach.measurements(large=2048, small=600).values())


def test_every_measurement_of_the_conformance_run_gives_a_figure() -> None:
    found = conformance.measure(1, catalogue()[:4], find_qemu())
    assert all(value > 0 for values in found.values() for value in values)


def test_every_way_to_check_cases_gives_a_figure() -> None:
    found = crossval.measure(find_qemu(), "legacy", 1, 0.1)
    assert all(value > 0 for values in found.values() for value in values)


@pytest.mark.skipif(shutil.which("cc") is None, reason="NO C COMPILER: apt-get install gcc")
def test_every_measurement_of_batches_gives_a_figure(tmp_path: Path) -> None:
    """The walker in C and the batch engine agree, which the measurements themselves check."""
    takers = batch.measurements(batch.compiled(str(tmp_path)), requests=20_000, scalar=20)
    assert all(take() > 0 for take in takers.values())
    assert 0 < batch.in_flight(batch.uniform(20_000, 64))
