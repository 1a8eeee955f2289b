"""Makes the ELF of the guest-side agent from its source, with GNU as and ld.

python -m tools.agent
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "qemu/vtd/agent"
SOURCE, ELF = FOLDER / "agent.s", FOLDER / "agent.elf"
# The image is the 64 KiB below 4 GiB; the processor starts 16 bytes below its end.
_TEXT, _RESET = 0xFFFF0000, 0xFFFFFFF0


def build(output: Path) -> None:
    """Assemble and link the source into `output`. Raises OSError, CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["as", "--32", "-o", "agent.o", SOURCE], check=True, cwd=folder)
        place = [f"-Ttext={_TEXT:#x}", f"--section-start=.reset={_RESET:#x}"]
        options = ["-m", "elf_i386", "--omagic", "--no-warn-rwx-segments", "--build-id=none", "--entry=start"]
        subprocess.run(["ld", *options, *place, "-o", output, "agent.o"], check=True, cwd=folder)


if __name__ == "__main__":
    build(ELF)
