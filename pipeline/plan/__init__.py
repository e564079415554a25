"""Planning a run: stages in order, their fingerprints, and units without a bundle."""
