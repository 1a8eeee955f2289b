"""Commands that take a snapshot: a path or the options of any source of snapshots, in front of their own."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from iommu.snapshot.sources import Option, opened, sources

if TYPE_CHECKING:
    from iommu.snapshot import Snapshot

Argument = Annotated[
    Path | None,
    typer.Argument(help="A snapshot: a file, a directory, or a core.", metavar="SNAPSHOT", show_default=False),
]


class Chosen(NamedTuple):
    """What names a snapshot on the command line; see iommu.snapshot.sources."""

    place: Path | None
    given: Mapping[str, str]

    @contextmanager
    def open(self) -> Iterator[Snapshot]:
        """The snapshot. Raises MisuseError if nothing names one, and what its source raises."""
        with opened(self.place, self.given) as snapshot:
            yield snapshot

    @property
    def words(self) -> str:
        """How it is named on a command line."""
        options = [word for name, value in self.given.items() for word in (name, value)]
        return shlex.join([*([] if self.place is None else [str(self.place)]), *options])

    def __bool__(self) -> bool:
        """Whether anything is given."""
        return self.place is not None or bool(self.given)


def takes_snapshot(path: Any = Argument) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose parameter `source` is a Chosen.

    The command has the path in its place, and the options of all sources behind its own parameters. A parameter that
    comes later and has no default is refused by Typer, so `source` stands before those that have one.

    Args:
        path: how the path is declared; by default an argument.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {_parameter(option): option for source in sources() for option in source.options}
        hints = get_type_hints(command, include_extras=True)
        parameters = []
        for parameter in inspect.signature(command).parameters.values():
            annotation = path if parameter.name == "source" else hints[parameter.name]
            default = None if parameter.name == "source" else parameter.default
            parameters.append(parameter.replace(annotation=annotation, default=default))
        for name, option in options.items():
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(name, kind, default=None, annotation=_declared(option)))

        @wraps(command)
        def run(**values: Any) -> None:
            given = {option.name: values.pop(name) for name, option in options.items()}
            chosen = Chosen(values.pop("source"), {name: value for name, value in given.items() if value is not None})
            command(source=chosen, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(option: Option) -> str:
    return option.name.lstrip("-").replace("-", "_")


def _declared(option: Option) -> Any:
    return Annotated[str | None, typer.Option(option.name, metavar=option.metavar, help=option.help)]
