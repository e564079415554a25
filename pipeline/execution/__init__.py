"""Executing a run: Ray, its actors, the loop over them, signals, and the messages of the run."""
