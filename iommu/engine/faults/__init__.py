"""Fault recording and the events of a unit (spec 7.2, 7.3)."""
