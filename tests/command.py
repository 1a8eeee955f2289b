"""`vtd` in the process of the tests: starting Python for each of many commands would take longer than the commands.

test_cli_main.py tests `vtd` as a process of its own, and test_docs.py runs every command of the documentation so.
"""

import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from iommu.cli import main


def vtd(*arguments: str | Path, stdin: bytes = b"") -> CompletedProcess[bytes]:
    """Run `vtd ARGUMENTS`: its exit status, output and errors."""
    words = ["vtd", *map(str, arguments)]
    output, errors = BytesIO(), BytesIO()
    stdout, stderr = (TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in (output, errors))
    with (
        patch.multiple(sys, argv=words, stdin=TextIOWrapper(BytesIO(stdin)), stdout=stdout, stderr=stderr),
        pytest.raises(SystemExit) as left,
    ):
        main.main()
    assert isinstance(left.value.code, int)
    return CompletedProcess(words, left.value.code, output.getvalue(), errors.getvalue())
