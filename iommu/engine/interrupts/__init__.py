"""Interrupt remapping and posting (spec chapter 5)."""
