"""A scenario as a file that runs it on a QEMU with nothing installed but Python, fit for a bug report.

recording     platforms that record what a scenario does, in qtest commands and values
script        the recording of a QEMU as qtest commands, with what the model has read beside it
file          the whole file: what departs, QEMU's arguments, the script, and the code that runs it
reproducer    that code
"""

from qemu.vtd.conformance.export.file import export, find
from qemu.vtd.conformance.export.recording import NotExportable

__all__ = ["NotExportable", "export", "find"]
