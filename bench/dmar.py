"""How fast DMARs are parsed, compared in one run: by vtdlab to typed objects, by Construct, by chipsec to strings.

    python bench/dmar.py [FOLDER]      FOLDER contains *.dmar; default: the corpus, or else a made-up table

chipsec takes part if it can be imported (pip install chipsec, or its source folder on PYTHONPATH). A survey of many
files is timed too.
"""

import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iommu.dmar import DeviceScope, Dmar, Drhd
from iommu.dmar.reader import construct_decoders
from iommu.dmar.survey import files_of, survey

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(os.environ.get("VTDLAB_CORPUS", ROOT.parent / "shared" / "dmar-corpus"))
SECONDS, ROUNDS, FILES = 0.3, 5, 10_000


def tables_in(folder: Path) -> list[bytes]:
    """The tables in a folder; if there are none, a made-up one of average size."""
    found = [path.read_bytes() for path in sorted(folder.glob("*.dmar"))]
    scopes = [DeviceScope(1, path=((device, 0),)) for device in range(6)]
    return found or [Dmar(structures=[Drhd(base=0x1000, scopes=scopes), Drhd(base=0x2000, flags=1)]).build()]


def rates(readers: list[Callable[[bytes], object]], tables: list[bytes]) -> list[float]:
    """Tables per second of each reader: the best of several rounds, since other work can only slow a round down.

    The readers take turns, so that all of them run under the same load.
    """
    best = [0.0] * len(readers)
    for _ in range(ROUNDS):
        for number, read in enumerate(readers):
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < SECONDS:
                for data in tables:
                    read(data)
                count += len(tables)
            best[number] = max(best[number], count / spent)
    return best


def chipsec_reader() -> Callable[[bytes], object] | None:
    """A function with which chipsec turns the bytes of a table into text; None if chipsec is not installed."""
    try:
        module: Any = importlib.import_module("chipsec.hal.acpi_tables")
    except ImportError:
        with contextlib.suppress(ImportError):
            module = importlib.import_module("chipsec.hal.common.acpi_tables")
            return lambda data: _chipsec(module, data)
        return None
    return lambda data: _chipsec(module, data)


def _chipsec(module: Any, data: bytes) -> str:
    table = module.DMAR()
    table.parse(data[36:])
    return str(table)


def survey_seconds(tables: list[bytes]) -> float:
    """Seconds for a survey of FILES files, including lint."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            (Path(folder) / f"{number:05d}.dmar").write_bytes(tables[number % len(tables)])
        start = time.perf_counter()
        rows = sum(len(batch) for batch in survey(files_of([Path(folder)])))
        assert rows == FILES
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    tables = tables_in(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS / "tables")
    decoders = construct_decoders()
    print(f"{len(tables)} tables, {sum(map(len, tables))} bytes; the best of {ROUNDS} rounds of {SECONDS} s")
    readers: list[Callable[[bytes], object]] = [
        Dmar.parse,
        lambda data: Dmar.parse(data, decoders=decoders),
        lambda data: Dmar.parse(data).lint(),
    ]
    chipsec = chipsec_reader()
    ours, slow, linted, *theirs = rates([*readers, chipsec] if chipsec else readers, tables)
    print(f"  vtdlab, typed objects     {ours:10.0f} tables/s")
    print(f"  Construct, the same       {slow:10.0f} tables/s   generated decoder : Construct = {ours / slow:.1f}")
    print(f"  vtdlab, with lint         {linted:10.0f} tables/s")
    for rate in theirs:
        print(f"  chipsec, strings          {rate:10.0f} tables/s   vtdlab : chipsec = {ours / rate:.2f}")
    if not theirs:
        print("  chipsec                  not installed, so not compared")
    print(f"  survey of {FILES} files    {survey_seconds(tables):10.2f} s on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
