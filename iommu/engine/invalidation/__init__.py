"""Invalidation by register and by queue (spec 6.5)."""
