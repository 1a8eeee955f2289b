"""A trace on a Dask cluster: each worker has the units, and gets chunks of rows. An extra: distributed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from iommu.batch.trace_replay import Answer, Part, Router, Run, answer
from iommu.batch.trace_rows import Rows
from iommu.errors import MisuseError

_PER_THREAD = 2
_ATTEMPTS = 4
_SECONDS = 10


@contextmanager
def on_cluster(address: str) -> Iterator[Run]:
    """A Run on the cluster whose scheduler is at an address: "tcp://host:8786".

    The chunks of a worker that dies are given to another one. No more are under way than keep the workers busy.

    Raises MisuseError if no scheduler answers at that address, or distributed is not installed.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise MisuseError("--dask needs distributed: pip install 'vtdlab[dask]'") from None
    try:
        client: Any = distributed.Client(address, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise MisuseError(f"--dask {address}: {' '.join(str(error).split())}") from None
    try:
        yield _Cluster(client, address).run
    finally:
        client.close()


class _Cluster:
    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._units: dict[int, Any] = {}

    def run(
        self, router: Router, chunks: Iterator[tuple[Rows, list[Part]]]
    ) -> Iterator[tuple[Rows, list[Part], list[Answer]]]:
        """See Run."""
        waiting: deque[tuple[Rows, list[Part], list[Any]]] = deque()
        for rows, parts in chunks:
            waiting.append((rows, parts, [self._submit(router, part) for part in parts]))
            if len(waiting) >= self._most():
                yield self._finished(router, *waiting.popleft())
        while waiting:
            yield self._finished(router, *waiting.popleft())

    def _most(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(_PER_THREAD * threads, 1)

    def _submit(self, router: Router, part: Part) -> Any:
        if part.unit not in self._units:
            (self._units[part.unit],) = self._client.scatter([router.units[part.unit]], broadcast=True, hash=False)
        return self._client.submit(answer, self._units[part.unit], part.rows, pure=False, retries=_ATTEMPTS)

    def _finished(self, router: Router, rows: Rows, parts: list[Part], futures: list[Any]) -> Any:
        """The answers. What was lost with all workers that had it is sent again."""
        distributed: Any = import_module("distributed")
        for attempt in range(_ATTEMPTS):
            try:
                return rows, parts, [future.result() for future in futures]
            except (distributed.CancelledError, distributed.KilledWorker) as error:
                if attempt == _ATTEMPTS - 1:
                    raise MisuseError(
                        f"--dask {self._address}: its workers die: {' '.join(str(error).split())}"
                    ) from None
                self._units.clear()
                futures = [self._submit(router, part) for part in parts]
        raise AssertionError
