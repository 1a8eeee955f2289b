"""Where snapshots come from. Commands that take a snapshot take any source.

A file or folder is one source; a package above this one adds others in the entry-point group "vtdlab.snapshots":

    [project.entry-points."vtdlab.snapshots"]
    qemu = "qemu.vtd.live:QEMU"

Each entry point names a Source. Its options are added to every command that takes a snapshot. It is loaded whenever
such a command is defined, `vtd --help` included, so its module must not import anything slow at the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from iommu.errors import MisuseError

if TYPE_CHECKING:
    from iommu.snapshot.snapshot import Snapshot

GROUP = "vtdlab.snapshots"


class Option(NamedTuple):
    """An option of the command line.

    Attributes:
        name: "--qmp".
        metavar: what its value is called in the help; without one, it has no value.
        help: for the help.
    """

    name: str
    metavar: str
    help: str


class Source(Protocol):
    """A source of snapshots."""

    @property
    def options(self) -> Sequence[Option]:
        """The options it has, besides the path."""
        ...

    def open(self, place: Path | None, given: Mapping[str, str]) -> AbstractContextManager[Snapshot] | None:
        """The snapshot; None if what is given names none of this source.

        A running machine stands still until the context is left; the snapshot can be used until then.

        Args:
            place: the path that was given, if one was.
            given: the options that were given, with their values, also those of other sources.

        Raises VtdError or OSError on entering the context for what cannot be read.
        """
        ...


class _Path:
    """A file or a folder."""

    options: Sequence[Option] = (
        Option("--registers", "FILE", "For a core: the register window. FILE@ADDRESS gives its register base."),
        Option("--root-table", "ADDRESS", "For a core, instead: the root table. Capabilities are assumed."),
        Option("--mode", "MODE", "With --root-table: legacy (the default) or scalable."),
    )

    def open(self, place: Path | None, given: Mapping[str, str]) -> AbstractContextManager[Snapshot] | None:
        """See Source."""
        return None if place is None else self._opened(place, given)

    @contextmanager
    def _opened(self, place: Path, given: Mapping[str, str]) -> Iterator[Snapshot]:
        # Slow, and `vtd --help` needs the options only.
        from iommu.snapshot.core import Given  # noqa: PLC0415
        from iommu.snapshot.snapshot import Snapshot  # noqa: PLC0415

        yield Snapshot.open(place, Given(*(given.get(option.name) for option in self.options)))


PATH: Source = _Path()


@cache
def sources() -> tuple[Source, ...]:
    """All sources: those of entry points by name, then files and folders. One that cannot be loaded is left out."""
    found: list[Source] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            found.append(entry.load())
        except Exception:
            continue
    return (*found, PATH)


@contextmanager
def opened(place: Path | None, given: Mapping[str, str]) -> Iterator[Snapshot]:
    """The snapshot that a path and options name, from the source that they name.

    Raises MisuseError if they name none, or more than one; and as Source.open does.
    """
    for source in sources():
        mine = {option.name for option in source.options}
        found = source.open(place, given) if place is not None or mine & given.keys() else None
        if found is None:
            continue
        if strange := sorted(given.keys() - mine):
            raise MisuseError(f"{strange[0]} does not go with {place or sorted(mine & given.keys())[0]}")
        with found as snapshot:
            yield snapshot
        return
    # The first option of a source names its snapshot; those of files and folders only go with a path.
    names = [source.options[0].name for source in sources() if source is not PATH and source.options]
    raise MisuseError(f"which snapshot? Give a path{''.join(f', or {name}' for name in names)}")
