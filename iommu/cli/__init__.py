"""The `vtd` command."""
