"""bench/engine.py: every measurement gives a figure. No test depends on how large it is."""

from bench import engine


def test_every_measurement_gives_a_figure() -> None:
    takers = engine.measurements(cold_pages=200, hits=200)
    assert all(take() > 0 for take in takers.values())
