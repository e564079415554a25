"""A run under way: Ray, its actors, the loop over them, signals, and what it says of itself."""
