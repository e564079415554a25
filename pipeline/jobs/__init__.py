"""The work of an actor."""
