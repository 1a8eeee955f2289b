"""`vtd` in this process: to start a Python for each of many commands would take longer than all they do.

How it behaves as a process of its own is the business of test_cli_main.py; the documentation's tests run every
command so.
"""

import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from iommu.cli import main


def vtd(*arguments: str | Path, stdin: bytes = b"") -> CompletedProcess[bytes]:
    """Exit status, output and errors of `vtd ARGUMENTS`."""
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
