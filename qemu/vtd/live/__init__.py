"""Running QEMUs, ours or a stranger's, seen from outside: registers by QMP, memory by /proc."""
