"""The benchmarks: every measurement gives a figure. No test depends on how large it is."""

from bench import conformance, engine, reach
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
