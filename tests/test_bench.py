"""The benchmark of the engine still measures; how fast that is, is not what tests judge."""

from bench import engine


def test_every_measurement_measures() -> None:
    takers = engine.measurements(cold_pages=200, hits=200)
    assert all(take() > 0 for take in takers.values())
