"""A program that runs in the guest and carries out scripts of accesses, left for it in shared RAM.

image      the program, from the ELF beside this file, as firmware; its numbers, by the names in its source
script     a script as an array of operations
agent      hands a script to a running machine and waits for its end
build      makes the ELF from its source again
"""

from qemu.vtd.agent.agent import Agent
from qemu.vtd.agent.image import firmware_with
from qemu.vtd.agent.script import OPERATION, Op, script

__all__ = ["OPERATION", "Agent", "Op", "firmware_with", "script"]
