"""What the unit caches, how it is tagged and found, and how it is invalidated (spec 6.2)."""
