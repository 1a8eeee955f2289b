"""Random worlds, compared step by step with a QEMU: what nobody thought of.

actions      what software and devices do in a case, one by one
case         a case: actions on a fresh machine, as a file, and as a scenario of the catalogue
generate/    makes cases, from a seed and a number
model        the engine with a QEMU's quirks, and which of its branches a case has reached
lawful       whether what a QEMU did is one of the outcomes that the architecture leaves open
lanes        how cases get to a QEMU: the interface, and the slow lane, which can do all that a case can
shrink       the smallest case that still shows a difference
groups       differences that are alike
campaign     many cases, in several processes, from a checkpoint on
lane/        the fast lane
"""
