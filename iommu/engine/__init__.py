"""The remapping unit (spec chapters 3 to 7), one file per topic."""
