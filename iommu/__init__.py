"""vtdlab: an executable VT-d."""
