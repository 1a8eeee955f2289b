"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from iommu.errors import MisuseError


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read (mode 0600), in the place of `path` once the block has succeeded.

    Until then it has another name in the same folder; after an exception it is gone.

    Raises:
        MisuseError: something that is not a file is at `path`.
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise MisuseError(f"{path} is not a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
