"""A trace on a Dask cluster of two workers, one of which dies in the middle: the same results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommu.batch.trace_dask import on_cluster
from iommu.batch.trace_replay import Run, replay_trace
from iommu.batch.trace_results import writer_to
from iommu.snapshot import Snapshot

pytest.importorskip("distributed", reason="distributed is not installed")

CARELESS = Path(__file__).parents[2] / "fixtures" / "snapshots" / "careless.vtd"
ROWS = 12 << 16


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its two workers."""
    place = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
                *("--no-dashboard", "--scheduler-file", place),
            ],
            **quiet,  # type: ignore[call-overload]
        )
    ]
    try:
        for _ in range(2):
            command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", place, "--no-nanny"]
            more = ["--nthreads", "1", "--no-dashboard", "--local-directory", tmp_path, "--host", "127.0.0.1"]
            started.append(subprocess.Popen([*command, *more], **quiet))  # type: ignore[call-overload]
        from distributed import Client

        with Client(scheduler_file=str(place), timeout=120, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(2, timeout=120)
            address = client.scheduler.address
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def trace(folder: Path) -> Path:
    lines = [f"00:0{4 + n % 4}.0,{0x10_0000 + 0x100 * (n % 200):#x},{n % 2}\n" for n in range(ROWS)]
    (folder / "trace.csv").write_text("source_id,address,write\n" + "".join(lines))
    return folder / "trace.csv"


def replayed(path: Path, out: Path, run: Run | None, progress: object = lambda _: None) -> bytes:
    unit = Snapshot.open(CARELESS).units[0].unit_without_caches()
    more = {} if run is None else {"run": run}
    with writer_to(out, resume=False) as writer:
        replay_trace(path, writer, lambda _: unit, progress=progress, **more)  # type: ignore[arg-type]
    return out.read_bytes()


@pytest.mark.slow
def test_a_worker_dies_in_the_middle(cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path) -> None:
    address, workers = cluster
    path = trace(tmp_path)
    seen: list[float] = []

    def progress(done: float) -> None:
        seen.append(done)
        if len(seen) == 2:
            os.kill(workers[0].pid, signal.SIGKILL)
            workers[0].wait()

    begin = time.monotonic()
    with on_cluster(address) as run:
        found = replayed(path, tmp_path / "cluster.csv", run, progress)
    assert found == replayed(path, tmp_path / "here.csv", None)
    assert found.count(b"\n") == ROWS + 1
    assert workers[0].poll() is not None and workers[1].poll() is None
    assert time.monotonic() - begin < 300
