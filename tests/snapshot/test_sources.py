"""Sources of snapshots: a package adds one, with its options, to every command that takes a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from iommu import MisuseError
from iommu.snapshot import Snapshot, save, sources
from iommu.snapshot.sources import Option, opened
from tests import command
from tests.engine.world import mapped


class Vault:
    """A source of our own: `--vault NAME`."""

    options: Sequence[Option] = (Option("--vault", "NAME", "Out of the vault."),)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside = 0

    def open(self, place: Path | None, given: Mapping[str, str]) -> AbstractContextManager[Snapshot] | None:
        return None if place is not None else self.unlocked(given["--vault"])

    @contextmanager
    def unlocked(self, name: str) -> Iterator[Snapshot]:
        self.inside += 1
        try:
            yield Snapshot.open(self.folder / name)
        finally:
            self.inside -= 1


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """The source, beside files and folders."""
    save(mapped().unit, tmp_path / "kept")
    found = Vault(tmp_path)

    class Entry:
        name = "vault"

        def load(self) -> Vault:
            return found

    class Broken(Entry):
        name = "broken"

        def load(self) -> Vault:
            raise ImportError("not today")

    monkeypatch.setattr(sources, "entry_points", lambda group: [Entry(), Broken()] if group == sources.GROUP else [])
    sources.sources.cache_clear()
    yield found
    sources.sources.cache_clear()


def test_a_source_is_open_inside_the_block_only(vault: Vault) -> None:
    with opened(None, {"--vault": "kept"}) as taken:
        assert vault.inside == 1
        assert taken.units
    assert vault.inside == 0
    with pytest.raises(KeyError), opened(None, {"--vault": "kept"}):
        raise KeyError
    assert vault.inside == 0
    with opened(vault.folder / "kept", {}) as taken:
        assert taken.units and vault.inside == 0


def test_what_names_no_snapshot_or_two(vault: Vault) -> None:
    with (
        pytest.raises(MisuseError, match=r"which snapshot\? Give a path, or --vault$"),
        opened(None, {}),
    ):
        pass
    with (
        pytest.raises(MisuseError, match="--vault does not go with somewhere"),
        opened(Path("somewhere"), {"--vault": "kept"}),
    ):
        pass
    with pytest.raises(MisuseError, match="which snapshot"), opened(None, {"--mode": "legacy"}):
        pass


def test_commands_without_a_snapshot_say_what_to_give() -> None:
    done = command.vtd("walk")
    assert done.returncode == 2
    assert done.stderr == b"vtd: which snapshot? Give a path, or --qmp\n"
