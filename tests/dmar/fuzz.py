"""Coverage-guided fuzzing of everything that reads tables, with atheris: `make fuzz-dmar`.

    python -m tests.dmar.fuzz [CORPUS_FOLDER] [-runs=100000] [-seed=1]

It checks what tests/dmar/test_dmar_mutated.py checks: only DmarError is raised, and no byte is lost. The first inputs
are the hand-made tables; libFuzzer's options are passed on.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["iommu"]):
    from iommu.dmar.inputs import find_tables
    from iommu.errors import VtdError
    from tests.dmar.test_dmar_mutated import SEEDS, check


def one(data: bytes) -> None:
    """One input, as a table and as a file."""
    check(data)
    try:
        for source in find_tables(data, "input"):
            check(source.data)
    except VtdError:
        pass


def main() -> None:
    """Run until stopped, or as often as -runs says."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS):
            (Path(folder) / f"{number:03d}").write_bytes(seed)
        atheris.Setup([*sys.argv, folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
