"""The draft tree: its limits, how it grows, and what is verified of it."""
