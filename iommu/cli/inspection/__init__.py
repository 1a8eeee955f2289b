"""How `vtd inspect` shows what it found: lines for people, plain data for programs, a page for a browser."""
