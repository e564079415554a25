"""Pure functions on a region's pixels: sizes, segments, assignments, known truth."""
