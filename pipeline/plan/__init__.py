"""What is to be done: stages in order, their fingerprints, and units without a bundle."""
