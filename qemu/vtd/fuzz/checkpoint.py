"""A campaign as a file: everything that decides how it goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iommu.errors import MisuseError
from iommu.files.documents import Reader, read_json, shown
from iommu.files.writing import write_file
from qemu.vtd.fuzz.case import SETUPS, Found
from qemu.vtd.fuzz.generate import MODES
from qemu.vtd.fuzz.groups import Likeness
from qemu.vtd.fuzz.lane.modes import MODES as FAST_MODES
from qemu.vtd.fuzz.learning import Learning
from qemu.vtd.fuzz.stream import LAG, Group, Stream

NAME = "checkpoint.json"
"""What it is called in the folder of a campaign."""
FORMAT = "vtdlab fuzz campaign 1"
_LARGE = 1 << 62
_WEIGHT = 1 << 16


def write(path: Path, streams: Sequence[Stream]) -> None:
    """Write a checkpoint, which replaces the one before as a whole. Raises OSError, and that one stays."""
    document = {"format": FORMAT, "streams": [_plain(stream) for stream in streams]}
    write_file(path, (json.dumps(document, indent=1) + "\n").encode())


def read(path: Path) -> list[Stream]:
    """The streams of a checkpoint. Raises InputError or MisuseError, which name the file and the place in it."""
    reader = Reader(read_json(path), str(path), {"format", "streams"})
    if reader.text("format") != FORMAT:
        raise MisuseError(f"{path}.format: {shown(reader.text('format'))} is not {FORMAT!r}")
    streams = reader.list("streams")
    if not streams:
        raise MisuseError(f"{path}.streams: there are none")
    return [_parse(each, f"{path}.streams[{number}]") for number, each in enumerate(streams)]


_NUMBERS = ("cases", "size", "seed", "merged", "done", "left_out", "further")


def _plain(stream: Stream) -> dict[str, Any]:
    numbers = {name: getattr(stream, name) for name in _NUMBERS}
    groups = [
        {
            "like": [like.kind, like.where, like.expected, like.seen],
            "count": group.count,
            "steady": group.steady,
            "first": group.first.plain(),
            "smallest": None if group.smallest is None else group.smallest.plain(),
        }
        for like, group in stream.groups.items()
    ]
    return {
        "qemu": stream.qemu,
        "version": stream.version,
        "mode": stream.mode,
        "fast": stream.fast,
        "setups": stream.setups,
        **numbers,
        "freedoms": stream.freedoms,
        "reached": sorted(stream.learning.reached),
        "weights": stream.learning.weights,
        "planned": {str(batch): weights for batch, weights in stream.planned.items()},
        "groups": groups,
    }


def _parse(plain: Any, where: str) -> Stream:
    known = {
        "qemu",
        "version",
        "mode",
        "fast",
        "setups",
        *_NUMBERS,
        "freedoms",
        "reached",
        "weights",
        "planned",
        "groups",
    }
    reader = Reader(plain, where, known)
    mode, fast = reader.text("mode"), _flag(reader, "fast")
    modes = FAST_MODES if fast else MODES
    if mode not in modes:
        raise MisuseError(f"{where}.mode: {shown(mode)} is not one of {', '.join(modes)}")
    setups = _texts(reader, "setups")
    if not setups or not set(setups) <= set(SETUPS):
        raise MisuseError(f"{where}.setups: {shown(setups)} are not all kinds of units")
    numbers: dict[str, Any] = {name: reader.within(name, _LARGE, least=int(name == "size")) for name in _NUMBERS}
    merged, batches = numbers["merged"], -(-numbers["cases"] // numbers["size"])
    if merged > batches:
        raise MisuseError(f"{where}.merged: {merged} batches, of which there are {batches}")
    planned = reader.object("planned")
    batches_planned: dict[int, Mapping[str, int]] = {
        _batch(name, merged, planned.where): _weights(planned, name) for name in planned.plain
    }
    return Stream(
        qemu=reader.text("qemu"),
        version=reader.text("version"),
        mode=mode,
        fast=fast,
        setups=setups,
        **numbers,
        freedoms=Counter(_counts(reader, "freedoms", _LARGE)),
        groups=dict(_group(each, f"{where}.groups[{n}]") for n, each in enumerate(reader.list("groups"))),
        learning=Learning(_texts(reader, "reached"), _weights(reader, "weights"), merged),
        planned=batches_planned,
    )


def _group(plain: Any, where: str) -> tuple[Likeness, Group]:
    reader = Reader(plain, where, {"like", "count", "steady", "first", "smallest"})
    like = _texts(reader, "like")
    if len(like) != 4:
        raise MisuseError(f"{where}.like: {shown(like)} are not 4 texts")
    steady = _flag(reader, "steady")
    smallest = reader.take("smallest")
    group = Group(
        Found.parse(reader.take("first"), f"{where}.first"),
        reader.within("count", _LARGE, least=1),
        None if smallest is None else Found.parse(smallest, f"{where}.smallest"),
        steady,
    )
    return Likeness(*like), group


def _flag(reader: Reader, key: str) -> bool:
    value = reader.take(key)
    if not isinstance(value, bool):
        raise MisuseError(f"{reader.where}.{key}: {shown(value)} is neither true nor false")
    return value


def _texts(reader: Reader, key: str) -> tuple[str, ...]:
    values = reader.list(key)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise MisuseError(f"{reader.where}.{key}[{number}]: {shown(value)} is not a text")
    return tuple(values)


def _counts(reader: Reader, key: str, most: int) -> dict[str, int]:
    counts = reader.object(key)
    return {name: counts.within(name, most) for name in counts.plain}


def _weights(reader: Reader, key: str) -> dict[str, int]:
    return _counts(reader, key, _WEIGHT)


def _batch(name: str, merged: int, where: str) -> int:
    if not name.isdecimal() or not merged <= int(name[:20]) < merged + LAG:
        raise MisuseError(f"{where}: {shown(name)} is not one of the batches {merged} to {merged + LAG - 1}")
    return int(name)
