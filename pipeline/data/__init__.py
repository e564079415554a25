"""Data of a run: shards, units, what is committed of them, and their addresses."""
