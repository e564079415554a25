"""Edits of inverted images: which a run makes, and how they are made."""
